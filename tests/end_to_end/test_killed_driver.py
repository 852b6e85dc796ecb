"""`kill -9` of the driver at seeded moments, then the same command: the result is that of an undisturbed run.

By default a few moments; ``MPCWDWM_KILLS=20`` for the long version.
"""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("MPCWDWM_KILLS", "2"))
TIMED = {"ms_per_step", "cpu_hours", "gpu_hours"}  # columns that differ from run to run
COMMAND = Path(sys.executable).parent / "mpcwdwm"
SPEC = """
name: killed
tasks: [hopper-medium-replay-mini-ppo-v0]
seeds: 2
components:
  rebrac: {steps: 300, hidden_dim: 16, batch_size: 64, evaluations: 2, eval_episodes: 1}
  bc: {steps: 200, hidden_dim: 16, batch_size: 64, evaluations: 2, eval_episodes: 1}
  world_model: {steps: 200, hidden_dim: 16, batch_size: 64, denoising_steps: 2, evaluations: 2}
  reward: {steps: 200, hidden_dim: 16, batch_size: 64, evaluations: 2}
planners:
  mpc: {horizon: [1, 2], rollouts: 2, updates: 1, step_size: 1e-5}
baselines: [rebrac, bc]
evaluation: {episodes: 2}
storage: runs
tracking: {uri: "sqlite:///runs/mlflow.db"}
"""


def start(folder: Path) -> subprocess.Popen:
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [COMMAND, "sweep", "run", "spec.yaml"], cwd=folder, stdout=log, stderr=log, start_new_session=True
        )


def finish(folder: Path) -> float:
    """Run to the end and return the seconds it took."""
    began = time.monotonic()
    process = start(folder)
    assert process.wait(timeout=300) == 0, (folder / "log").read_text()[-3000:]
    return time.monotonic() - began


def prepare(folder: Path) -> Path:
    folder.mkdir()
    (folder / "spec.yaml").write_text(SPEC)
    return folder


def table_without_times(folder: Path) -> list[tuple[tuple[str, str], ...]]:
    with (folder / "runs" / "sweeps" / "killed" / "table.csv").open(newline="") as file:
        return [tuple((k, v) for k, v in row.items() if k not in TIMED) for row in csv.DictReader(file)]


def recorded(folder: Path) -> Counter:
    """How many live MLflow runs there are of each key."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("mpcwdwm")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert all(run.info.status == "FINISHED" for run in runs)
    return Counter(run.data.tags["mpcwdwm.key"] for run in runs)


def check_whole(folder: Path) -> None:
    """Nothing half-written: every artifact complete and readable, no work and no temporary names left."""
    from safetensors.torch import load_file

    runs = folder / "runs"
    for artifact in (runs / "components").iterdir():
        assert json.loads((artifact / "manifest.json").read_text())["key"] == artifact.name
        json.loads((artifact / "curve.json").read_text())
        assert load_file(artifact / "weights.safetensors")
    for result in (runs / "results").iterdir():
        assert json.loads((result / "manifest.json").read_text())["key"] == result.name
        assert (result / "episodes.parquet").stat().st_size > 0
    assert not list((runs / "work").glob("*")) if (runs / "work").exists() else True
    assert not list((runs / ".tmp").glob("*")) if (runs / ".tmp").exists() else True


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = prepare(tmp_path_factory.mktemp("killed") / "undisturbed")
    return folder, finish(folder)


def test_a_second_run_finds_everything_done(undisturbed):
    folder, first = undisturbed
    before = table_without_times(folder)
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "runs" / "components").rglob("*")}
    assert finish(folder) < min(30, first)
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs" / "components").rglob("*")} == stamps
    assert table_without_times(folder) == before
    check_whole(folder)


@pytest.mark.parametrize("moment", range(KILLS))
def test_a_killed_sweep_continues_to_the_same_table(moment, undisturbed, tmp_path):
    reference, seconds = undisturbed
    draw = random.Random(f"kill {moment}")
    # one moment in each equal share of the run, so that every phase is hit whatever the number of kills
    after = seconds * (moment + draw.random()) / KILLS
    folder = prepare(tmp_path / "killed")
    process = start(folder)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finish(folder)
    assert table_without_times(folder) == table_without_times(reference), f"killed after {after:.1f} s"
    assert recorded(folder) == recorded(reference)
    assert set(recorded(folder).values()) == {1}
    check_whole(folder)
