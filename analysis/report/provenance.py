"""Where a result comes from: the settings, the dataset, the commit, the MLflow run and the files of every unit.

Units that differ in the training seed alone share one `Provenance`: a row of the table, or a component with one config.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.frames import SETTINGS, Runs
from analysis.rendering import DASH, form_of, number, seeds_text
from analysis.table.rows import Group

__all__ = ["Planned", "Provenance", "UnitRecord", "cell_provenance", "choosing_provenance", "component_provenance"]

PLANNER, CONFIG, PART = "planner.", "config.", "part."  # prefixes of recorded settings
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
    by_key = run.cells.set_index("key", drop=False)
    keys = [cell.key for cell in group.cells if cell.key in by_key.index]
    facts = {cell.key: cell.facts for cell in group.cells}
    first: Mapping[str, Any] = facts[keys[0]] if keys else {}
    config = _under(first, PLANNER) or [(name, str(first[name])) for name in LABELS if first.get(name)]
    config = sorted(config) + [(f"evaluation.{name}", str(first[name])) for name in PLAYED if name in first]
    parts = [
        (name, str(part), f"s{_whole(facts[key]['seed'])}") for key in keys for name, part in _under(facts[key], PART)
    ]
    units = [_unit(by_key.loc[key], planned, server) for key in keys]
    told = {key: {**facts[key], **{name: by_key.loc[key].get(name) for name in ("git_sha", "device")}} for key in keys}
    return Provenance(group.row.label, _shared(told), config, parts, units)


def component_provenance(run: Runs, planned: Mapping[str, Planned], server: str = "") -> list[Provenance]:
    """Return the provenance of every component with one config on one task, in the order of the plan.

    Args:
        run: the sweep's frames.
        planned: key → what is known beside the records.
        server: where MLflow shows runs, "" if nowhere.
    """
    fields = [str(name) for name in run.components if str(name).startswith(CONFIG)]
    named = run.components.assign(
        task=[_known(row, "task", planned) for _, row in run.components.iterrows()],
        component=[_known(row, "component", planned) for _, row in run.components.iterrows()],
    )
    gathered: dict[tuple[str, ...], list[Any]] = {}
    for _, row in named.iterrows():
        which = (row["task"], row["component"], *(str(row[name]) for name in fields))
        gathered.setdefault(which, []).append(row)
    found = []
    for (task, component, *_), rows in gathered.items():
        config = [(name, text) for name, text in _under(rows[0].to_dict(), CONFIG)]
        title = " · ".join(part for part in (component, task) if part)
        units = [_unit(row, planned, server) for row in rows]
        found.append(Provenance(title, _shared({row["key"]: row.to_dict() for row in rows}), sorted(config), [], units))
    return found


def choosing_provenance(run: Runs, planned: Mapping[str, Planned], server: str = "") -> list[Provenance]:
    """Return the provenance of cells that only served to choose among settings, one for each task and method.

    Args:
        run: the sweep's frames.
        planned: key → what is known beside the records.
        server: where MLflow shows runs, "" if nowhere.
    """
    found = []
    for (task, method), own in run.cells[run.cells["role"] == "select"].groupby(["task", "method"], sort=False):
        rows = [row for _, row in own.iterrows()]
        config = [(name, f"{rows[0][name]:g}") for name in SETTINGS if pd.notna(rows[0][name])]
        units = [_unit(row, planned, server) for row in rows]
        found.append(
            Provenance(f"{method} · {task}", _shared({row["key"]: row.to_dict() for row in rows}), config, [], units)
        )
    return found


# Pieces


def _unit(row: Any, planned: Mapping[str, Planned], server: str) -> UnitRecord:
    """Return one row of `Runs.cells` or `Runs.components` as it is shown."""
    beside, key = planned.get(row["key"]), str(row["key"])
    run_id = row.get("run_id")
    run_id = run_id if isinstance(run_id, str) else ""
    seed = row["seed"] if pd.notna(row["seed"]) else beside.seed if beside else None
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


def _shared(by_key: Mapping[str, Mapping[Any, Any]]) -> list[tuple[str, str]]:
    """Return what is recorded of units of one row; a value that not all of them have names its seeds."""
    shared = []
    for name, title in SHARED.items():
        seeds: dict[str, list[int]] = {}
        for facts in by_key.values():
            value = facts.get(name)
            if value is not None and pd.notna(value) and value != "":
                seeds.setdefault(str(value), []).append(int(facts["seed"]))
        if len(seeds) == 1:
            shared.append((title, next(iter(seeds))))
        elif seeds:
            shared.append((title, ", ".join(f"{value} ({seeds_text(own)})" for value, own in seeds.items())))
    return shared


def _under(facts: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    """Return the recorded settings below a prefix, those that have a value."""
    return [
        (name.removeprefix(prefix), str(value))
        for name, value in facts.items()
        if str(name).startswith(prefix) and isinstance(value, str) and value
    ]


def _known(row: Any, name: str, planned: Mapping[str, Planned]) -> str:
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
