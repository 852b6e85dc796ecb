"""How many workers one driver keeps busy: real Ray at small sizes, stand-ins at large ones, a simulation beyond.

    python tests/benchmarks/scale.py            # all parts
    python tests/benchmarks/scale.py real       # one of real, limits, records, simulate

- `real`: Ray, Tune and the driver with as many processes as this machine stands; packs sleep.
- `limits`: the same driver with actors that cost nothing (`stand_in_actors.py`), so that it has all it can do: what a
  pack and an event cost it with 64 to 4,000 slots and up to 20,000 packs, and how much memory they leave.
- `records`: units that go to MLflow a second, and the store's operations.
- `simulate`: 100,000 cells on 64 and on 1,000 GPUs, from these costs; checked against `real` and `limits`.

Packs last as long as packs lasted that were measured (`MEASURED`), times a factor. See docs/scale.md.
"""

import argparse
import io
import itertools
import math
import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy

import psutil
from rich.console import Console
from scale_simulation import SEEDS, lasting, simulate_all
from stand_in_actors import Plan, prepare, publish, stand_ins
from sweep import TASK, folder, sleeping, timed

from cluster.packs import begin, finish, missing
from cluster.ray import start as ray_cluster
from cluster.store import open_store
from cluster.store.files import FOLDERS
from cluster.store.lease import hold
from cluster.units import Pack
from sweeps.execution import driver
from sweeps.execution.progress import ProgressLines
from sweeps.plan.plan import build_plan, cell_packs, component_packs
from sweeps.records.fields import plan_record
from sweeps.spec.document import write_yaml
from sweeps.spec.spec import Spec, load_spec

POINTS = 20  # of a grid besides the step size
MOST_POINTS = 10_000  # of a planner's grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"real": real, "limits": limits, "records": records, "simulate": simulate_all}
    parser.add_argument("part", nargs="*", choices=[*parts, []], default=list(parts))
    for part in parser.parse_args().part:
        print(f"\n{part}: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start", flush=True)
        parts[part]()


# ---------------------------------------------------------------------------------- sweeps of packs that last


