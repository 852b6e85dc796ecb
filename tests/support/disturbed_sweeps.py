"""A small sweep as processes of its own, what can be killed of it, and what has to hold once it is done.

Every process it starts, Ray's included, carries a mark in its environment, by which it is found and by which it is
known that none is left.
"""

import csv
import io
import os
import random
import shutil
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from cluster.store import Store, open_store
from cluster.units import KINDS
from cluster.work import run_pack
from mpcwdwm.data import dataset_path, find_task
from sweeps.plan.plan import build_plan, cell_packs, component_packs
from sweeps.spec.document import write_yaml
from sweeps.spec.spec import load_spec
from tests.support.parts import BUNDLED

__all__ = [
    "ACTOR",
    "ENDS_WITHIN",
    "MARK",
    "SWEEP",
    "TRIAL",
    "Sandbox",
    "Titles",
    "end_all",
    "kill",
    "marked",
    "wait_for",
    "wait_for_none",
    "wait_until",
]

Titles = tuple[str, ...]
"""Beginnings of the titles of processes."""
ACTOR: Titles = ("ray::Worker",)  # how Ray titles the processes that pretrain
TRIAL: Titles = ("ray::ResourceTrainable", "ray::CellTrial")  # and those that evaluate, while they do and between
MARK = "MPCWDWM_TEST_MARK"
MARKS = set[str]()  # of all sandboxes
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
    """A folder with the sweep and its dataset.

    Args:
        folder: is made.
        environment: variables of its drivers.
        **sections: of the YAML, in place of those of `SWEEP`.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None, **sections: object) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.mark = uuid.uuid4().hex
        MARKS.add(self.mark)
        self.environment = {**(environment or {}), MARK: self.mark}
        document: dict[str, Any] = {**SWEEP, **sections}
        self.storage = document["storage"] if "://" in document["storage"] else str(folder / document["storage"])
        self.tracking = document["tracking"]["uri"].replace("sqlite:///", f"sqlite:///{folder}/")
        (folder / "spec.yaml").write_text(write_yaml(document))
        shutil.copyfile(dataset_path(find_task(BUNDLED)), folder / "data.hdf5")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a driver; ``arguments`` are options of the run."""
        command = [COMMAND, "sweep", "run", "spec.yaml", *arguments]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self.environment},
            )

    def log(self) -> str:
        """Return the end of what the drivers have printed."""
        return (self.folder / "log").read_text(errors="replace")[-5000:]

    def finish(self, *arguments: str) -> None:
        """Run to the end, which has to be a good one."""
        self.ended(self.start(*arguments), 0)

    def compute(self) -> None:
        """Compute all packs one after the other in this process, and have a run record them, which needs no Ray."""
        spec = load_spec(self.folder / "spec.yaml")
        plan = build_plan(spec, self.store())
        for pack in [*component_packs(plan), *cell_packs(plan)]:
            run_pack(spec.storage, pack, device="cpu", threads=1)
        self.finish()

    def ended(self, driver: subprocess.Popen[bytes], *codes: int) -> int:
        """Assert that a driver ends with one of these exit codes, without a traceback, and return the code."""
        try:
            code = driver.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            driver.kill()
            raise AssertionError(f"a driver does not end: {self.log()}") from None
        assert code in codes, self.log()
        assert "Traceback" not in self.log(), self.log()
        return code

    def store(self) -> Store:
        """Return its store, as it is now."""
        return open_store(self.storage)

    def published(self) -> dict[str, set[str]]:
        """Return the keys of what is published, by kind."""
        return {kind: set(self.store().keys(kind)) for kind in KINDS}

    def table(self) -> list[dict[str, str]]:
        """Return the rows of the table, without the times that they took."""
        text = self.store().read_text(f"sweeps/{SWEEP['name']}/table.csv")
        assert text is not None, self.log()
        rows = csv.DictReader(io.StringIO(text))
        return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]

    def weights(self) -> dict[str, str]:
        """Return the hash of every component's weights."""
        manifests = self.store().manifests("component")
        return {key: manifest["files"]["weights.safetensors"]["sha256"] for key, manifest in manifests if manifest}

    def recorded(self) -> Counter[str]:
        """Return how many live MLflow runs there are of each key."""
        from mlflow.tracking import MlflowClient

        client = MlflowClient(self.tracking)
        experiment = client.get_experiment_by_name("mpcwdwm")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        assert all(run.info.status == "FINISHED" for run in runs)
        return Counter(run.data.tags["mpcwdwm.key"] for run in runs)

    def check_like(self, undisturbed: "Sandbox") -> None:
        """Assert that the sweep has ended as if nothing had happened: table, records, files and processes."""
        store = self.store()
        assert self.published() == undisturbed.published()
        assert self.table() == undisturbed.table(), self.log()
        assert self.weights() == undisturbed.weights()  # bit for bit
        assert set(self.recorded()) == set(undisturbed.recorded())
        assert set(self.recorded().values()) == {1}
        faults = {key: store.faults(kind, key) for kind, keys in self.published().items() for key in keys}
        assert not any(faults.values()), faults
        assert (store.work_ids(), store.failed()) == ([], set())
        assert store.names(f"sweeps/{SWEEP['name']}/runs") == [], "reports of runs are left"
        assert not list((store.root / ".tmp").glob("*")), "temporary names are left"
        wait_for_none(self.mark)


# Processes


def marked(mark: str, title: Titles = ("",)) -> list[psutil.Process]:
    """Return the living processes with a mark, of those only whose title begins like this; drivers have none."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if not (command := process.cmdline()) or not command[0].startswith(title):
                continue
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_for(mark: str, title: Titles, driver: subprocess.Popen[bytes], after: float = 0.0) -> bool:
    """Wait until a process with this title has run for ``after`` seconds; False if the driver ends first."""
    while driver.poll() is None:
        if marked(mark, title):
            time.sleep(after)
            return True
        time.sleep(POLL)
    return False


def wait_until(condition: Callable[[], bool], driver: subprocess.Popen[bytes]) -> bool:
    """Wait for a condition; False if the driver ends first."""
    while driver.poll() is None:
        if condition():
            return True
        time.sleep(POLL)
    return False


def kill(mark: str, title: Titles, draw: random.Random, driver: subprocess.Popen[bytes], most: float = 0.5) -> bool:
    """Wait for a process with this title and kill one within ``most`` seconds; False if the driver ends first."""
    while wait_for(mark, title, driver, draw.uniform(0, most)):
        if found := marked(mark, title):
            with suppress(psutil.NoSuchProcess):
                draw.choice(sorted(found, key=lambda process: process.pid)).kill()
                return True
    return False


def end_all() -> None:
    """Kill what is left of all sandboxes, as of a test that failed."""
    for process in [process for mark in MARKS for process in marked(mark)]:
        with suppress(psutil.Error):
            process.kill()


def wait_for_none(mark: str, title: Titles = ("",)) -> None:
    """Assert that soon no process with the mark is left."""
    deadline = time.monotonic() + GONE_WITHIN
    while left := marked(mark, title):
        assert time.monotonic() < deadline, f"left running: {[' '.join(process.cmdline())[:120] for process in left]}"
        time.sleep(POLL * 4)
