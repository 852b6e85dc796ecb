"""The batch script on a real Slurm of two nodes, with stand-ins for Ray and the driver: signals, requeue, exit codes.

The nodes are on this machine, in namespaces of their own. Skipped where Slurm is not installed or without root.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.launch.slurm import SlurmSite, slurm_script
from tests.support.shells import stand_in
from tests.support.slurm_cluster import Slurm, lacking, slurm

pytestmark = [pytest.mark.services, pytest.mark.slow]

PATIENCE = 90.0  # seconds for a job to get somewhere
# On the first node Ray runs the driver; the other lingers, as Ray's workers do for a minute after the end.
RAY = """\
if [ "$1" = stop ]; then exit 0; fi
while [ "$1" != --address ]; do shift; done
echo "GPUs $CUDA_VISIBLE_DEVICES; ray on $(hostname): $*"
if [ "$(hostname)" != node1 ]; then exec sleep 60; fi
while [ "$1" != -- ]; do shift; done
shift
"$@"
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    if reason := lacking():
        pytest.skip(f"no Slurm here: {reason}")
    with slurm() as running:
        yield running


def submit(cluster: Slurm, folder: Path, driver: str) -> tuple[str, Path]:
    """Submit a job with this driver; return its number and its log."""
    (folder / "venv" / "bin").mkdir(parents=True)
    stand_in(folder / "venv" / "bin", "ray", RAY)
    stand_in(folder / "venv" / "bin", "mpcwdwm", driver)
    (folder / "venv" / "bin" / "python").symlink_to(sys.executable)
    size = {"nodes": 2, "cpus_per_node": 1, "gpus_per_node": 2}
    site = SlurmSite(**size, time="00:10:00", venv=str(folder / "venv"), partition="all")
    (folder / "job.sh").write_text(slurm_script(site, "trial", folder, ["--seeds=0", "--", "a b.yaml"]))
    number = cluster.run("sbatch", "--parsable", f"{folder}/job.sh", cwd=folder).stdout.strip()
    return number, folder / f"mpcwdwm-trial-{number}.log"


def wait_for(cluster: Slurm, log: Path, what: str, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        said = log.read_text()[-3000:] if log.exists() else "no log"
        assert time.monotonic() < deadline, f"never {what}:\n{said}\n{cluster.logs()}"
        time.sleep(0.3)


def has_said(log: Path, text: str) -> Callable[[], bool]:
    return lambda: log.exists() and text in log.read_text()


def test_a_job_is_stopped_as_before_its_time_limit_queued_again_and_finished(cluster: Slurm, tmp_path: Path) -> None:
    stopped = "trap 'echo stopping; exit 130' TERM; for i in {1..600}; do sleep 0.1; done"
    number, log = submit(
        cluster, tmp_path, f'echo "driver $*"\nif [ "${{SLURM_RESTART_COUNT:-0}}" -gt 0 ]; then exit 0; fi\n{stopped}'
    )
    wait_for(cluster, log, "begun", has_said(log, "driver "))
    wait_for(cluster, log, "on both nodes", has_said(log, "ray on node2"))
    said = log.read_text()
    assert "driver sweep run --cluster 10.77.0.11:6379 --seeds=0 -- a b.yaml\n" in said
    for node in ("node1", "node2"):
        assert f"GPUs 0,1; ray on {node}: --address 10.77.0.11:6379 --min-nodes 2 --num-cpus 1 --num-gpus 2 --" in said
    assert len(list((cluster.folder / "home" / ".ray").iterdir())) == 1
    cluster.run("scancel", "--batch", "--signal=USR1", number)  # what Slurm does before the time limit
    wait_for(cluster, log, "stopped", has_said(log, "stopping"))
    wait_for(cluster, log, "ended", lambda: cluster.state(number) in ("COMPLETED", "FAILED"))
    shown = cluster.run("scontrol", "show", "job", number).stdout
    assert "JobState=COMPLETED" in shown, log.read_text()
    assert "Restarts=1" in shown
    assert "ExitCode=0:0" in shown
    assert log.read_text().count("driver sweep run") == 2
    assert not list((cluster.folder / "home" / ".ray").iterdir())  # no token is left


def test_the_jobs_exit_code_is_the_drivers_and_failed_cells_do_not_queue_it_again(
    cluster: Slurm, tmp_path: Path
) -> None:
    number, log = submit(cluster, tmp_path, "echo driver; exit 1")
    wait_for(cluster, log, "ended", lambda: cluster.state(number) in ("COMPLETED", "FAILED"))
    shown = cluster.run("scontrol", "show", "job", number).stdout
    assert "JobState=FAILED" in shown
    assert "ExitCode=1:0" in shown
    assert "Restarts=0" in shown


def test_a_cancelled_job_stays_cancelled(cluster: Slurm, tmp_path: Path) -> None:
    number, log = submit(cluster, tmp_path, "echo driver; for i in {1..600}; do sleep 0.1; done")
    wait_for(cluster, log, "begun", has_said(log, "driver"))
    cluster.run("scancel", number)
    wait_for(cluster, log, "ended", lambda: cluster.state(number) == "CANCELLED")
    time.sleep(3)  # longer than Slurm takes to schedule
    assert cluster.state(number) == "CANCELLED"
