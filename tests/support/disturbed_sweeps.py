"""A small sweep as processes of its own, what can be killed of it, and what has to hold once it is done.

Every process it starts, Ray's included, carries a mark in its environment, by which it is found and by which it is
known that none is left.
"""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

from mpcwdwm.data import dataset_path, find_task
from sweeps.spec.document import write_yaml
from tests.support.parts import BUNDLED

__all__ = ["ACTOR", "ENDS_WITHIN", "MARK", "SWEEP", "TRIAL", "Sandbox", "kill", "marked", "wait_for", "wait_for_none"]

ACTOR, TRIAL = "ray::Worker", "ray::ResourceTrainable"  # how Ray titles the processes that pretrain and that evaluate
MARK = "MPCWDWM_TEST_MARK"
GONE_WITHIN = 30.0  # seconds after a driver's end until no process of it is left; Ray's own take some
ENDS_WITHIN = 300.0  # seconds of a run, on a busy machine
POLL = 0.05  # seconds between two looks at the processes: a pack takes some tenths of a second
TIMED = {"ms_per_step", "cpu_hours", "gpu_hours"}  # columns that differ from run to run
COMMAND = Path(sys.executable).parent / "mpcwdwm"
TINY = {"steps": 400, "hidden_dim": 16, "batch_size": 64, "evaluations": 2}
SWEEP = {
    "name": "disturbed",
    "tasks": [{"name": "mine", "dataset": "data.hdf5", "env": "Hopper-v4"}],
    "seeds": 2,
    "components": {
        "rebrac": {**TINY, "eval_episodes": 1},
        "world_model": {**TINY, "denoising_steps": 2},
        "reward": TINY,
    },
    "planners": {"mpc": {"horizon": [1, 2], "rollouts": 2, "updates": 1, "step_size": 1e-5}},
    "baselines": ["rebrac"],
    "evaluation": {"episodes": 2},
    "resources": {"seeds_per_pack": 1},  # more packs, and processes to kill
    "storage": "runs",
    "tracking": {"uri": "sqlite:///runs/mlflow.db"},
}


class Sandbox:
    """A folder with the sweep and its dataset; ``sections`` replace those of the YAML."""

    def __init__(self, folder: Path, **sections: object) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.mark = uuid.uuid4().hex
        (folder / "spec.yaml").write_text(write_yaml({**SWEEP, **sections}))
        shutil.copyfile(dataset_path(find_task(BUNDLED)), folder / "data.hdf5")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a driver."""
        environment = {**os.environ, MARK: self.mark}
        command = [COMMAND, *(arguments or ("sweep", "run", "spec.yaml"))]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True, env=environment
            )

    def log(self) -> str:
        """Return what the drivers have printed."""
        return (self.folder / "log").read_text(errors="replace")

    def finish(self, *arguments: str, code: int = 0) -> None:
        """Run to the end, which has to have this exit code."""
        assert self.start(*arguments).wait(ENDS_WITHIN) == code, self.log()[-3000:]

    def table(self) -> list[dict[str, str]]:
        """Return the rows of the table, without the times that they took."""
        with (self.folder / "runs" / "sweeps" / "disturbed" / "table.csv").open(newline="") as opened:
            return [{k: v for k, v in row.items() if k not in TIMED} for row in csv.DictReader(opened)]

    def recorded(self) -> Counter[str]:
        """Return how many live MLflow runs there are of each key."""
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{self.folder}/runs/mlflow.db")
        experiment = client.get_experiment_by_name("mpcwdwm")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        assert all(run.info.status == "FINISHED" for run in runs)
        return Counter(run.data.tags["mpcwdwm.key"] for run in runs)

    def check_like(self, undisturbed: "Sandbox") -> None:
        """Assert that the sweep has ended as if nothing had happened: table, records, files and processes."""
        assert self.table() == undisturbed.table(), self.log()[-3000:]
        assert set(self.recorded()) >= set(undisturbed.recorded())
        assert set(self.recorded().values()) == {1}
        runs = self.folder / "runs"
        for artifact in [*(runs / "components").iterdir(), *(runs / "results").iterdir()]:
            assert json.loads((artifact / "manifest.json").read_text())["key"] == artifact.name
        assert not list((runs / ".tmp").glob("*")), "temporary names are left"
        wait_for_none(self.mark)


# Processes


def marked(mark: str, title: str = "") -> list[psutil.Process]:
    """Return the living processes with a mark, of those only whose title begins like this; drivers have none."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if not (command := process.cmdline()) or not command[0].startswith(title):
                continue
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_for(mark: str, title: str, driver: subprocess.Popen[bytes], after: float = 0.0) -> bool:
    """Wait until a process with this title has run for ``after`` seconds; False if the driver ends first."""
    while driver.poll() is None:
        if marked(mark, title):
            time.sleep(after)
            return True
        time.sleep(POLL)
    return False


def kill(mark: str, title: str, draw: random.Random, driver: subprocess.Popen[bytes], most: float = 0.5) -> bool:
    """Wait for a process with this title and kill one within ``most`` seconds; False if the driver ends first."""
    while wait_for(mark, title, driver, draw.uniform(0, most)):
        if found := marked(mark, title):
            with suppress(psutil.NoSuchProcess):
                draw.choice(sorted(found, key=lambda process: process.pid)).kill()
                return True
    return False


def wait_for_none(mark: str, title: str = "") -> None:
    """Assert that soon no process with the mark is left."""
    deadline = time.monotonic() + GONE_WITHIN
    while left := marked(mark, title):
        assert time.monotonic() < deadline, f"left running: {[' '.join(process.cmdline())[:120] for process in left]}"
        time.sleep(POLL * 4)
