#!/bin/bash
# One sweep on whole Slurm nodes; Ray lives as long as the job. With `cluster: {slurm: …}` in the YAML, this command
# prints such a script for it, and without --dry-run submits it:
#
#     mpcwdwm sweep run SPEC --cluster slurm --dry-run
#
# The environment with mpcwdwm, the YAML, `storage` and the datasets lie on a file system that all nodes share; for
# leases across nodes it needs flock (Lustre: mount option "flock"; without, heartbeats are used). In the YAML:
# `tracking.uri` of an MLflow server. Submitted again after a failure, the same command continues.
#SBATCH --job-name=mpcwdwm-quickstart
#SBATCH --output=mpcwdwm-quickstart-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --exclusive  # symmetric-run ends by stopping all of your Ray on the node
#SBATCH --requeue
set -eo pipefail
set -u  # what a site's own scripts do not always bear
export PATH=/shared/mpcwdwm/.venv/bin:"$PATH"  # symmetric-run finds `ray` there
cd -- /shared

# awk reads to the end; `head -n 1` would end scontrol early, and with it, by pipefail, the job.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | awk 'NR == 1')
address=$(getent ahostsv4 "$head" | awk 'NR == 1 {print $1}'):6379

# Without a token anybody on the network could run code on these nodes.
umask 077
run="$HOME/.ray/mpcwdwm-$SLURM_JOB_ID"
rm -rf -- "$run" && mkdir -p -- "$run"
trap 'rm -rf -- "$run"' EXIT
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$run/token"
python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH"
umask 022

# Slurm sends USR1 some time before the limit. This script runs on the first node, as the driver does.
again='' cancelled=''
stop() { kill -TERM "$(cat -- "$run/pid" 2>/dev/null || echo "${step:-}")" || true; }
trap 'again=1; stop' USR1
trap 'cancelled=1' TERM  # Slurm has sent it to the driver, too, which a second one would kill

export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600 RAY_raylet_start_wait_time_s=600
export RAY_USAGE_STATS_ENABLED=0 RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0  # nothing is drained at the end
unset RAY_ADDRESS  # it would confuse `ray start`
# A site may not count daemons among a job's processes: a Ray that an earlier job has left is ended first, and one whose
# symmetric-run was killed before it could stop it.
node='
trap : TERM
if pgrep -u "$UID" -x raylet || pgrep -u "$UID" -x gcs_server; then ray stop --force; fi >/dev/null
code=0
ray symmetric-run "$@" || code=$?
if [ "$code" -ge 128 ]; then ray stop --force; fi
exit "$code"'
# The driver's process and exit code are noted; the wait ends workers that linger after it.
srun --kill-on-bad-exit=1 --wait=2 --cpus-per-task=16 bash -c "$node" node \
  --address "$address" --min-nodes 4 --num-cpus 16 --num-gpus 4 \
  -- bash -c '"$@" & echo $! >"$0/pid"; wait $!; code=$?; echo $code >"$0/code"; exit $code' "$run" \
  mpcwdwm sweep run --cluster "$address" -- quickstart.yaml &
step=$!
code=0
wait "$step" || code=$?
while kill -0 "$step" 2>/dev/null; do  # a signal has ended the wait, not the step
  code=0
  wait "$step" || code=$?
done
if [ -s "$run/code" ]; then
  code=$(cat -- "$run/code")
elif [ -n "$cancelled" ]; then
  code=143
else  # symmetric-run ends with 0, too
  echo "Ray did not start on all nodes; attempt $((${SLURM_RESTART_COUNT:-0} + 1))" >&2
  code=1
  if [ "${SLURM_RESTART_COUNT:-0}" -lt 2 ]; then again=1; fi
fi
if [ -n "$again" ] && [ -z "$cancelled" ] && [ "$code" -ne 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
