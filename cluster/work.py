"""Running one pack: train or evaluate its units stacked, publish what is missing.

This runs inside a Ray actor or a trial; without Ray it can be called directly. It is idempotent:
called again, by any process, it does only what is not published yet.
"""

import json
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from statistics import fmean
from threading import Event
from typing import TYPE_CHECKING, Any

from cluster import packs
from cluster.checkpoints import copied, latest_checkpoint
from cluster.failures import alike, is_of_the_machine, is_out_of_memory
from cluster.memory import Memory, PeakMemory
from cluster.provenance import provenance
from cluster.store import StorageError, Store, Writer, open_store
from cluster.store.lease import hold
from cluster.units import CellUnit, ComponentUnit, Pack, TaskRef
from mpcwdwm.artifact_names import EPISODES, MANIFEST, STEPS
from mpcwdwm.errors import Interrupted, UserError, without_passwords
from mpcwdwm.nn.memory import return_freed_memory

# The science modules are imported by the functions that compute: a driver that only schedules work
# need not load torch, and a worker on which it cannot be loaded reports that like any other error.
if TYPE_CHECKING:
    from mpcwdwm.data import Dataset
    from mpcwdwm.evaluation.trace import Steps

__all__ = [
    "Compute",
    "PackFailure",
    "PackResult",
    "Progress",
    "attempt_pack",
    "compute_pack",
    "error_line",
    "record_failures",
    "run_pack",
]

MEANS = ("return", "normalized_score", "length", "ms_per_step", "evaluations_per_step", "adapted_share")
PACKAGES = [Path(__file__).parents[1] / name for name in ("mpcwdwm", "cluster", "sweeps")]  # our code

Progress = Callable[[float], None]
"""Told how much of the work is done, from 0 to 1."""
Compute = Callable[[Store, Pack, str, int, Progress], dict[str, Writer]]
"""Computes all units of a pack (store, pack, device, threads, progress); key → what writes its artifact."""


@dataclass(frozen=True)
class PackResult:
    """What running a pack did."""

    keys: tuple[str, ...]  # what this call published
    seconds: float  # wall time, waiting for the lease not counted
    skipped: bool  # everything was published already
    memory: Memory | None = None  # at the peak; None if nothing was computed


@dataclass(frozen=True)
class PackFailure:
    """Why a pack failed: one line, and the place of the traceback."""

    error: str
    log: str
    hopeless: bool = False  # an error of the user's input: trying again will not help
    of_the_machine: bool = False  # or of the storage: it may be gone the next time
    out_of_memory: bool = False  # with more of it, it may succeed
    lost: bool = False  # its process ended with its node, or was told to end: nothing that the pack did


# Running


def run_pack(
    store_location: str,
    pack: Pack,
    *,
    device: str,
    threads: int,
    on_progress: Progress | None = None,
    on_wait: Callable[[str], None] | None = None,
    compute: Compute | None = None,
    stop: Event | None = None,
) -> PackResult:
    """Train or evaluate a pack and publish each of its units that is missing.

    Args:
        store_location: what `cluster.store.open_store` takes.
        pack: units that differ in nothing but the seed.
        device: "cpu", "cuda", or "cuda:1".
        threads: CPU threads for one operation.
        on_progress: told the part that is done, 0 to 1.
        on_wait: told who holds the lease, if it has to be waited for.
        compute: what computes a pack, `compute_pack` by default.
        stop: set from outside to have the pack saved and left.

    Raises:
        Interrupted: it was.
    """
    store = open_store(store_location)
    if not packs.missing(store, pack):
        return PackResult((), 0.0, skipped=True)
    with hold(store, pack.id, wait=True, on_wait=on_wait, stop=stop) as lease:
        # The previous holder has probably published all or part of it.
        if packs.finish(store, pack):
            return PackResult((), 0.0, skipped=True)
        started = time.monotonic()
        packs.begin(store, pack)

        def report(fraction: float) -> None:
            lease.check()  # if it is lost, another process does the work
            if stop and stop.is_set():
                raise Interrupted(f"{pack.id} is left at {fraction:.0%}")
            if on_progress:
                on_progress(fraction)

        peak = PeakMemory(device)
        writers = (compute or compute_pack)(store, pack, device, threads, report)
        lease.check()
        for key in pack.keys:
            store.clear_failure(key)  # before: killed between the two, a published unit has no failure
        published = tuple(key for key in pack.keys if store.publish(pack.kind, key, writers[key]))
        packs.finish(store, pack)
    return PackResult(published, time.monotonic() - started, skipped=False, memory=peak.so_far())


def attempt_pack(store_location: str, pack: Pack, **options: Any) -> PackResult | PackFailure:
    """Run a pack like `run_pack`; an error comes back as one line, its traceback goes to the pack's log."""
    try:
        return run_pack(store_location, pack, **options)
    except Interrupted as error:
        return PackFailure(str(error), "", of_the_machine=True, lost=True)
    except Exception as error:
        log = _logged(store_location, pack, traceback.format_exc())
        hopeless = isinstance(error, UserError) and not isinstance(error, StorageError)
        return PackFailure(
            error_line(error),
            log,
            hopeless,
            of_the_machine=not hopeless and is_of_the_machine(error),
            out_of_memory=is_out_of_memory(error),
        )
    finally:
        return_freed_memory()  # the next pack of this process has other sizes


