"""A sweep as a batch job of Slurm: whole nodes, with a Ray that lives as long as the job.

`ray symmetric-run` (since Ray 2.49) starts Ray on every node, runs the driver on the first one and stops Ray. Before
the time limit Slurm sends USR1 to the script: it stops the driver, which says so to MLflow and leaves checkpoints, and
queues the job again. What Slurm requeues itself (a lost node, a preemption) continues in the same way.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import field_validator, model_validator

from cluster.launch.fields import (
    MOST_CORES,
    MOST_GPUS,
    MOST_NODES,
    AbsolutePath,
    Command,
    Features,
    Partitions,
    SlurmMemory,
    SlurmTime,
    Variables,
    Word,
    exports,
    quoted,
    seconds_of,
)
from mpcwdwm.config import Config, Int, setting
from mpcwdwm.errors import UserError

__all__ = ["SlurmSite", "check_sbatch", "sbatch", "slurm_script"]

ANSWER_SECONDS = 60  # sbatch itself waits minutes for a controller that is not there
MOST_GRACE = 65535  # seconds; sbatch takes no more
WORKER_PORTS = range(10002, 20000)  # where Ray's workers listen


class SlurmSite(Config):
    """``cluster: {slurm: …}``: what a job asks for, and how a node finds this program."""

    nodes: Int = setting(1, "whole nodes of the job", ge=1, le=MOST_NODES)
    cpus_per_node: Int = setting(..., "processor cores that Ray has on each node", ge=1, le=MOST_CORES)
    gpus_per_node: Int = setting(0, "GPUs of each node", ge=0, le=MOST_GPUS)
    gpu_type: Word | None = setting(None, "kind of GPU, as the site calls it; unset: any")
    memory_per_node: SlurmMemory | None = setting(None, "memory of each node, such as 128G; unset: the site's default")
    partition: Partitions | None = setting(None, "partition, or several with commas; unset: the site's default")
    account: Word | None = setting(None, "account that is charged; unset: yours")
    qos: Word | None = setting(None, "quality of service; unset: the site's default")
    constraint: Features | None = setting(None, "features that nodes need to have; unset: none")
    time: SlurmTime | None = setting(None, "time limit, such as 24:00:00; unset: the partition's")
    grace: Int = setting(
        120, "before the time limit the sweep stops and is queued again", unit="s", ge=30, le=MOST_GRACE
    )
    venv: AbsolutePath | None = setting(
        None, "environment with mpcwdwm, on a folder that all nodes see; unset: that of the command"
    )
    setup: list[Command] = setting([], "commands before it, such as `module load cuda`; no shell syntax")
    variables: Variables = setting({}, "environment variables; no credentials")
    port: Int = setting(6379, "of Ray on the first node; not 10002 to 19999, where its workers are", ge=1024, lt=65536)
    start_timeout: Int = setting(600, "how long the first node waits for the others", unit="s", ge=30, le=86400)

    @field_validator("port")
    @classmethod
    def _free(cls, port: int) -> int:
        if port in WORKER_PORTS:
            raise ValueError(f"{port} may be taken by a worker of Ray: not {WORKER_PORTS[0]} to {WORKER_PORTS[-1]}")
        return port

    @model_validator(mode="after")
    def _time_to_work(self) -> "SlurmSite":
        if self.time is not None and seconds_of(self.time) < 2 * self.grace:
            raise ValueError(
                f"time is {self.time} ({seconds_of(self.time)} s), of which the last {self.grace} s are grace:"
                " the job would hardly work before it is queued again; give more time or less grace"
            )
        return self


RESTARTS = 2  # of a job whose Ray did not start: a slow node may be faster next time
SCRIPT = """\
set -eo pipefail
{setup}set -u  # what a site's own scripts do not always bear
export PATH={bin}:"$PATH"  # symmetric-run finds `ray` there
cd -- {folder}

# awk reads to the end; `head -n 1` would end scontrol early, and with it, by pipefail, the job.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | awk 'NR == 1')
address=$(getent ahostsv4 "$head" | awk 'NR == 1 {{print $1}}'):{port}

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
stop() {{ kill -TERM "$(cat -- "$run/pid" 2>/dev/null || echo "${{step:-}}")" || true; }}
trap 'again=1; stop' USR1
trap 'cancelled=1' TERM  # Slurm has sent it to the driver, too, which a second one would kill

