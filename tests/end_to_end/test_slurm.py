"""A sweep on a real Slurm with a real Ray: two nodes, requeued in the middle, the table of a run on this machine.

The nodes are in namespaces of their own. Skipped where Slurm is not installed or without root.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.disturbed_sweeps import COMMAND, SWEEP, Sandbox
from tests.support.slurm_cluster import NODES, Slurm, lacking, slurm

pytestmark = [pytest.mark.services, pytest.mark.slow]

PATIENCE = 240.0  # seconds for a job to get somewhere: Ray starts on two nodes at once, here on one machine
RAYS = "raylet|gcs_server|ray::|dashboard|mpcwdwm"  # in the commands of what a job starts
LONGER = {**SWEEP["components"]["world_model"], "steps": 800}  # so that it is stopped in the middle
ON_SLURM = {
    "components": {**SWEEP["components"], "world_model": LONGER},
    "cluster": {"slurm": {"nodes": NODES, "cpus_per_node": 1, "time": "00:30:00", "venv": sys.prefix}},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    if reason := lacking():
        pytest.skip(f"no Slurm here: {reason}")
    with slurm() as running:
        yield running


def wait_for(cluster: Slurm, log: Path, what: str, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        said = log.read_text()[-3000:] if log.exists() else "no log"
        assert time.monotonic() < deadline, f"never {what}:\n{said}\n{cluster.logs()}"
        time.sleep(0.3)


def hosts(artifacts: Path) -> set[str]:
    """The nodes that computed what a folder holds."""
    return {json.loads(path.read_text())["host"] for path in artifacts.glob("*/manifest.json")}


def test_a_job_that_is_requeued_ends_with_the_table_of_a_local_run(
    cluster: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # Slurm hands the environment on
    here, there = Sandbox(tmp_path / "here", **ON_SLURM), Sandbox(tmp_path / "there", **ON_SLURM)
    said = cluster.run(str(COMMAND), "sweep", "run", "spec.yaml", "--cluster", "slurm", cwd=there.folder).stdout
    submitted = re.match(r"submitted as job (\d+); what it prints: (.*)\n", said)
    assert submitted, said
    number, log, runs = submitted[1], Path(submitted[2]), there.folder / "runs"
    wait_for(cluster, log, "trained anything", lambda: bool(hosts(runs / "components")))
    cluster.run("scontrol", "requeue", number)
    wait_for(cluster, log, "stopped", lambda: "stopped; the same command continues" in log.read_text())
    assert not (runs / "sweeps" / "disturbed" / "table.csv").exists()

    here.compute()  # meanwhile
    wait_for(cluster, log, "ended", lambda: cluster.state(number) in ("COMPLETED", "FAILED"))
    shown = cluster.run("scontrol", "show", "job", number).stdout
    assert "JobState=COMPLETED" in shown, log.read_text()[-3000:]
    assert "Restarts=1" in shown
    assert there.table() == here.table()
    assert set(there.recorded()) == set(here.recorded())
    assert hosts(runs / "components") == hosts(runs / "results") == {"node1", "node2"}
    assert not list((cluster.folder / "home" / ".ray").iterdir())  # no token is left
    wait_for(cluster, log, "without a process", lambda: not cluster.run("pgrep", "-f", RAYS, check=False).stdout)
