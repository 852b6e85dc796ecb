"""Where every unit of a sweep stands: one state each, under the names its YAML gives it."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cluster.packs import missing, open_packs
from cluster.store import Store
from cluster.store.lease import holder, is_held
from cluster.units import CellUnit, Unit

__all__ = ["UnitStatus", "status_of", "to_json", "to_lines"]

State = Literal["done", "running", "failed", "interrupted", "new"]
LISTED: tuple[State, ...] = ("running", "interrupted", "failed")  # the others are only counted


@dataclass(frozen=True)
class UnitStatus:
    """A component or a cell, for one seed."""

    kind: str  # "component" or "cell"
    task: str
    name: str  # of the component, or the cell's row in the table
    seed: int
    state: State
    note: str  # where it runs since when, or why it failed and where the log is
    key: str  # its folder

    @property
    def line(self) -> str:
        """Return the status as a line of text."""
        return f"{self.state:<11} {self.task}  {self.name}  seed {self.seed}: {self.note}"


def status_of(units: Sequence[Unit], store: Store) -> list[UnitStatus]:
    """Return each unit's state, in order.

    A unit that failed and is tried again is running; one that failed is not also interrupted, though its pack is open.
    """
    published = {kind: set(store.keys(kind)) for kind in ("component", "cell")}
    failed, wanted = store.failed(), {unit.key for unit in units}
    begun = dict[str, str]()  # key → where it runs, "" where it was left
    for pack in open_packs(store):
        if wanted.isdisjoint(pack.keys):
            continue
        where = ""
        if is_held(store, pack.id):
            who = holder(store, pack.id) or {}
            where = f"pid {who.get('pid', '?')} on {who.get('host', '?')} since {who.get('started', '?')}"
        begun |= {key: where or begun.get(key, "") for key in missing(store, pack)}

    def standing(unit: Unit) -> tuple[State, str]:
        if unit.key in published[unit.kind]:
            return "done", ""
        if begun.get(unit.key):
            return "running", begun[unit.key]
        if unit.key in failed and (record := store.failure(unit.key)):
            return "failed", f"{record['error']} (log: {record['log']})"
        return ("interrupted", "will be continued") if unit.key in begun else ("new", "")

    return [
        UnitStatus(
            unit.kind,
            unit.task.name,
            unit.method if isinstance(unit, CellUnit) else unit.component,
            unit.seed,
            *standing(unit),
            unit.key,
        )
        for unit in units
    ]


def to_lines(found: Sequence[UnitStatus]) -> list[str]:
    """Return a line for each unit that runs, was interrupted or has failed, in this order."""
    return [one.line for state in LISTED for one in found if one.state == state]


def to_json(sweep: str, found: Sequence[UnitStatus]) -> str:
    """Return all of it as JSON: the counts by kind and state, and every unit."""
    counts = {kind: dict(Counter(one.state for one in found if one.kind == kind)) for kind in ("component", "cell")}
    document: dict[str, Any] = {"sweep": sweep, "counts": counts, "units": [asdict(one) for one in found]}
    return json.dumps(document, indent=1)
