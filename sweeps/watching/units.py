"""The units of a sweep under the names its YAML gives them, as its last run planned them.

`sweep run` writes them beside the sweep's spec. So whoever watches needs the storage alone: to plan again takes the
dataset, the simulator and torch.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from cluster.store import Store
from cluster.units import CellUnit, ComponentUnit, Kind
from sweeps.records.fields import LETTERS
from sweeps.spec.document import read_document

__all__ = ["NamedUnit", "Watched", "asked_by", "read_units", "save_units", "watched_plan"]

UNITS_FILE = "units.json"


@dataclass(frozen=True)
class NamedUnit:
    """A component or a cell, for one seed."""

    kind: Kind
    key: str  # its folder
    task: str
    name: str  # of the component, or the cell's row in the table; with what tells it from others of that name
    seed: int
    settings: dict[str, Any] = field(default_factory=dict, hash=False)  # H, M and E of a planner that has them

    def __str__(self) -> str:
        """Return how messages call it."""
        return f"{self.task}  {self.name}  seed {self.seed}"


@dataclass(frozen=True)
class Watched:
    """What a run has planned."""

    asked: str  # `asked_by` the YAML at that time
    awaiting_choice: int  # report cells that a select phase has still to choose
    units: tuple[NamedUnit, ...]  # components, then cells, in the order of the table


_READER = TypeAdapter(Watched)


def asked_by(path: Path) -> str:
    """Return the hash of what a YAML asks for; comments and layout do not count."""
    data = read_document(path).data
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def watched_plan(
    components: Sequence[ComponentUnit], cells: Iterable[CellUnit], awaiting_choice: int, asked: str
) -> Watched:
    """Return the units of a plan with their names."""
    names = _component_names(components)
    parts = [NamedUnit(unit.kind, unit.key, unit.task.name, names[unit.key], unit.seed) for unit in components]
    rows = [
        NamedUnit(unit.kind, unit.key, unit.task.name, _cell_name(unit), unit.seed, _letters(unit)) for unit in cells
    ]
    return Watched(asked, awaiting_choice, (*parts, *rows))


def save_units(store: Store, record: str, watched: Watched) -> None:
    """Write what a run has planned beside the sweep's spec."""
    store.save_sweep_file(record, UNITS_FILE, json.dumps(asdict(watched)))


def read_units(store: Store, record: str) -> Watched | None:
    """Return what the last run has planned; None if there was none, or one of an earlier version."""
    text = store.read_text(f"sweeps/{record}/{UNITS_FILE}")
    try:
        return None if text is None else _READER.validate_json(text)
    except ValueError:  # damaged, or of another version
        return None


def _cell_name(unit: CellUnit) -> str:
    varies = f" ({unit.variant})" if unit.variant and unit.variant not in unit.method else ""
    return f"{unit.method}{varies}{' to choose' if unit.role == 'select' else ''}"


def _letters(unit: CellUnit) -> dict[str, Any]:
    planner = unit.planner or {}
    return {letter: planner[name] for name, letter in LETTERS.items() if name in planner}


def _component_names(components: Iterable[ComponentUnit]) -> dict[str, str]:
    """Return key → name, with the settings in which a component differs from others of that name on its task."""
    alike: dict[tuple[str, str], list[ComponentUnit]] = defaultdict(list)
    for unit in components:
        alike[unit.component, unit.task.name].append(unit)
    names = {}
    for (name, _), units in alike.items():
        values: dict[str, set[str]] = defaultdict(set)
        for unit in units:
            for setting, value in unit.config.items():
                values[setting].add(json.dumps(value))
        varying = [setting for setting, found in values.items() if len(found) > 1]
        for unit in units:
            differs = [f"{setting}={unit.config[setting]}" for setting in varying if setting in unit.config]
            names[unit.key] = " ".join([name, *differs])
    return names