def _logged(store_location: str, pack: Pack, entry: str) -> str:
    """Append an entry to a pack's log and return its place; on storage that is full or gone there is none."""
    try:
        return open_store(store_location).append_log(pack.id, without_passwords(entry))
    except OSError as error:
        return f"none: {error}"


def record_failures(store: Store, pack: Pack, failure: PackFailure, tries: int = 1) -> None:
    """Note the failure of every unit of a pack that is still missing, after the last try.

    ``tries`` is how many in a row ended for this reason in this run; those of earlier runs are added. Storage that is
    full or gone keeps no record: the next run tries again all the same.
    """
    with suppress(OSError):
        for key in packs.missing(store, pack):
            before = store.failure(key) or {}
            earlier = before.get("tries", 0) if alike(before.get("error", ""), failure.error) else 0
            store.record_failure(key, failure.error, failure.log, 0 if failure.of_the_machine else tries + earlier)


def error_line(error: BaseException) -> str:
    """Return an error as one line: its message, and for all but the user's errors type and place."""
    message = without_passwords(" ".join(str(error).split())) or "no message"
    if isinstance(error, UserError):
        return message
    if type(error).__name__ == "OutOfMemoryError":  # torch's; what it could allocate is capped by the share of a GPU
        share = "resources.actor.gpus or resources.trial.gpus, or fewer seeds in resources.seeds_per_pack"
        return f"{'. '.join(message.split('. ')[:2])}: the process needs a larger share of a GPU ({share})"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if any(Path(frame.filename).is_relative_to(package) for package in PACKAGES)]
    where = (ours or frames)[-1:]
    place = f" (at {'/'.join(Path(where[0].filename).parts[-2:])}:{where[0].lineno})" if where else ""
    return f"{type(error).__name__}: {message}{place}"


# Computing


def compute_pack(store: Store, pack: Pack, device: str, threads: int, on_progress: Progress) -> dict[str, Writer]:
    """Compute all units of a pack and return what writes each unit's artifact.

    Units that are published already are computed, too: the units of a pack affect each other's
    numbers in the last bits, so its composition is kept (see `cluster.packs`).
    """
    import torch

    torch.set_num_threads(threads)
    facts = {"device": device, "threads": threads}
    if pack.kind == "component":
        return _train(store, pack, facts, on_progress)
    return _evaluate(store, pack, facts, on_progress)


def _train(store: Store, pack: Pack, facts: dict[str, Any], on_progress: Progress) -> dict[str, Writer]:
    """Train a pack of components, seeds stacked."""
    from mpcwdwm.components import component_config, load_component
    from mpcwdwm.components.artifact import write_artifact
    from mpcwdwm.envs.termination import RULES
    from mpcwdwm.nn.compute_config import ComputeConfig
    from mpcwdwm.training.loop import train

    units = [unit for unit in pack.units if isinstance(unit, ComponentUnit)]
    unit = units[0]  # the others differ in the seed alone
    folders = {name: [store.sound_folder("component", each.parts[name]) for each in units] for name in unit.parts}
    checkpoint = latest_checkpoint(store, pack.id)
    with copied(store, pack.id, checkpoint) as look:
        pace = _Pace(on_progress, look)
        trained = train(
            unit.component,
            component_config(unit.component, {}, unit.config),
            _dataset(unit.task),
            pack.seeds,
            bases={name: load_component(own) for name, own in folders.items()},
            termination=RULES[unit.task.termination] if unit.task.termination else None,
            goal_reward=unit.task.goal_reward,
            device=facts["device"],
            checkpoint=checkpoint,
            env_id=unit.task.env_id,
            env_kwargs=unit.task.env_kwargs,
            max_episode_steps=unit.task.max_episode_steps,
            reference=unit.task.reference,
            on_progress=pace,
            compute=ComputeConfig(**pack.compute),
        )
    steps = int(unit.config["steps"])
    measured = {
        # This unit's share of the pack's time, so that hours can be summed over units.
        "seconds": round(steps / pace.per_second(steps) / len(units), 3),
        "updates_per_second": round(pace.per_second(steps), 3),  # of the stacked pack
    }
    writers: dict[str, Writer] = {}
    for unit, part in zip(units, trained, strict=True):
        manifest = {
            **part.facts,
            **asdict(unit),
            "kind": "component",
            **facts,
            **measured,
            "packed_with": list(pack.keys),
            **provenance(),
        }
        writers[unit.key] = partial(write_artifact, tensors=part.tensors, manifest=manifest, curve=part.curve)
    return writers


