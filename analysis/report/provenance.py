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

__all__ = ["Planned", "Provenance", "UnitRecord", "cell_provenance", "choosing_provenance", "component_provenance"]

Record = Mapping[str, Any]  # a row of `Runs.cells` or `Runs.components`
NO_LOG = "none"
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
    """What is known of a unit without its record.

    Attributes:
        task: its name.
        name: of the component, or of the cell's row.
        seed: training seed.
        folder: where its artifact lies, or would lie.
        log: where errors of its process were written; "" if there were none.
        hours: that its process was predicted to take; None if nothing could be predicted.
    """

    task: str
    name: str
    seed: int
    folder: str
    log: str = ""
    hours: float | None = None


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
    log: str  # of errors, `NO_LOG` where there were none


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


def cell_provenance(group: Group, run: Runs, planned: Mapping[str, Planned], server: str = "") -> Provenance:
    """Return the provenance of a row of the table.

    Args:
        group: the row, with its cells.
        run: the sweep's frames.
        planned: key → what is known beside the records.
        server: where MLflow shows runs, "" if nowhere.
    """
    facts = {cell.key: cell.facts for cell in group.cells}
    by_key = {str(row["key"]): row for row in _rows(run.cells)}
    rows = [{**facts[key], **by_key[key]} for key in facts if key in by_key]
    return _provenance(group.row.label, rows, PLANNER, planned, server)


def choosing_provenance(run: Runs, planned: Mapping[str, Planned], server: str = "") -> list[Provenance]:
    """Return the provenance of cells that only served to choose among settings, one for each task and method.

    Args:
        run: the sweep's frames.
        planned: key → what is known beside the records.
        server: where MLflow shows runs, "" if nowhere.
    """
    chosen = run.cells[run.cells["role"] == "select"].groupby(["task", "method"], sort=False)
    return [_provenance(f"{method} · {task}", _rows(own), PLANNER, planned, server) for (task, method), own in chosen]


def component_provenance(run: Runs, planned: Mapping[str, Planned], server: str = "") -> list[Provenance]:
    """Return the provenance of every component with one config on one task, in the order of the plan.

    Args:
        run: the sweep's frames.
        planned: key → what is known beside the records.
        server: where MLflow shows runs, "" if nowhere.
    """
    gathered: dict[tuple[str, ...], list[Record]] = {}
    for row in _rows(run.components):
        config = [f"{name}={text}" for name, text in _under(row, CONFIG)]
        gathered.setdefault((_known(row, "component", planned), _known(row, "task", planned), *config), []).append(row)
    return [
        _provenance(" · ".join(filter(None, (component, task))), rows, CONFIG, planned, server)
        for (component, task, *_), rows in gathered.items()
    ]


# Pieces


def _rows(frame: pd.DataFrame) -> list[Record]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _provenance(
    title: str, rows: Sequence[Record], prefix: str, planned: Mapping[str, Planned], server: str
) -> Provenance:
    """Return the provenance of units that differ in the seed alone; their settings have a prefix."""
    first = rows[0] if rows else {}
    config = sorted(_under(first, prefix)) or [(name, str(first[name])) for name in LABELS if first.get(name)]
    config += [(f"evaluation.{name}", _whole(first[name])) for name in PLAYED if pd.notna(first.get(name))]
    parts = [(name, key, f"s{_whole(row['seed'])}") for row in rows for name, key in _under(row, PART)]
    return Provenance(title, _shared(rows), config, parts, [_unit(row, planned, server) for row in rows])


def _unit(row: Record, planned: Mapping[str, Planned], server: str) -> UnitRecord:
    """Return one row of `Runs.cells` or `Runs.components` as it is shown."""
    beside, key = planned.get(row["key"]), str(row["key"])
    run_id = row.get("run_id")
    run_id = run_id if isinstance(run_id, str) else ""
    seed: Any = row["seed"] if pd.notna(row["seed"]) else beside.seed if beside else None
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
        run_url=f"{server}/runs/{run_id}" if server and run_id else "",
        folder=beside.folder if beside else "",
        log=(beside.log or NO_LOG) if beside else "",
    )


def _shared(rows: Sequence[Record]) -> list[tuple[str, str]]:
    """Return what is recorded of units of one row; a value that not all of them have names its seeds."""
    shared = []
    for name, title in SHARED.items():
        seeds: dict[str, list[int]] = {}
        for row in rows:
            value = row.get(name)
            if value is not None and pd.notna(value) and value != "":
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


def _known(row: Record, name: str, planned: Mapping[str, Planned]) -> str:
    """Return a component's task or name; what has no record is known from the plan, or from its key alone."""
    if isinstance(row[name], str):
        return str(row[name])
    beside = planned.get(row["key"])
    if beside is None:
        return "" if name == "task" else str(row["key"])
    return beside.task if name == "task" else beside.name


def _whole(value: Any) -> str:
    return f"{float(value):g}"


def _number(value: float | None, *, sign: bool = False) -> str:
    if value is None or pd.isna(value):
        return ""
    return number(value, form_of(value, sign=sign))
