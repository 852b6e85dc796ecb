"""Where every unit of a sweep stands: one state each, from what the store holds and what living runs report.

Nothing is locked, and nothing is written: a run is not delayed by those who watch it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cluster.failures import is_set_aside
from cluster.packs import begun_packs
from cluster.store import Store
from cluster.store.lease import holder, is_held
from cluster.units import KINDS
from sweeps.watching.run_report import RunReport, living_runs
from sweeps.watching.units import NamedUnit, Watched

__all__ = ["STATES", "State", "SweepStatus", "UnitStatus", "status_of"]

State = Literal["done", "running", "new", "interrupted", "failed", "set aside"]
STATES: tuple[State, ...] = ("done", "running", "new", "interrupted", "failed", "set aside")


@dataclass(frozen=True)
class UnitStatus:
    """A unit and its state."""

    unit: NamedUnit
    state: State
    host: str = ""  # where it runs
    since: str = ""  # when that began, ISO 8601, UTC
    fraction: float | None = None  # of its pack that is done
    note: str = ""  # whom it waits for
    pack: str = ""  # with whose id its log is called while nothing has failed for good
    error: str = ""  # why it failed
    log: str = ""  # where the traceback is
    tries: int = 0  # that failed for this reason


@dataclass(frozen=True)
class SweepStatus:
    """All units of a sweep, and the runs that compute them now."""

    sweep: str
    watched: Watched
    runs: tuple[RunReport, ...]
    units: tuple[UnitStatus, ...]

    def count(self, state: State, kind: str) -> int:
        """Return how many units of a kind are in a state."""
        return sum(one.state == state and one.unit.kind == kind for one in self.units)

    @property
    def settled(self) -> bool:
        """Whether nothing is left that a run would compute."""
        return not self.watched.awaiting_choice and all(one.state in ("done", "set aside") for one in self.units)


def status_of(sweep: str, watched: Watched, store: Store) -> SweepStatus:
    """Return the state of each unit, in the order of the plan.

    A unit that failed and is tried again is running; one that failed is not also interrupted, though its pack is open.
    """
    runs = living_runs(store, sweep)
    published = {kind: set(store.keys(kind)) for kind in KINDS}
    lacking = {unit.key for unit in watched.units if unit.key not in published[unit.kind]}
    failures = store.failures(lacking)
    begun = _begun(store, lacking, runs)

    def standing(unit: NamedUnit) -> UnitStatus:
        if unit.key not in lacking:
            return UnitStatus(unit, "done")
        if where := begun.get(unit.key):
            return UnitStatus(unit, "running", **where)
        if failure := failures.get(unit.key):
            state: State = "set aside" if is_set_aside(failure) else "failed"
            return UnitStatus(unit, state, error=failure["error"], log=failure["log"], tries=failure.get("tries", 0))
        return UnitStatus(unit, "interrupted" if unit.key in begun and not runs else "new")

    return SweepStatus(sweep, watched, tuple(runs), tuple(map(standing, watched.units)))


def _begun(store: Store, wanted: set[str], runs: list[RunReport]) -> dict[str, Mapping[str, Any]]:
    """Return key → where it runs since when, and how far it is; empty where it was left.

    What living runs compute is in their reports. Without one, packs that were begun have been left, or are finished
    by workers that outlive their run for a moment.
    """
    if runs:
        return {
            key: {"host": pack.host, "since": pack.since, "fraction": pack.fraction, "note": pack.note, "pack": pack.id}
            for run in runs
            for pack in run.running
            for key in pack.keys
        }
    begun = dict[str, Mapping[str, Any]]()
    for pack in begun_packs(store):
        if wanted.isdisjoint(pack.keys):
            continue
        lease = (holder(store, pack.id) or {}) if is_held(store, pack.id) else {}
        where = {"host": lease["host"], "since": lease.get("started", ""), "pack": pack.id} if lease else {}
        begun |= {key: where or begun.get(key, {}) for key in pack.keys}
    return begun
