"""How commands grow with the number of cells: seconds, memory, and the exponent between sizes.

    python tests/benchmarks/growth.py            # 10, 100, 1,000 and 10,000 cells
    python tests/benchmarks/growth.py --quick    # without 10,000

Every command runs as users run it, in a process of its own. The cells compute nothing: what they would publish is
written by hand. Measured are

- `plan`: `sweep plan` with nothing published, what the machine can do known from a plan before;
- `first`: `sweep run` with nothing published, until it draws progress: plan, packs, record of the plan, Ray;
- `status`: `sweep status` with everything published;
- `record`: `sweep run` with everything published, nothing recorded: every unit goes to MLflow, then the table;
- `table`: `table` of the recorded sweep;
- cold plans of large grids: `sweep plan` with an empty cache.

Seconds are those of the processor, the children's included, memory is the peak of the largest process. The exponent
between two sizes is that of the seconds beyond those of the smallest size, which are imports and starts: 1 is linear.
Differences below `NOISE` count as `NOISE`. The last lines are ``RATIO name value``; see docs/benchmarks.md.
"""

import argparse
import itertools
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sweep import TASK, folder, sleeping, sweep_of

from cluster.store import Store, open_store
from cluster.store.files import FOLDERS
from sweeps.plan.plan import build_plan, cell_packs, component_packs
from sweeps.spec.document import write_yaml
from sweeps.spec.spec import Spec

COMMAND = (sys.executable, "-c", "from sweeps.cli import main; main()")
SIZES = (10, 100, 1_000, 10_000)  # the first is what commands take whatever they work on
QUICK = SIZES[:-1]
NOISE = 0.5  # seconds by which two runs of the same command differ
FIRST = "pretrain"  # how the first line of progress begins
HUNDRED = {"horizon": [1, 2, 3, 4, 5], "rollouts": [1, 2, 4, 8], "updates": [1, 2, 3, 4, 5]}
GRIDS = {  # seeds, and what the planner is given
    "3000_cells": (30, HUNDRED),
    "1000_seeds": (1000, {"horizon": 3, "rollouts": 8, "updates": 2}),
    "100000_cells": (1000, HUNDRED),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"up to {QUICK[-1]} cells")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start")
    ratios = [*cold_plans(), *growth(QUICK if options.quick else SIZES)]
    for name, value in ratios:
        print(f"RATIO {name} {value:.3g}")


# ---------------------------------------------------------------------------------- one command


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    wall: float  # seconds
    processor: float  # seconds, with those of the children it waited for
    megabytes: float  # at its peak, of the largest process


def cost(arguments: Sequence[str], place: Path, cache: Path, until: str | None = None) -> Cost:
    """Run a command in a folder; with ``until``, only to the first line on stderr that begins so."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    log = place / "stderr.txt"
    began = time.perf_counter()
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=errors
        )
    while until is not None and not any(line.startswith(until) for line in log.read_text().splitlines()):
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    wall = time.perf_counter() - began
    if until is not None:
        process.send_signal(signal.SIGINT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert until is not None or process.returncode == 0, log.read_text()
    wall = time.perf_counter() - began if until is None else wall
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


# ---------------------------------------------------------------------------------- cold plans


def cold_plans() -> list[tuple[str, float]]:
    """Measure plans of large grids on a machine of which nothing is known."""
    print("\nplans with an empty cache     wall [s]   processor [s]   peak [MB]")
    ratios: list[tuple[str, float]] = []
    for name, (seeds, planner) in GRIDS.items():
        with folder() as place:
            data = {"name": "cold", "tasks": [TASK], "seeds": seeds, "planners": {"mpc": {"kind": "policy", **planner}}}
            (place / "cold.yaml").write_text(write_yaml(data))
            taken = cost(["sweep", "plan", "cold.yaml"], place, place / "cache")
        print(f"{name:<28} {taken.wall:9.1f}   {taken.processor:13.1f}   {taken.megabytes:9.0f}", flush=True)
        ratios += [(f"seconds_of_cold_plan_{name}", taken.processor), (f"mb_of_cold_plan_{name}", taken.megabytes)]
    return ratios


# ---------------------------------------------------------------------------------- growth


def growth(sizes: Sequence[int]) -> list[tuple[str, float]]:
    """Measure every command for sweeps of these sizes."""
    with folder() as cache, folder() as place:
        sweep_of(sizes[0], place)
        cost(["sweep", "plan", "bench.yaml"], place, cache)  # it times what this machine can do, once
        measured = {size: commands(size, cache) for size in sizes}
    ratios: list[tuple[str, float]] = []
    pairs = list(itertools.pairwise(sizes[1:]))
    heads = [f"{size} cells" for size in sizes] + [f"{few} to {many}" for few, many in pairs]
    print("\nprocessor seconds, peak MB    " + "".join(f"{head:>16}" for head in heads))
    for part in measured[sizes[0]]:
        taken = {size: measured[size][part] for size in sizes}
        exponents = [exponent({size: each.processor for size, each in taken.items()}, *pair) for pair in pairs]
        shown = [f"{each.processor:.1f}, {each.megabytes:.0f}" for each in taken.values()]
        print(f"{part:<30}" + "".join(f"{cell:>16}" for cell in [*shown, *(f"{one:.2f}" for one in exponents)]))
        most, each = sizes[-1], taken[sizes[-1]]
        per_cell = (each.processor - taken[sizes[0]].processor) / (most - sizes[0])
        ratios += [(f"growth_exponent_{part}", max(exponents)), (f"seconds_of_{part}_{most}", each.wall)]
        ratios += [(f"ms_per_cell_{part}_{most}", 1000 * per_cell), (f"mb_of_{part}_{most}", each.megabytes)]
    return ratios


def exponent(seconds: dict[int, float], few: int, many: int) -> float:
    """Return p where seconds beyond those of the smallest size grow with the number of cells to the power of p."""
    start = seconds[min(seconds)]
    beyond = [max(NOISE, seconds[size] - start) for size in (few, many)]
    return math.log(beyond[1] / beyond[0]) / math.log(many / few)


def commands(cells: int, cache: Path) -> dict[str, Cost]:
    """Return what each command takes for a sweep of so many cells."""
    with folder() as begun, folder() as place:
        sweep_of(cells, begun)
        spec = sweep_of(cells, place)
        taken = {"plan": cost(["sweep", "plan", "bench.yaml"], place, cache)}
        taken["first"] = cost(["sweep", "run", "bench.yaml"], begun, cache, until=FIRST)
        publish(spec)
        taken["record"] = cost(["sweep", "run", "bench.yaml"], place, cache)
        taken["status"] = cost(["sweep", "status", "bench.yaml"], place, cache)
        taken["table"] = cost(["table", "bench.yaml"], place, cache)
    print(f"{cells} cells: " + ", ".join(f"{part} {each.wall:.1f} s" for part, each in taken.items()), flush=True)
    return taken


def publish(spec: Spec) -> None:
    """Write what all units would publish, without waiting for the disk."""
    store = open_store(spec.storage)
    assert isinstance(store, Store)
    plan, compute = build_plan(spec, store), sleeping(0.0)
    for pack in [*component_packs(plan), *cell_packs(plan)]:
        parent = store.root / FOLDERS[pack.kind]
        for key, write in compute(store, pack, "cpu", 1, lambda _: None).items():
            (parent / key).mkdir(parents=True)
            write(parent / key)


if __name__ == "__main__":
    main()