def _evaluate(store: Store, pack: Pack, facts: dict[str, Any], on_progress: Progress) -> dict[str, Writer]:
    """Evaluate a pack of cells, all episodes of all seeds in lockstep."""
    from mpcwdwm.components import load_component
    from mpcwdwm.envs.termination import RULES
    from mpcwdwm.evaluation.evaluate import evaluate
    from mpcwdwm.nn.compute import execution_of, record
    from mpcwdwm.nn.compute_config import ComputeConfig
    from mpcwdwm.planning import assemble, planner_config

    units = [unit for unit in pack.units if isinstance(unit, CellUnit)]
    unit = units[0]  # the others differ in the seed and its parts alone
    recording = _recording(unit.task)
    compute = ComputeConfig(**pack.compute)
    planner = None if unit.planner is None else planner_config(unit.planner)
    started = time.monotonic()
    folders = {name: [store.sound_folder("component", each.parts[name]) for each in units] for name in unit.parts}
    parts = assemble(
        {name: load_component(paths) for name, paths in folders.items()},
        unit.base,
        termination=RULES[unit.task.termination] if unit.task.termination else None,
        goal_reward=unit.task.goal_reward,
        device=facts["device"],
        env_id=unit.task.env_id,
        env_kwargs=unit.task.env_kwargs,
        max_episode_steps=unit.task.max_episode_steps,
        reference=unit.task.reference,
        dataset=_dataset(unit.task) if planner is not None and planner.uses_dataset else None,
    )
    judgements: list[Any] = []
    traces: list[Steps] = []
    episodes = evaluate(
        parts,
        planner,
        seeds=pack.seeds,
        episodes=unit.episodes,
        env_seed=unit.env_seed,
        on_progress=lambda done, most: on_progress(done / most),
        compute=compute,
        on_end=lambda planning: judgements.extend(planning.findings()),
        traced_episodes=unit.traced_episodes,
        on_trace=traces.extend,
    )
    path = "eager" if unit.planner is None else execution_of(compute, facts["device"])
    seconds = round((time.monotonic() - started) / len(units), 3)
    writers: dict[str, Writer] = {}
    for index, unit in enumerate(units):
        own = episodes[index * unit.episodes : (index + 1) * unit.episodes]
        rows: list[dict[str, Any]] = [
            {name: value for name, value in episode.items() if name != "seed"} for episode in own
        ]
        manifest = {
            **asdict(unit),
            "kind": "result",
            **facts,
            "seconds": seconds,
            "env_steps": sum(row["length"] for row in rows),
            "longest_episode": max(row["length"] for row in rows),
            "episodes_mean": {name: _mean([row[name] for row in rows]) for name in MEANS},
            **recording,
            **({"judgement": judgements[index]} if judgements[index] else {}),
            "packed_with": list(pack.keys),
            "compute": record(compute, facts["device"], path),
            **provenance(),
        }
        steps = traces[index] if traces else None
        writers[unit.key] = partial(write_result, rows=rows, manifest=manifest, steps=steps)
    return writers


def write_result(
    folder: Path, rows: Sequence[dict[str, Any]], manifest: dict[str, Any], steps: "Steps | None" = None
) -> None:
    """Write a result: one Parquet row per episode, one per traced step if there are any, and the manifest."""
    import pyarrow
    import pyarrow.parquet

    types = {"episode": pyarrow.int64(), "env_seed": pyarrow.int64(), "length": pyarrow.int64()}
    types |= {"fallbacks": pyarrow.int64()}
    schema = pyarrow.schema([(name, types.get(name, pyarrow.float64())) for name in rows[0]])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), folder / EPISODES)
    if steps is not None:
        pyarrow.parquet.write_table(pyarrow.table(steps), folder / STEPS, compression="zstd")
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


# Pieces


class _Pace:
    """Measures updates per second from the progress reports, also of a training that was continued."""

    def __init__(self, on_progress: Progress, look: Callable[[], None] = lambda: None) -> None:
        self.on_progress, self.look = on_progress, look  # the latter for checkpoints that were written
        self.started = time.monotonic()
        self.reports: list[tuple[int, float]] = []  # (step, time), the first and the last

    def __call__(self, step: int, steps: int) -> None:
        self.reports = [*self.reports[:1], (step, time.monotonic())]
        self.look()
        self.on_progress(step / steps)

    def per_second(self, steps: int) -> float:
        """Return updates per second; from the whole duration where there are no two reports."""
        if len(self.reports) == 2 and self.reports[1][0] > self.reports[0][0]:
            (first, began), (last, ended) = self.reports
            return (last - first) / max(ended - began, 1e-9)
        return steps / max(time.monotonic() - self.started, 1e-9)


def _read(task: TaskRef) -> "Dataset":
    from mpcwdwm.data.mapped import mapped_dataset

    dataset = mapped_dataset(task.dataset)
    if dataset.sha256 != task.dataset_sha256:
        raise UserError(f"{task.dataset}: the file has changed since the plan was made: run the sweep again")
    return dataset


_dataset = lru_cache(maxsize=1)(_read)  # the next component of a task often runs in the same process


@cache  # of the task's numbers only: a process that evaluates need not keep the dataset
def _recording(task: TaskRef) -> dict[str, float | None]:
    dataset = _read(task)
    return {
        "dataset_mean_return": float(dataset.returns.mean()),
        "dataset_longest_episode": int(dataset.lengths.max()),
        "dataset_time_limit": dataset.time_limit,
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
