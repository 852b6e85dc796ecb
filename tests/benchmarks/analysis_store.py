"""How long `analysis.load` takes on a store of 30,000 runs: sqlite and local files, cold and from its cache.

    PYTHONPATH=. python tests/benchmarks/analysis_store.py                  # made anew in a temporary folder
    PYTHONPATH=. python tests/benchmarks/analysis_store.py --keep FOLDER    # made there, unless it is there already

The store has one sweep: six tasks, fifty training seeds, eighty cells and twenty components for each, with the params
of real configs, ten episodes a cell and learning curves of ten points. Its rows are written straight into the tables of
MLflow's database, as MLflow itself would take ten minutes. Each load is a process of its own: *cold* has no cache,
*warm* finds the cache of the cold one, *table* builds the comparison table. Printed are seconds of wall and processor,
imports included, and the peak of memory. The last lines are ``RATIO name value``: processor seconds over the aim.
"""

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.units import CellUnit, ComponentUnit, Unit
from mpcwdwm.artifact_names import CURVE, EPISODES, MANIFEST
from mpcwdwm.components import component_config
from mpcwdwm.planning import planner_config
from sweeps.records.fields import parent_tags, plan_record, run_name, unit_metrics, unit_params, unit_tags
from sweeps.records.tracker import Tracker
from tests.support.recorded_sweeps import baseline, component, manifest, mpc, publish_result, task

SWEEP = "large"
TASKS = [task(f"task-{number}") for number in range(6)]
SEEDS = range(50)
CELLS, PARTS = 80, 20  # of a task and seed
NAMES = ("rebrac", "world_model", "reward")
EPISODE_COUNT, POOL = 10, 50  # episodes of a cell; files that differ
POINTS, CURVES = 10, ("loss", "heldout/rmse", "heldout/bias", "eval/normalized_score", "eval/return")
AIMS = {"cold": 60.0, "warm": 10.0}  # seconds on two cores
LOADS = {
    "cold": "import analysis; run = analysis.load('large'); print(run)",
    "warm": "import analysis; run = analysis.load('large'); print(run)",
    "table": "from analysis.table.comparison import build_table; import os\n"
    "print(len(build_table(os.environ['MLFLOW_TRACKING_URI'], 'large').rows), 'rows')",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the store is made, and kept")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start")
    with tempfile.TemporaryDirectory(prefix="mpcwdwm-store-") as own:
        folder = options.keep or Path(own)
        if not (folder / "mlflow.db").exists():
            began = time.perf_counter()
            print(f"{make(folder)} runs made in {time.perf_counter() - began:.0f} s")
        with tempfile.TemporaryDirectory() as cache:
            taken = {name: load(folder, Path(cache), script) for name, script in LOADS.items()}
    for name, aim in AIMS.items():
        print(f"RATIO {name}_over_aim {taken[name] / aim:.3g}")


def load(folder: Path, cache: Path, script: str) -> float:
    """Print what a process takes for a script, and return its processor seconds."""
    environment = {"XDG_CACHE_HOME": str(cache), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, **environment})
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0
    processor = used.ru_utime + used.ru_stime
    wall = time.perf_counter() - began
    print(f"  {wall:.1f} s, {processor:.1f} s of the processor, {used.ru_maxrss / 1e3:.0f} MB", flush=True)
    return processor


# ---------------------------------------------------------------------------------- the sweep


def units() -> tuple[list[ComponentUnit], list[CellUnit]]:
    """Return the components and cells of the sweep."""
    configs = {name: component_config(name, {}, {}).to_dict() for name in NAMES}
    planner = planner_config({"preset": "v1"}).to_dict()
    parts, cells = list[ComponentUnit](), list[CellUnit]()
    for of in TASKS:
        for seed in SEEDS:
            for number in range(PARTS):
                name = NAMES[number % len(NAMES)]
                unit = component(SWEEP, name, seed, of)
                key = f"{unit.key}-{number // len(NAMES)}" if number >= len(NAMES) else unit.key
                parts.append(replace(unit, key=key, config={**configs[name], "steps": 1000 + number}))
            cells.append(baseline(SWEEP, "rebrac", seed, of))
            for number in range(1, CELLS):
                unit = mpc(SWEEP, seed, of, horizon=number)
                cells.append(replace(unit, planner={**planner, **(unit.planner or {})}))
    return parts, cells


