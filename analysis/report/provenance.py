"""Where a result comes from: the settings, the dataset, the commit, the MLflow run and the files of every unit.

Units that differ in the training seed alone share one `Provenance`: a row of the table, or a component with one config.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.frames import CONFIG, PART, PLANNER, Runs
from analysis.rendering import DASH, form_of, number, seeds_text
from analysis.table.rows import Group

__all__ = [
    "Beside",
    "Place",
    "Planned",
    "Provenance",
    "UnitRecord",
    "cell_provenance",
    "choosing_provenance",
    "component_provenance",
    "records_by_key",
]

Record = Mapping[str, Any]  # a row of `Runs.cells` or `Runs.components`
PLAYED = ("episodes", "env_seed")  # labels that say what was played
LABELS = ("kind", "base", "world_model", "denoising_steps", "horizon", "rollouts", "updates", "step_size")
SHARED = {  # what is recorded of a unit, and what it is called on the page
    "dataset_sha256": "dataset, sha256",
    "env_id": "environment",
    "mujoco": "mujoco",
    "git_sha": "git commit",
    "mpcwdwm": "mpcwdwm",
    "torch": "torch",
    "device": "device",
    "threads": "threads",
}


@dataclass(frozen=True)
class Planned:
    """What the plan says of a unit.

    Attributes:
        task: its name.
        name: of the component, or of the cell's row.
        seed: training seed.
        hours: that its process was predicted to take; None if that could not be predicted.
    """

    task: str
    name: str
    seed: int
    hours: float | None = None


@dataclass(frozen=True)
class Place:
    """Where a unit left something.

    Attributes:
        folder: its artifact; "" if there is none.
        log: of its failure; "" if it did not fail.
    """

    folder: str = ""
    log: str = ""


@dataclass(frozen=True)
class Beside:
    """What is known of units beside their records.

    Attributes:
        planned: key → what the plan says.
        places: key → where it left something.
        server: where MLflow shows runs; "" if nowhere.
    """

    planned: Mapping[str, Planned]
    places: Mapping[str, Place]
    server: str = ""


@dataclass(frozen=True)
class UnitRecord:
    """One unit: a cell or a component for one training seed. Texts are as they are shown, "" where nothing is known."""

    key: str
    seed: str
    status: str  # "ok", "failed" or "missing"
    reason: str
    score: str
    gain: str
    hours: str
    run_id: str
    run_url: str  # of MLflow's page, if a server has it
    folder: str
    log: str  # of its failure


@dataclass(frozen=True)
class Provenance:
    """What one row, or one component with one config, was computed with and from.

    Attributes:
        title: of the row or the component.
        shared: what was recorded of its units: name → value, with its seeds where they differ.
        config: settings, all defaults resolved.
        parts: (component, key, training seed as text) of what its units are built on.
        units: one for each training seed.
    """

    title: str
    shared: Sequence[tuple[str, str]]
    config: Sequence[tuple[str, str]]
    parts: Sequence[tuple[str, str, str]]
    units: Sequence[UnitRecord]

    @property
    def has_scores(self) -> bool:
        """Return whether the units were played."""
        return any(unit.score for unit in self.units)


def records_by_key(frame: pd.DataFrame) -> dict[str, Record]:
    """Return the rows of `Runs.cells` or `Runs.components`, by key."""
    return {str(row["key"]): row for row in _rows(frame)}


def cell_provenance(group: Group, cells: Mapping[str, Record], beside: Beside) -> Provenance:
    """Return the provenance of a row of the table.

    Args:
        group: the row, with its cells.
        cells: `records_by_key` of the sweep's cells.
        beside: what is known of them beside the records.
    """
    facts = {cell.key: cell.facts for cell in group.cells}
    rows = [{**facts[key], **cells[key]} for key in facts if key in cells]
    return _provenance(group.row.label, rows, PLANNER, beside)


def choosing_provenance(run: Runs, beside: Beside) -> list[Provenance]:
    """Return the provenance of cells that only served to choose among settings, one for each task and method.

    Args:
        run: the sweep's frames.
        beside: what is known of them beside the records.
    """
    chosen = run.cells[run.cells["role"] == "select"].groupby(["task", "method"], sort=False)
    return [_provenance(f"{method} · {task}", _rows(own), PLANNER, beside) for (task, method), own in chosen]


def component_provenance(run: Runs, beside: Beside) -> list[Provenance]:
    """Return the provenance of every component with one config on one task, in the order of the plan.

    Args:
        run: the sweep's frames.
        beside: what is known of them beside the records.
    """
    gathered: dict[tuple[str, ...], list[Record]] = {}
    for row in _rows(run.components):
        config = [f"{name}={text}" for name, text in _under(row, CONFIG)]
        gathered.setdefault((_known(row, "component", beside), _known(row, "task", beside), *config), []).append(row)
    return [
        _provenance(" · ".join(filter(None, (component, task))), rows, CONFIG, beside)
        for (component, task, *_), rows in gathered.items()
    ]


# Pieces


def _rows(frame: pd.DataFrame) -> list[Record]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _provenance(title: str, rows: Sequence[Record], prefix: str, beside: Beside) -> Provenance:
    """Return the provenance of units that differ in the seed alone; their settings have a prefix."""
    first = rows[0] if rows else {}
    config = sorted(_under(first, prefix)) or [(name, str(first[name])) for name in LABELS if _is_set(first.get(name))]
    config += [(f"evaluation.{name}", _whole(first[name])) for name in PLAYED if _is_set(first.get(name))]
    parts = [(name, key, f"s{_whole(row['seed'])}") for row in rows for name, key in _under(row, PART)]
    return Provenance(title, _shared(rows), config, parts, [_unit(row, beside) for row in rows])


def _unit(row: Record, beside: Beside) -> UnitRecord:
    """Return one row of `Runs.cells` or `Runs.components` as it is shown."""
    key = str(row["key"])
    planned, place = beside.planned.get(key), beside.places.get(key, Place())
    run_id = row.get("run_id")
    run_id = run_id if isinstance(run_id, str) else ""
    seed: Any = row["seed"] if pd.notna(row["seed"]) else planned.seed if planned else None
    hours = row["hours"] if "hours" in row else row.get("seconds", float("nan")) / 3600
    return UnitRecord(
        key=key,
        seed=DASH if seed is None else _whole(seed),
        status=str(row["status"]),
        reason=str(row["reason"]),
        score=_number(row.get("score")),
        gain=_number(row.get("gain"), sign=True),
        hours=f"{hours:.4f}" if pd.notna(hours) else "",
        run_id=run_id,
        run_url=f"{beside.server}/runs/{run_id}" if beside.server and run_id else "",
        folder=place.folder,
        log=place.log,
    )


def _shared(rows: Sequence[Record]) -> list[tuple[str, str]]:
    """Return what is recorded of units of one row; a value that not all of them have names its seeds."""
    shared = []
    for name, title in SHARED.items():
        seeds: dict[str, list[int]] = {}
        for row in rows:
            value = row.get(name)
            if _is_set(value):
                seeds.setdefault(str(value), []).append(int(row["seed"]))
        if len(seeds) == 1:
            shared.append((title, next(iter(seeds))))
        elif seeds:
            shared.append((title, ", ".join(f"{value} ({seeds_text(own)})" for value, own in seeds.items())))
    return shared


def _under(row: Record, prefix: str) -> list[tuple[str, str]]:
    """Return the recorded settings below a prefix, those that have a value."""
    return [
        (name.removeprefix(prefix), str(value))
        for name, value in row.items()
        if name.startswith(prefix) and isinstance(value, str) and value
    ]


def _known(row: Record, name: str, beside: Beside) -> str:
    """Return a component's task or name; what has no record is known from the plan, or from its key alone."""
    if isinstance(row[name], str):
        return str(row[name])
    planned = beside.planned.get(row["key"])
    if planned is None:
        return "" if name == "task" else str(row["key"])
    return planned.task if name == "task" else planned.name


def _is_set(value: Any) -> bool:
    return value is not None and value != "" and bool(pd.notna(value))


def _whole(value: Any) -> str:
    return f"{float(value):g}"


def _number(value: float | None, *, sign: bool = False) -> str:
    if value is None or pd.isna(value):
        return ""
    return number(value, form_of(value, sign=sign))