def spec_in(place: Path, packs: int) -> Spec:
    """Return a sweep of so many packs of cells, five seeds each; its components are published."""
    grid = {"horizon": [1, 2, 3, 4, 5], "rollouts": [1, 2, 4, 8]}
    assert packs % (2 * POINTS) == 0
    grids = math.ceil(packs / MOST_POINTS)
    points = [float(f"{1e-7 * (number + 1):.4g}") for number in range(packs // POINTS // grids)]
    data = {"name": "scale", "tasks": [TASK], "seeds": SEEDS, "baselines": []}
    planners = [{"kind": "policy", "updates": number + 1, **grid, "step_size": points} for number in range(grids)]
    data |= {"planners": {f"mpc{number}": planner for number, planner in enumerate(planners)}}
    (place / "scale.yaml").write_text(write_yaml(data))
    spec = load_spec(place / "scale.yaml")
    store, compute = open_store(spec.storage), sleeping(0.0)
    plan = build_plan(spec, store)
    for pack in component_packs(plan):
        for key, write in compute(store, pack, "cpu", 1, lambda _: None).items():
            (target := store.root / FOLDERS[pack.kind] / key).mkdir(parents=True)
            write(target)
    return spec


def drawn(packs: Sequence[Pack], mean: float) -> dict[str, float]:
    """Return how long each pack lasts, in seconds: as measured, with this mean."""
    return {pack.id: seconds for pack, seconds in zip(packs, lasting(len(packs), mean), strict=True)}


@dataclass(frozen=True)
class Ran:
    """What a run of the driver took."""

    slots: int
    packs: int
    mean: float  # seconds of a pack
    wall: float  # from the first pack's begin to the last one's end
    gap: float  # mean seconds from the end of a pack to the begin of the next in the same process
    processor: Mapping[str, float]  # seconds by thread: main, tune, recorder, rest
    megabytes: float  # by which the process grew while it ran
    events: int = 0  # of Tune
    waiting: float = 4.5e-7  # for each actor, in `ray.wait`

    def __str__(self) -> str:
        each = ", ".join(f"{name} {1000 * seconds / self.packs:.1f}" for name, seconds in self.processor.items())
        return (
            f"{self.slots:5d} slots {self.packs:6d} packs of {self.mean:6.2f} s: {self.wall:7.1f} s"
            f" ({self.packs / self.wall:6.1f} a second), gap {1000 * self.gap:8.1f} ms,"
            f" busy {self.mean / (self.mean + self.gap):.3f};"
            f" processor ms a pack: {each}; {self.events / self.packs:.1f} events; {self.megabytes:.0f} MB more"
        )


class Threads:
    """Counts the processor seconds of this process' threads by name."""

    def __init__(self) -> None:
        self.seconds: dict[int, tuple[str, float]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="sampler", daemon=True)

    def __enter__(self) -> "Threads":
        self._begin, self._process = self._now(), time.process_time()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._process = time.process_time() - self._process

    def by_name(self) -> dict[str, float]:
        found = {"main": 0.0, "tune": 0.0, "recorder": 0.0}
        for thread, (name, seconds) in self.seconds.items():
            own = {"MainThread": "main"}.get(name, name)
            if own in found:
                found[own] += seconds - self._begin.get(thread, (name, 0.0))[1]
        return {**found, "rest": self._process - sum(found.values())}

    def _look(self) -> None:
        while not self._over.wait(0.25):
            self.seconds |= self._now()
        self.seconds |= self._now()

    def _now(self) -> dict[int, tuple[str, float]]:
        tick, found = os.sysconf("SC_CLK_TCK"), dict[int, tuple[str, float]]()
        for thread in threading.enumerate():
            try:
                text = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rsplit(")", 1)[1].split()
            except (OSError, IndexError):
                continue
            found[thread.native_id or 0] = (thread.name, (int(text[11]) + int(text[12])) / tick)
        return found


class NoRecords:
    """In the place of the tracker: what MLflow costs is measured by itself."""

    def __init__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> object:
        return lambda *_, **__: None


@contextmanager
def one_ray(slots: int, processes: bool) -> Iterator[None]:
    """Start Ray with so many processors, or have it say that it has them."""
    ray_cluster.start("local", cpus=slots if processes else 1)
    stop, capacity = ray_cluster.stop, ray_cluster.capacity
    ray_cluster.stop = lambda: None
    if not processes:
        ray_cluster.capacity = lambda *_, **__: slots
    try:
        yield
    finally:
        ray_cluster.stop, ray_cluster.capacity = stop, capacity
        ray_cluster.stop()


def ran(packs: int, mean: float, slots: int, *, records: bool = False, waits: bool = True) -> Ran:
    """Run the driver with stand-in actors; Ray has to run."""
    with folder() as place:
        spec = spec_in(place, packs)
        store = open_store(spec.storage)
        todo = cell_packs(build_plan(spec, store))[:packs]
        seconds = drawn(todo, mean)
        prepare(store, todo)
        tracker = driver.Tracker
        driver.Tracker = tracker if records else NoRecords
        before = psutil.Process().memory_info().rss
        try:
            with Threads() as threads, stand_ins(Plan(store, seconds, waits=waits)) as plan:
                outcome = driver.run(spec, lines=ProgressLines(Console(file=io.StringIO())))
        finally:
            driver.Tracker = tracker
        assert (outcome.evaluated, outcome.failed) == (SEEDS * len(todo), {}), outcome
        grown = (psutil.Process().memory_info().rss - before) / 2**20
    wall, mean = max(plan.ends) - min(plan.begins), statistics.fmean(seconds.values())
    gap = statistics.fmean(plan.gaps)
    return Ran(slots, len(todo), mean, wall, gap, threads.by_name(), grown, plan.events, plan.waiting)


# ---------------------------------------------------------------------------------- real processes


REAL = ((16, 320, 3.0), (32, 320, 6.0))  # slots, packs, mean seconds of a pack


def sleeper(seconds: Mapping[str, float], notes: Path) -> Callable:
    """Return what takes a pack's place: it lasts, notes from when to when and in which process, and publishes."""
    publish, place = sleeping(0.0), str(notes)

    def compute(store, pack, device, threads, on_progress):  # nested: pickled by value
        import os
        import time
        from pathlib import Path

        begin = time.time()
        time.sleep(seconds[pack.id])
        found = publish(store, pack, device, threads, on_progress)
        Path(place, pack.id).write_text(f"{os.getpid()} {begin} {time.time()}")
        return found

    return compute


def real() -> None:
    """Run the driver with real processes; what they publish is theirs, not the driver's."""
    for slots, packs, mean in REAL:
        print(really_ran(slots, packs, mean), flush=True)


def really_ran(slots: int, packs: int, mean: float) -> Ran:
    with folder() as place, one_ray(slots, processes=True):
        spec = spec_in(place, packs)
        todo = cell_packs(build_plan(spec, open_store(spec.storage)))
        seconds = drawn(todo, mean)
        (notes := place / "notes").mkdir()
        before = psutil.Process().memory_info().rss
        with Threads() as threads:
            compute = sleeper(seconds, notes)
            outcome = driver.run(spec, lines=ProgressLines(Console(file=io.StringIO())), compute=compute)
        assert (outcome.evaluated, outcome.failed) == (SEEDS * packs, {}), outcome
        grown = (psutil.Process().memory_info().rss - before) / 2**20
        workers = [p for p in psutil.Process().children(recursive=True) if "CellTrial" in " ".join(p.cmdline())]
        print(f"a worker has {statistics.median([p.memory_full_info().uss for p in workers] or [0]) / 2**20:.0f} MB")
        lines = [note.read_text().split() for note in notes.iterdir()]
    spans = sorted((pid, float(begin), float(end)) for pid, begin, end in lines)
    gaps = [two[1] - one[2] for one, two in itertools.pairwise(spans) if one[0] == two[0]]
    wall = max(span[2] for span in spans) - min(span[1] for span in spans)
    mean = statistics.fmean(seconds.values())
    return Ran(slots, packs, mean, wall, statistics.fmean(gaps), threads.by_name(), grown)


# ---------------------------------------------------------------------------------- as fast as it can


LIMITS = ((64, 2000), (256, 4000), (1000, 4000), (4000, 8000))  # slots, packs


def limits() -> None:
    """Give the driver all it can do: packs that last a second at most are over before it has seen all of them."""
    with one_ray(0, processes=False):
        for slots, packs in LIMITS:
            ray_cluster.capacity = lambda *_, slots=slots, **__: slots
            print(ran(packs, 0.01, slots), flush=True)


# ---------------------------------------------------------------------------------- records and storage


RECORDED = 200  # packs
STORE_PACKS = 20  # whose operations in a store behind a URL are counted


def records() -> None:
    """Print what a unit costs in MLflow, and what a pack costs a store behind a URL."""
    with folder() as place:
        spec = spec_in(place, RECORDED)
        store, plan = open_store(spec.storage), build_plan(spec, open_store(spec.storage))
        prepare(store, todo := cell_packs(plan))
        for pack in todo:
            publish(store, pack)
        tracker = driver.Tracker(spec.tracking_uri, spec.record)
        tracker.start(plan_record(spec.record, plan.components, plan.cells), spec.to_yaml())
        before = file_bytes(place)
        wall, processor = timed(lambda: [tracker.log(cell, store.folder("cell", cell.key)) for cell in plan.cells])
        units = len(plan.cells)
        grown = (file_bytes(place) - before) / units / 1024
        print(
            f"MLflow on sqlite: {1000 * wall / units:.1f} ms a unit, {1000 * processor / units:.1f} of the processor,"
        )
        print(f"  {units / wall:.0f} units a second; {grown:.0f} kB a unit")
        wall, processor = timed(lambda: tracker.sync((cell, lambda: place) for cell in plan.cells))
        print(f"  to see that nothing lacks: {1000 * wall / units:.2f} ms a unit")
    counted = Counter[str]()
    with folder() as place:
        spec = spec_in(place, STORE_PACKS)
        todo = cell_packs(build_plan(spec, open_store(spec.storage)))
        remote = open_store("memory://scale")
        for name in ("info", "cat_file", "pipe_file", "put_file", "get_file", "ls", "find", "rm", "exists", "glob"):
            count(remote._files, name, counted)
        for pack in todo:
            run_in(remote, pack, sleeping(0.0))
    print(f"a pack of {SEEDS} units behind a URL: {sum(counted.values()) / STORE_PACKS:.0f} requests:", end=" ")
    print(", ".join(f"{name} {number / STORE_PACKS:.1f}" for name, number in counted.most_common()))


def file_bytes(place: Path) -> int:
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def count(files: Any, name: str, counted: Counter[str]) -> None:
    """Have calls of a file system's method counted."""
    method = getattr(files, name)

    def counting(*arguments: Any, **options: Any) -> Any:
        counted[name] += 1
        return method(*arguments, **options)

    setattr(files, name, counting)


def run_in(store: Any, pack: Pack, compute: Callable) -> None:
    """Do what `cluster.work.run_pack` does with a store, without waiting for a heartbeat that nobody contests."""
    missing(store, pack)
    with hold(store, pack.id, wait=True):
        finish(store, pack)
        begin(store, pack)
        writers = compute(store, pack, "cpu", 1, lambda _: None)
        for key in pack.keys:
            store.clear_failure(key)
        for key in pack.keys:
            store.publish(pack.kind, key, writers[key])
        finish(store, pack)


if __name__ == "__main__":
    main()