export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT={start_timeout} RAY_raylet_start_wait_time_s={start_timeout}
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
srun --kill-on-bad-exit=1 --wait=2 --cpus-per-task={cpus} bash -c "$node" node \\
  --address "$address" --min-nodes {nodes} --num-cpus {cpus} --num-gpus {gpus} \\
  -- bash -c '"$@" & echo $! >"$0/pid"; wait $!; code=$?; echo $code >"$0/code"; exit $code' "$run" \\
  mpcwdwm sweep run --cluster "$address" {arguments} &
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
  echo "Ray did not start on all nodes; attempt $((${{SLURM_RESTART_COUNT:-0}} + 1))" >&2
  code=1
  if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then again=1; fi
fi
if [ -n "$again" ] && [ -z "$cancelled" ] && [ "$code" -ne 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
"""


def slurm_script(site: SlurmSite, name: str, folder: Path, arguments: Sequence[str], header: str = "") -> str:
    """Return the batch script of a sweep.

    Args:
        site: what the YAML says of the cluster.
        name: of the sweep: letters, digits, ``._-``.
        folder: where the command was given; its relative paths count from there.
        arguments: of ``mpcwdwm sweep run``, SPEC included.
        header: lines of comment for the top.
    """
    gpus = ":".join(part for part in (site.gpu_type, str(site.gpus_per_node)) if part)
    asked = {
        "job-name": f"mpcwdwm-{name}",
        "output": f"mpcwdwm-{name}-%j.log",
        "open-mode": "append",
        "nodes": site.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": site.cpus_per_node,
        "gpus-per-node": gpus if site.gpus_per_node else None,
        "mem": site.memory_per_node,
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "time": site.time,
        "signal": f"B:USR1@{site.grace}",
    }
    options = [f"#SBATCH --{option}={value}" for option, value in asked.items() if value is not None]
    body = SCRIPT.format(
        setup="".join(f"{line}\n" for line in [*map(quoted, site.setup), *exports(site.variables)]),
        bin=shlex.quote(f"{site.venv or sys.prefix}/bin"),
        folder=shlex.quote(str(folder)),
        port=site.port,
        start_timeout=site.start_timeout,
        restarts=RESTARTS,
        nodes=site.nodes,
        cpus=site.cpus_per_node,
        gpus=site.gpus_per_node,
        arguments=shlex.join(arguments),
    )
    alone = "#SBATCH --exclusive  # symmetric-run ends by stopping all of your Ray on the node"
    return "\n".join(["#!/bin/bash", *(f"# {line}".rstrip() for line in header.splitlines()), *options, alone]) + (
        f"\n#SBATCH --requeue\n{body}"
    )


def check_sbatch() -> None:
    """Raise UserError unless there is an `sbatch`."""
    if not shutil.which("sbatch"):
        raise UserError("--cluster slurm: there is no `sbatch` here; go to a login node, or see it with --dry-run")


def sbatch(script: str) -> str:
    """Submit a batch script and return the job's number.

    Raises:
        UserError: there is no Slurm here, or it refuses the job or does not answer.
    """
    check_sbatch()
    command = ["sbatch", "--parsable"]
    try:
        ended = subprocess.run(command, input=script, capture_output=True, encoding="utf-8", timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(f"Slurm has not answered in {ANSWER_SECONDS} s: does `sinfo` work here?") from None
    if ended.returncode:
        lines = [re.sub(r"^sbatch: (error|fatal): ", "", line).strip() for line in ended.stderr.splitlines()]
        said = "; ".join(line for line in lines if line)
        if "sbatch: fatal: " in ended.stderr or "nable to contact slurm controller" in said:
            raise UserError(f"Slurm cannot be reached from here: {said}; does `sinfo` work?")
        raise UserError(f"Slurm refused the job: {said}; what it asks for is in `cluster.slurm` of the YAML")
    return ended.stdout.strip().partition(";")[0]
