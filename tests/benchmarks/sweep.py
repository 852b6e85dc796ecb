"""What a sweep costs beside the work itself: starting, trials, records, plan and table.

    python tests/benchmarks/sweep.py

Cells compute nothing (or sleep for a second), everything around them is real: Ray, Tune, the store, MLflow on
sqlite, the table. Measured are

- imports and starts;
- trials: sixty cells of one second on two slots, against the ideal of thirty seconds;
- a whole sweep of a thousand cells that compute nothing, each a computation of its own, from plan to table.

The last lines are ``RATIO name value``; see docs/benchmarks.md for what each means. A sleeping cell takes no
processor, so on a machine that does something else meanwhile all figures are worse than ours are.
"""

import argparse
import io
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy

from rich.console import Console

from analysis.mlflow_store import sweep_key
from analysis.table.comparison import build_table
from analysis.table.summary import cell_gains, sweep_metrics
from cluster.ray import start as ray_cluster
from cluster.store import open_store
from cluster.units import Pack
from sweeps.execution.driver import run
from sweeps.execution.progress import ProgressLines
from sweeps.execution.trials import TrialPool
from sweeps.plan.plan import build_plan, cell_packs
from sweeps.records.tracker import Tracker
from sweeps.spec.document import write_yaml
from sweeps.spec.spec import Spec, load_spec

TASK = "hopper-medium-replay-mini-ppo-v0"  # bundled
SEEDS = 5
EPISODES = 10
MODULES = ("sweeps.cli", "cluster.work", "sweeps.execution.driver", "mlflow", "sweeps.execution.trials", "torch")
START_REPEATS = 3
TRIALS, SECONDS, SLOTS = 60, 1.0, 2
ROUNDS = 3  # thirds of the trials: a median with its spread
WHOLE = 1000  # cells of the whole sweep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start")
    ratios = [*starts(), *trials(), *whole_sweep()]
    for name, value in ratios:
        print(f"RATIO {name} {value:.3g}")


# ---------------------------------------------------------------------------------- cells that compute nothing


def sweep_of(cells: int, folder: Path, **resources: object) -> Spec:
    """Return a sweep of so many cells: a baseline, and a grid of step sizes, five seeds each."""
    points = [float(f"{1e-7 * (number + 1):.4g}") for number in range(cells // SEEDS - 1)]
    data = {
        "name": "bench",
        "tasks": [TASK],
        "seeds": SEEDS,
        "planners": {"mpc": {"horizon": 1, "rollouts": 2, "step_size": points}},
        "baselines": ["rebrac"],
        "evaluation": {"episodes": EPISODES},
        "resources": resources,
    }
    file = folder / "bench.yaml"
    file.write_text(write_yaml(data))
    return load_spec(file)


def sleeping(seconds: float) -> Callable:
    """Return what takes the place of the science: it sleeps, and what it publishes looks real."""

    def compute(store, pack, device, threads, on_progress):  # nested: pickled by value
        import json
        import time
        from dataclasses import asdict

        from cluster.provenance import provenance
        from cluster.work import write_result

        time.sleep(seconds)
        numbers = {"device": device, "threads": threads, "seconds": seconds, "packed_with": list(pack.keys)}
        numbers |= {"obs_dim": 11, "act_dim": 3, "updates_per_second": 1.0, "metrics": {"loss": 1.0}}
        mean = {"return": 4.5, "normalized_score": 4.5, "length": 10.0, "ms_per_step": 1.0}
        numbers |= {"env_steps": 100, "dataset_mean_return": 100.0, "episodes_mean": mean}
        empty = {
            "length": 10,
            "ms_per_step": 1.0,
            "imagined_return": 1.0,
            "fallbacks": 0,
            "adapted_share": 1.0,
            "action_change": 0.1,
        }

        def writer(unit):
            manifest = {**asdict(unit), **numbers, **provenance()}
            rows = [
                {"episode": i, "env_seed": i, "return": float(i), "normalized_score": float(i), **empty}
                for i in range(10)
            ]

            def write(folder):
                if pack.kind == "cell":
                    write_result(folder, rows, manifest)
                    return
                (folder / "manifest.json").write_text(json.dumps(manifest))
                (folder / "curve.json").write_text("[]")

            return write

        return {unit.key: writer(unit) for unit in pack.units}

    return compute


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mpcwdwm-bench-") as name:
        yield Path(name)


def timed(do: Callable[[], object]) -> tuple[float, float]:
    """Return (wall seconds, processor seconds of this process)."""
    wall, processor = time.perf_counter(), time.process_time()
    do()
    return time.perf_counter() - wall, time.process_time() - processor


# ---------------------------------------------------------------------------------- starts


def starts() -> list[tuple[str, float]]:
    """Measure imports in fresh processes, interleaved."""
    times: dict[str, list[float]] = {}
    for _ in range(START_REPEATS):
        for module in MODULES:
            wall, _ = timed(lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True))  # noqa: B023
            times.setdefault(module, []).append(wall)
    print("\nimport in a fresh process [s]   median [min, max]")
    for module, walls in times.items():
        print(f"  {module:<24} {spread(walls)}")
    return []


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):8.2f} [{min(values):.2f}, {max(values):.2f}]"


