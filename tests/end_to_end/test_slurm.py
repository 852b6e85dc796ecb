"""A sweep on a real Slurm: submitted, stopped in the middle as before a time limit, requeued, finished.

Two nodes on this machine, in namespaces of their own. Skipped where Slurm is not installed or without root.
"""

import csv
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.slurm_cluster import Slurm, lacking, slurm

pytestmark = [pytest.mark.services, pytest.mark.slow]

BIN = Path(sys.executable).parent
TIMED = {"ms_per_step", "cpu_hours", "gpu_hours"}  # columns that differ from run to run
PATIENCE = 240.0  # seconds for a job to get somewhere; Ray starts on two nodes at once, twice
SPEC = f"""
name: queued
tasks: [hopper-medium-replay-mini-ppo-v0]
seeds: 2
components:
  rebrac: {{steps: 400, hidden_dim: 16, batch_size: 64, evaluations: 2, eval_episodes: 1}}
  bc: {{steps: 200, hidden_dim: 16, batch_size: 64, evaluations: 2, eval_episodes: 1}}
  world_model: {{steps: 200, hidden_dim: 16, batch_size: 64, denoising_steps: 2, evaluations: 2}}
  reward: {{steps: 200, hidden_dim: 16, batch_size: 64, evaluations: 2}}
planners:
  mpc: {{horizon: [1, 2], rollouts: 2, updates: 1, step_size: 1e-5}}
baselines: [rebrac, bc]
evaluation: {{episodes: 2}}
cluster:
  slurm: {{nodes: 2, cpus_per_node: 1, time: "00:30:00", venv: {BIN.parent}}}
storage: runs
tracking: {{uri: "sqlite:///runs/mlflow.db"}}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    if reason := lacking():
        pytest.skip(f"no Slurm here: {reason}")
    with slurm() as running:
        yield running


@pytest.fixture(autouse=True)
def _this_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # Slurm hands the environment on


def prepare(folder: Path) -> Path:
    folder.mkdir()
    (folder / "queued.yaml").write_text(SPEC)
    return folder


def table_without_times(folder: Path) -> list[tuple[tuple[str, str], ...]]:
    with (folder / "runs" / "sweeps" / "queued" / "table.csv").open(newline="") as file:
        return [tuple((k, v) for k, v in row.items() if k not in TIMED) for row in csv.DictReader(file)]


def wait_for(cluster: Slurm, log: Path, what: str, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        said = log.read_text()[-3000:] if log.exists() else "no log"
        assert time.monotonic() < deadline, f"never {what}:\n{said}\n{cluster.logs()}"
        time.sleep(0.5)


def test_a_stopped_job_is_queued_again_and_ends_with_the_table_of_a_local_run(cluster: Slurm, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "slurm")
    submitted = cluster.run(str(BIN / "mpcwdwm"), "sweep", "run", "queued.yaml", "--cluster", "slurm", cwd=folder)
    job = re.match(r"submitted as job (\d+); what it prints: (.*)\n", submitted.stdout)
    assert job, submitted
    number, log = job[1], Path(job[2])
    components = folder / "runs" / "components"

    wait_for(cluster, log, "trained anything", lambda: components.exists() and any(components.iterdir()))
    cluster.run("scancel", "--batch", "--signal=USR1", number)  # what Slurm does before the time limit
    begun_again = "stopped; the same command continues from here"
    wait_for(cluster, log, "stopped", lambda: begun_again in log.read_text())
    assert not (folder / "runs" / "sweeps" / "queued" / "table.csv").exists()

    wait_for(cluster, log, "ended", lambda: cluster.state(number) in ("COMPLETED", "FAILED"))
    assert cluster.state(number) == "COMPLETED", log.read_text()[-3000:]
    shown = cluster.run("scontrol", "show", "job", number).stdout
    assert "Restarts=0" not in shown
    assert "ExitCode=0:0" in shown
    assert not list((cluster.folder / "home" / ".ray").iterdir())  # no token is left
    assert cluster.run("pgrep", "-c", "raylet", check=False).stdout.strip() == "0"

    here = prepare(tmp_path / "here")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [BIN / "mpcwdwm", "sweep", "run", "queued.yaml", "--cluster", "local"]
    subprocess.run(command, cwd=here, env=environment, check=True, capture_output=True, timeout=PATIENCE)
    assert table_without_times(folder) == table_without_times(here)
