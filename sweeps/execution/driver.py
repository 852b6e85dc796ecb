"""The driver: carries out a plan until nothing is missing, and records it.

A run computes the plan minus what is published, so the same command starts a sweep, continues one that was
killed, and does nothing for a finished one. Components go to the actors of `cluster.ray.pool.Pool`, cells to
the trials of `sweeps.execution.trials.TrialPool`, each as soon as the components it needs are published.
This process computes nothing itself: it schedules, draws progress, and alone writes to MLflow, in a thread.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from analysis.mlflow_store import SPEC_FILE
from cluster import packs
from cluster.failures import TRIES, is_set_aside
from cluster.ray.address import check_reachable, wanted_address
from cluster.ray.attempts import Finished
from cluster.store import Store, open_store
from cluster.units import KINDS, CellUnit, Kind, Pack, Unit
from cluster.work import Compute, PackFailure
from mpcwdwm.errors import UserError
from sweeps.execution.damaged import remove_damaged
from sweeps.execution.interrupt import interruptible
from sweeps.execution.meter import Meter
from sweeps.execution.progress import ProgressLines, working_order
from sweeps.execution.waiting import Waiting
from sweeps.plan.checks import check_capture
from sweeps.plan.gpus import gpus_here
from sweeps.plan.plan import Plan, build_plan, cell_packs, component_packs
from sweeps.records.fields import parent_tags, plan_record
from sweeps.records.recorder import Recorder
from sweeps.records.tracker import Tracker
from sweeps.spec.spec import Spec
from sweeps.watching.run_report import Reporter
from sweeps.watching.units import asked_by, save_units, watched_plan

if TYPE_CHECKING:  # it imports Ray, which takes seconds, and a run that finds everything done needs none
    from sweeps.execution.workers import Workers

__all__ = ["Outcome", "run"]

TICK = 0.2  # seconds between two rounds of the driver: short against any pack, idle in between


@dataclass
class Outcome:
    """What a run did."""

    trained: int = 0  # units published by this run
    evaluated: int = 0
    failed: dict[str, PackFailure] = field(default_factory=dict)  # key of a unit → why
    set_aside: set[str] = field(default_factory=set)  # those of them that the next run does not try again
    names: dict[str, str] = field(default_factory=dict)  # key of a unit of the plan → what messages call it


def run(
    spec: Spec, *, verbose: bool = False, lines: ProgressLines | None = None, compute: Compute | None = None
) -> Outcome:
    """Compute and record whatever of a sweep is missing.

    Units that fail after their retries do not stop the others; they are in the outcome and are tried again by the
    next run, unless they are set aside (`cluster.failures`).

    Args:
        spec: the sweep.
        verbose: show what Ray's workers print.
        lines: where progress is drawn; by default stderr.
        compute: what computes a pack, `cluster.work.compute_pack` by default.

    Raises:
        UserError: the plan is impossible, or Ray or MLflow cannot be reached; nothing was computed.
        KeyboardInterrupt: on SIGINT or SIGTERM, after the workers were stopped.
    """
    store = open_store(spec.storage)
    plan = build_plan(spec, store)
    with interruptible(), lines or ProgressLines() as lines:
        for notice in plan.notices:
            lines.note(f"note: {notice}")
        return Driver(spec, store, lines, verbose=verbose, compute=compute).carry_out(plan)


class Driver:
    """One run of a sweep."""

    def __init__(
        self, spec: Spec, store: Store, lines: ProgressLines, *, verbose: bool, compute: Compute | None
    ) -> None:
        self.spec, self.store, self.lines = spec, store, lines
        store.on_outage = lines.note
        self.verbose, self.compute = verbose, compute
        self.outcome, self.meter = Outcome(), Meter(lines)
        self.tracker = Tracker(spec.tracking_uri, spec.record, spec.system_metrics)
        self.recorder = Recorder(self.tracker, store)
        self._workers: Workers | None = None
        self._recorded = False  # whether MLflow has our parent run
        self._waiting = Waiting(())  # packs whose parts are not all published
        self._failed = Counter[Kind]()  # units of the plan
        self._open: dict[str, Pack] = {}  # the packs that have not ended, by id
        self.reporter = Reporter(store, spec.record)

    def carry_out(self, plan: Plan) -> Outcome:
        """Compute and record what is missing, choices that follow from results included."""
        status: Literal["FINISHED", "FAILED", "KILLED"] = "FAILED"
        try:
            self._take(plan)
            self._announce()
            if not self._is_complete():
                check_capture(self.spec, gpus_here(self.spec.resources))
                check_reachable(wanted_address(self.spec.resources.address))
                for notice in self.store.check():
                    self.lines.note(f"note: {notice}")
                self.reporter.write()
            # A new MLflow store takes seconds, and so does Ray.
            recording = ThreadPoolExecutor(1).submit(self._record_plan)
            workers = None if self._is_complete() else self._start_workers()
            recording.result()
            self.tracker.sync(self._published())
            while workers is not None and not self._is_complete():
                self._work_off(workers)
                if self._is_complete() and not self.plan.awaiting_choice:
                    self._close_workers()  # not after the records, which take minutes where there are thousands
                self._complain(self.recorder.drain())
                if self.plan.awaiting_choice:
                    self._take(build_plan(self.spec, self.store))
                    self._record_plan()
                # What MLflow missed, and what a second driver beside this one has recorded too.
                self.tracker.sync(self._published())
            if workers is not None:
                packs.sweep_up(self.store)  # what this run's own processes left, those of them that were killed
            status = "FAILED" if self.outcome.failed else "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            self._close_workers()
            self.reporter.close()
            self._close_record(status)
        self.outcome.set_aside = self._set_aside()
        return self.outcome

    # The plan

    def _take(self, plan: Plan) -> None:
        """Take a plan, and what is published of it."""
        self.plan = plan
        units: list[Unit] = [*plan.components, *plan.cells]
        self.units = {unit.key: unit for unit in units}
        self.named = watched_plan(plan.components, plan.cells, plan.awaiting_choice, asked_by(self.spec.path))
        self.outcome.names |= {unit.key: str(unit) for unit in self.named.units}
        # Code that is edited during a run gives other keys after a choice: what failed may no longer be planned.
        self._look_up()
        failures = self.store.failures(self.units.keys() - self.done["component"] - self.done["cell"])
        aside = {key: PackFailure(each["error"], each["log"]) for key, each in failures.items() if is_set_aside(each)}
        self.outcome.failed |= aside | dict.fromkeys(
            self._built_on(aside), PackFailure("a part of it is set aside", "")
        )
        self._failed = Counter(unit.kind for key, unit in self.units.items() if key in self.outcome.failed)
        for line in remove_damaged(self.store, plan, self.done, set(self.outcome.failed)):
            self.lines.note(f"note: {line}")
        for kind, planned in zip(KINDS, (len(plan.components), len(plan.cells)), strict=True):
            self.meter.plan(kind, planned, len(self.done[kind]))

    def _announce(self) -> None:
        """Say what will be done."""
        for kind, names in (("component", "to train"), ("cell", "to evaluate")):
            units = [unit for unit in self.units.values() if unit.kind == kind]
            left = [unit for unit in units if unit.key not in self._settled()]
            each = Counter(unit.name if isinstance(unit, CellUnit) else unit.component for unit in left)
            kinds = ", ".join(f"{name} {count}" for name, count in each.items())
            self.lines.note(f"{kind}s: {len(left)} of {len(units)} {names}{f' ({kinds})' if kinds else ''}")
        if self.plan.awaiting_choice:
            self.lines.note(f"and {self.plan.awaiting_choice} cells that are still to be chosen")
        if aside := len(self.outcome.failed):
            self.lines.note(
                f"set aside: {aside} (failed {TRIES} times for the same reason, or built on what did):"
                f" `mpcwdwm sweep retry {self.spec.name}` has them tried again"
            )

    def _set_aside(self) -> set[str]:
        """Return which of the failed units the next run will not try, those included that are built on one."""
        failures = self.store.failures(self.outcome.failed)
        aside = {key for key, failure in failures.items() if is_set_aside(failure)}
        return aside | (self._built_on(aside) & self.outcome.failed.keys())

    def _built_on(self, keys: Iterable[str]) -> set[str]:
        """Return the unpublished units that are built on these, or on one that is."""
        below, found = set(keys), set[str]()
        done = self.done["component"] | self.done["cell"]
        while below:
            units = [unit for key, unit in self.units.items() if key not in found and key not in done]
            below = {unit.key for unit in units if below.intersection(unit.parts.values())}
            found |= below
        return found

    def _look_up(self) -> None:
        """Take note of what is published."""
        self.done = {kind: set(self.store.keys(kind)).intersection(self.units) for kind in KINDS}

    def _is_complete(self) -> bool:
        return self._settled().issuperset(self.units)

    def _settled(self) -> set[str]:
        """Return the keys of what is published or has failed."""
        return self.done["component"] | self.done["cell"] | set(self.outcome.failed)

    def _published(self) -> Iterator[tuple[Unit, Callable[[], Path]]]:
        """Yield the units of the plan that are published, with what looks their folders up, or fetches them."""
        for key, unit in self.units.items():
            if key in self.done[unit.kind]:
                yield unit, partial(self.store.folder, unit.kind, unit.key)

    # Records: MLflow is written by one thread at a time, once the store exists

    def _record_plan(self) -> None:
        plan, text = self.plan, self.spec.to_yaml()
        save_units(self.store, self.spec.record, self.named)  # for whoever watches, before MLflow takes seconds
        units = (self.spec.record, plan.components, plan.cells)
        tasks = {unit.task.name: unit.task for unit in self.units.values()}
        self.tracker.start(plan_record(*units), text, parent_tags(*units, self.spec.options), tasks.values())
        self._recorded = True
        self.store.save_sweep_file(self.spec.record, SPEC_FILE, text)

    def _complain(self, complaint: str | None) -> None:
        """Say why MLflow cannot be reached; the work goes on, and what is missing is recorded at the end."""
        if complaint is not None:
            self.lines.note(f"{complaint}; going on, the records follow at the end")

    def _close_record(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Note in MLflow how the run ended; what keeps it from that has been, or will be, reported."""
        if not self.recorder.close() or not self._recorded:
            return
        failed = {key: failure.error for key, failure in self.outcome.failed.items()}
        try:
            self.tracker.finish(status, failed)
        except UserError as error:
            self.lines.note(str(error))

    # Work

    def _start_workers(self) -> "Workers":
        # Without this a thread that still waits for Tune would start another Ray after the end.
        os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
        from sweeps.execution.workers import Workers

        self._workers = Workers(self.store, self.spec.resources, quiet=not self.verbose, compute=self.compute)
        check_capture(self.spec, self._workers.gpus)
        for notice in self._workers.notices:
            self.lines.note(f"note: {notice}")
        self._check_nodes(self._workers)
        packs.sweep_up(self.store)
        return self._workers

    def _close_workers(self) -> None:
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def _check_nodes(self, workers: "Workers") -> None:
        """Note in what nodes are not as this machine is; UserError where work there would fail or be wrong."""
        found = workers.check_nodes(sorted({unit.task.dataset for unit in self.units.values()}))
        for difference in found:
            self.lines.note(str(difference))
        if nodes := {difference.node for difference in found if difference.hinders}:
            raise UserError(
                f"{len(nodes)} of the cluster's nodes are not as the driver's machine is, as said above:"
                " install the same there and mount the same folders, or take them out of the cluster"
            )

    def _work_off(self, workers: "Workers") -> None:
        """Run what the plan lacks until everything is published or has failed."""
        workers.rest()  # after a choice: idle trials would keep their processors from training
        training, cells = self._missing_packs()
        self._look_up()  # what others have published since the plan was made is in no pack
        self.meter.expect("component", training)
        self.meter.expect("cell", cells)
        self._open = {pack.id: pack for pack in [*training, *cells]}
        settled = self._settled()
        self._waiting = Waiting(unit for key, unit in self.units.items() if key not in settled)
        for pack in [*training, *cells]:
            self._waiting.add(pack)
        while self._open:
            ended = workers.poll()
            for failure in workers.tried_again():
                self.lines.note(f"tried again: {self._names(failure.pack)}: {failure.error} (log: {failure.log})")
                self.reporter.lose(failure.pack.id)
            for end in ended:
                self._settle(end)
            for pack in self._released():
                workers.submit(pack)
            workers.share_out(has_trained_task=self._waiting.has_trained_task())
            self._complain(self.recorder.complaint())
            while workers.news:
                self.lines.note(f"note: {workers.news.pop(0)}")
            if self.meter.due():  # not at every end: of thousands of packs tens end each second
                self._draw(workers)
            if self.reporter.due():
                self._report(workers)
            if not ended:
                time.sleep(TICK)
        self._draw(workers)

    def _missing_packs(self) -> tuple[list[Pack], list[Pack]]:
        """Return what to train, in order, and what to evaluate: packs that were begun as they were, the rest anew."""
        wanted = set(self.units) - set(self.outcome.failed)
        planned = [*component_packs(self.plan), *cell_packs(self.plan)]
        chosen = packs.plan_packs(self.store, planned, wanted)
        training, cells = (working_order([pack for pack in chosen if pack.kind == kind], self.spec) for kind in KINDS)
        return training, cells

    def _settle(self, end: Finished) -> None:
        """Take note of a pack that has ended: record what it published, and what failed."""
        for unit in end.pack.units:
            if unit.key not in self.units:
                continue  # of a pack begun by another sweep, which records it
            if end.error is None or self.store.has(unit.kind, unit.key):
                self.done[unit.kind].add(unit.key)
                if unit.kind == "component":
                    self.outcome.trained += 1
                else:
                    self.outcome.evaluated += 1
                self.recorder.add(unit)
                self._waiting.settle(unit)
            else:
                self._fail(unit, PackFailure(end.error or "it ended without a result", end.log))
        self.meter.advance(end.pack)
        self._open.pop(end.pack.id, None)

    def _fail(self, unit: Unit, failure: PackFailure) -> None:
        self._failed[unit.kind] += unit.key in self.units and unit.key not in self.outcome.failed
        self.outcome.failed[unit.key] = failure
        self._waiting.settle(unit)
        self.lines.note(f"failed: {self.outcome.names.get(unit.key, unit.key)}: {failure.error} (log: {failure.log})")

    def _names(self, pack: Pack) -> str:
        """Return how messages call a pack: its first unit, and how many more."""
        first = self.outcome.names.get(pack.units[0].key, pack.units[0].key)
        return first if len(pack.units) == 1 else f"{first} and {len(pack.units) - 1} more"

    def _released(self) -> Iterator[Pack]:
        """Yield the packs for whose parts nothing is left to wait; units whose parts have failed fail too."""
        for pack in self._waiting.released():
            runnable = tuple(unit for unit in pack.units if self._has_parts(unit))
            self._open.pop(pack.id, None)
            if runnable:
                left = Pack(runnable, pack.compute)
                self._open[left.id] = left
                yield left

    def _has_parts(self, unit: Unit) -> bool:
        """Return whether a unit can be computed; it fails with a failed part of its own."""
        for name, key in unit.parts.items():
            if key in self.outcome.failed:
                failure = self.outcome.failed[key]
                inherited = PackFailure(f"component {name} failed: {failure.error}", failure.log)
                with suppress(OSError):  # a full disk: the next run tries again all the same
                    self.store.record_failure(unit.key, inherited.error, inherited.log)
                self._fail(unit, inherited)
                return False
            if key not in self.units and not self.store.has("component", key):
                return False  # the pack was begun for more seeds than are planned now: nobody trains its part
        return True

    def _draw(self, workers: "Workers") -> None:
        """Bring both lines up to date."""
        self.meter.draw(self.done, self._failed, workers.heard(), self._open)

    def _report(self, workers: "Workers") -> None:
        """Write what whoever watches is shown."""
        heard = {each: told for packs in workers.heard().values() for each, told in packs.items() if each in self._open}
        running = {each: (self._open[each], *told) for each, told in heard.items()}
        self.reporter.write(self.meter.reports(), running)
