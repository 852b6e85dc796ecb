#!/bin/bash
# One sweep on whole Slurm nodes; Ray lives as long as the job.
#
#   sbatch cluster/launch/slurm.sh /shared/SPEC.yaml [more of `mpcwdwm sweep run`'s options]
#
# The environment with mpcwdwm, the spec, `storage` and the datasets lie on a file system all nodes share;
# for leases across nodes it needs flock (Lustre: mount option "flock"; without, heartbeats are used).
# In the spec: `tracking.uri` of an MLflow server, or of SQLite on this node's own disk.
# Sent again after a time limit or a failure, the same command continues.
#SBATCH --job-name=mpcwdwm
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive            # `ray symmetric-run` ends by stopping all of your Ray on the node
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

spec=${1:?usage: sbatch slurm.sh SPEC [options]}
shift
source "${MPCWDWM_VENV:-$HOME/mpcwdwm/.venv}/bin/activate" # symmetric-run finds `ray` through PATH

# awk reads to the end; `head -n 1` would end scontrol early, and with it, by pipefail, the job.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | awk 'NR == 1')
address=$(getent ahostsv4 "$head" | awk 'NR == 1 {print $1}'):6379

# Without a token anybody on the network could run code on these nodes.
umask 077
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.ray/mpcwdwm-$SLURM_JOB_ID"
mkdir -p "$HOME/.ray"
python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH"
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT
umask 022

# RAY_ADDRESS only for the driver: set for `ray start` it would confuse it.
srun --kill-on-bad-exit=1 ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" \
  -- env RAY_ADDRESS="$address" mpcwdwm sweep run "$spec" "$@"