# ---------------------------------------------------------------------------------- its store


def make(folder: Path) -> int:
    """Write the store into a folder and return how many runs it has."""
    folder.mkdir(parents=True, exist_ok=True)
    parts, cells = units()
    uri, planned = f"sqlite:///{folder}/mlflow.db", (SWEEP, parts, cells)
    tracker = Tracker(uri, SWEEP)
    tracker.start(plan_record(*planned), f"name: {SWEEP}\n", parent_tags(*planned), TASKS)
    tracker.finish("FINISHED", {})
    files = Files(folder)
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        database.execute("PRAGMA synchronous = OFF")
        parent, experiment = database.execute("select run_uuid, experiment_id from runs").fetchone()
        datasets = {row[0]: row[1] for row in database.execute("select name, dataset_uuid from datasets")}
        rows = {table: list[tuple[Any, ...]]() for table in INSERTS}
        for unit in [*parts, *cells]:
            for table, row in files.rows(unit, parent, experiment, datasets):
                rows[table].append(row)
            if len(rows["tags"]) > 100_000:
                write(database, rows)
        write(database, rows)
        database.commit()
    return len(parts) + len(cells)


INSERTS = {  # MLflow's tables, and how many columns of each are written
    "runs": 14,
    "tags": 3,
    "params": 3,
    "metrics": 6,
    "latest_metrics": 6,
    "inputs": 6,
}


def write(database: sqlite3.Connection, rows: dict[str, list[tuple[Any, ...]]]) -> None:
    for table, columns in INSERTS.items():
        database.executemany(f"insert into {table} values ({', '.join('?' * columns)})", rows[table])
        rows[table].clear()


class Files:
    """Writes the artifacts of runs and returns the rows of their records.

    Args:
        folder: of the store.
    """

    def __init__(self, folder: Path) -> None:
        self._artifacts = folder / "mlartifacts"
        rng = np.random.default_rng(0)
        self._episodes, self._means = list[bytes](), list[dict[str, float]]()
        with tempfile.TemporaryDirectory() as place:
            for number in range(POOL):
                unit = mpc(f"pool{number}", 0)
                published = publish_result(Path(place), unit, list(rng.normal(500.0, 100.0, EPISODE_COUNT)))
                content = json.loads((published / MANIFEST).read_text())
                self._episodes.append((published / EPISODES).read_bytes())
                self._means.append(unit_metrics(unit, content, published))
        steps = np.linspace(100, 1000, POINTS)
        curve = [{"step": float(step), **{name: float(1000 / step) for name in CURVES}} for step in steps]
        self._curve, self._points = json.dumps(curve), curve

    def rows(
        self, unit: Unit, parent: str, experiment: int, datasets: dict[str, str]
    ) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Write a unit's artifacts and yield (table, row) of its record."""
        run, content = uuid.uuid5(uuid.NAMESPACE_URL, unit.key).hex, manifest(unit)
        place = self._artifacts / run / "artifacts"
        place.mkdir(parents=True)
        (place / MANIFEST).write_text(json.dumps(content))
        begin, end = 1_790_000_000_000, 1_790_000_036_000
        own = (unit.task.name, "UNKNOWN", "", "", "unknown", "FINISHED", begin, end, "", "active", place.as_uri())
        yield "runs", (run, run_name(unit), *own[1:], experiment, None)
        for name, text in {**unit_tags(unit, content, SWEEP), "mlflow.parentRunId": parent}.items():
            yield "tags", (name, text, run)
        for name, text in unit_params(unit).items():
            yield "params", (name, text, run)
        if isinstance(unit, CellUnit):
            number = int(run[:8], 16) % POOL
            (place / EPISODES).write_bytes(self._episodes[number])
            points = {name: [(0, value)] for name, value in self._means[number].items()}
        else:
            (place / CURVE).write_text(self._curve)
            points = {name: [(int(point["step"]), point[name]) for point in self._points] for name in CURVES}
            points["seconds"] = [(1000, 36.0)]
            source = datasets[unit.task.name]
            yield "inputs", (uuid.uuid4().hex, "DATASET", source, "RUN", run, 0)
        for name, history in points.items():
            for step, value in history:
                yield "metrics", (name, value, begin + step, run, step, 0)
            step, value = history[-1]
            yield "latest_metrics", (name, value, begin + step, step, 0, run)


if __name__ == "__main__":
    main()