# ---------------------------------------------------------------------------------- trials


def trials() -> list[tuple[str, float]]:
    """Measure trials of one second, and of nothing."""
    print(f"\ntrials on {SLOTS} slots")
    ray, _ = timed(lambda: ray_cluster.start("local", cpus=SLOTS))
    print(f"  Ray                      {ray:8.2f} s")
    with folder() as place:
        spec = sweep_of(SEEDS * 2 * (TRIALS + SLOTS), place)
        store = open_store(spec.storage)
        packs = iter(cell_packs(build_plan(spec, store)))
        slow = TrialPool(store, compute=sleeping(SECONDS))
        slow.allow(SLOTS)
        ends = drive(slow, [next(packs) for _ in range(SLOTS + TRIALS)])
        actors = ends[SLOTS - 1] - SECONDS
        each = TRIALS // ROUNDS
        marks = ends[SLOTS - 1 :: each]
        rounds = [later - earlier for earlier, later in itertools.pairwise(marks)]
        ideal = each * SECONDS / SLOTS
        print(f"  Tune and its actors      {actors:8.2f} s")
        print(f"  {each} × {SECONDS:g} s               {spread(rounds)} s; ideal {ideal:g}")
        slow.close()
        nothing = TrialPool(store, compute=sleeping(0.0))
        nothing.allow(SLOTS)
        ends = drive(nothing, [next(packs) for _ in range(SLOTS + TRIALS)])
        print(f"  of nothing, per cell     {(ends[-1] - ends[SLOTS - 1]) / TRIALS:8.3f} s")
        nothing.close()
    ray_cluster.stop()
    return [
        ("trials_over_ideal", sum(rounds) / (ideal * ROUNDS)),
        ("trials_with_start_over_ideal", (sum(rounds) + actors) / (ideal * ROUNDS)),
    ]


def drive(evaluation: TrialPool, packs: list[Pack]) -> list[float]:
    """Return when each of these packs ended, in seconds from now."""
    began, ends = time.perf_counter(), list[float]()
    for pack in packs:
        evaluation.submit(pack)
    while len(ends) < len(packs):
        for end in evaluation.poll():
            assert end.error is None, end
            ends.append(time.perf_counter() - began)
        time.sleep(0.01)
    return ends


# ---------------------------------------------------------------------------------- a whole sweep


def whole_sweep() -> list[tuple[str, float]]:
    """Measure a sweep from its YAML to the table; every cell is a computation of its own."""
    with folder() as place:
        console = Console(file=io.StringIO())
        spec = sweep_of(WHOLE, place, seeds_per_pack=1)
        running, processor = timed(lambda: run(spec, lines=ProgressLines(console), compute=sleeping(0.0)))
        tabling, _ = timed(lambda: render(spec))
        amending, more = timed(lambda: amend(spec))
        assert len(open_store(spec.storage).keys("cell")) == WHOLE
    print(f"\na sweep of {WHOLE} cells of nothing")
    print(f"  planned, run, recorded   {running:8.1f} s ({processor:.1f} s of the driver's processor)")
    print(f"  table                    {tabling:8.1f} s")
    print(f"  gains and numbers        {amending:8.1f} s ({more:.1f} s of the processor)")
    return [("seconds_of_1000_cells", running + tabling + amending)]


def render(spec: Spec) -> None:
    table = build_table(spec.tracking_uri, spec.name)
    assert table.to_text(100)
    assert table.to_csv()
    assert table.to_markdown()


def amend(spec: Spec) -> None:
    """Have MLflow show what came out, as `sweep run` does."""
    table = build_table(spec.tracking_uri, spec.name)
    metrics = {sweep_key(spec.name): sweep_metrics(table), **cell_gains(table)}
    assert Tracker(spec.tracking_uri, spec.name).amend(metrics, {"table.csv": table.to_csv()}) == WHOLE - SEEDS + 1


if __name__ == "__main__":
    main()
