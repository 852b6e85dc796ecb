"""Families of cells: those of one planner on one task that differ in a single field.

A point of a family is one cell: the mean over training seeds of per-seed means, with the interval over new training
seeds that the table has. The gain is the table's, too: paired with the base policy, same training seed and same
environment seed. Cells that only served to choose among settings are left out, as are those without a base.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.figures.drawing import Value, shown
from analysis.frames import PLANNER, Runs
from analysis.statistics import aggregate
from mpcwdwm.errors import UserError, did_you_mean

__all__ = [
    "SHORT",
    "Family",
    "Point",
    "Setting",
    "Settings",
    "families",
    "field_of",
    "is_number",
    "points_of",
    "settings_of",
    "task_of",
    "tasks_of",
    "value_of",
    "varying_fields",
]

SHORT = {"horizon": "H", "rollouts": "M", "updates": "E"}  # as the planners' configs and the table call them
NAMES = ("sweep", "name", "variant")  # in a cell's settings, beside the fields: sweep, planner, the components' variant
MEASURES = ("gain", "score")  # columns of cells and episodes
FIRST = (*SHORT, "step_size")  # fields that are shown before others

Settings = dict[str, str]  # a cell's planner fields as text, its planner's name and variant


@dataclass(frozen=True)
class Setting:
    """One cell for all training seeds: what was chosen, and a row of `run.cells` for every seed."""

    settings: Settings
    rows: pd.DataFrame


@dataclass(frozen=True)
class Point:
    """One cell: the field's value, and its score or gain."""

    value: Value
    mean: float
    low: float  # nan without an interval: below three training seeds
    high: float
    by_seed: dict[int, float]  # training seed → mean over its episodes
    lacking: str  # the training seeds that other cells have, in words; empty: none


@dataclass(frozen=True)
class Family:
    """Cells of one planner that differ in one field only, by rising value, unset and words first."""

    label: str  # planner and settings, as far as they tell it from the others
    base: str
    points: list[Point]


def tasks_of(run: Runs) -> list[str]:
    """Return the names of a run's tasks, in the order of the plan."""
    return list(dict.fromkeys(str(name) for frame in (run.cells, run.components) for name in frame["task"].dropna()))


def task_of(run: Runs, task: str | None, what: str) -> str:
    """Return the task to be drawn: the one that is asked for, or the only one.

    Raises:
        UserError: there is no such task, or there are several and none is asked for.
    """
    known = tasks_of(run)
    if task is None and len(known) == 1:
        return known[0]
    if task not in known:
        found = f"no task '{task}'{did_you_mean(task, known)}" if task else "several tasks: give task="
        raise UserError(f"{what}: {found}; there are {', '.join(known) or 'none'}")
    return task


def field_of(name: str) -> str:
    """Return the planner field that a letter stands for; a field itself as it is."""
    return next((field for field, letter in SHORT.items() if letter == name), name)


def settings_of(run: Runs, task: str, value: str) -> list[Setting]:
    """Return the planners' cells on a task that have a score or gain, seeds gathered, in the order of the plan.

    Raises:
        UserError: the value is none of `MEASURES`.
    """
    if value not in MEASURES:
        raise UserError(f"plots show {' or '.join(MEASURES)}, not {value!r}")
    cells = run.cells
    chosen = cells[(cells["task"] == task) & (cells["role"] == "report") & (cells["kind"] != "none")]
    chosen = chosen[chosen[value].notna()]
    fields = {str(name): str(name).removeprefix(PLANNER) for name in cells if str(name).startswith(PLANNER)}
    fields |= {name: name for name in NAMES if name in cells}
    gathered: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for place, row in enumerate(chosen[list(fields)].to_dict("records")):
        own = tuple((fields[str(name)], str(text)) for name, text in row.items() if isinstance(text, str))
        gathered.setdefault(own, []).append(place)
    return [Setting(dict(own), chosen.iloc[places]) for own, places in gathered.items()]


def varying_fields(cells: Iterable[Setting]) -> list[str]:
    """Return the fields with at least two values of which one is a number; those of the paper first."""
    values: dict[str, set[str]] = {}
    for cell in cells:
        for name in cell.settings.keys() - set(NAMES):
            values.setdefault(name, set()).add(cell.settings[name])
    found = [name for name, texts in values.items() if len(texts) > 1 and any(map(is_number, texts))]
    return sorted(found, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


def families(run: Runs, cells: Sequence[Setting], field: str, value: str) -> list[Family]:
    """Return the sets of cells that differ in this field alone and have at least two values of it, one a number."""
    gathered: dict[tuple[tuple[str, str], ...], dict[str, Setting]] = {}
    for cell in cells:
        if field in cell.settings:
            others = tuple((name, text) for name, text in cell.settings.items() if name != field)
            gathered.setdefault(others, {})[cell.settings[field]] = cell
    varying = {own: members for own, members in gathered.items() if len(members) > 1 and any(map(is_number, members))}
    kin = [dict(own) for own in varying]
    found = []
    for own, members in varying.items():
        points = points_of(run, list(members.values()), value, field)
        base = str(next(iter(members.values())).rows["base"].iloc[0])
        found.append(Family(_label(dict(own), kin), base, sorted(points, key=_order)))
    return found


def points_of(run: Runs, cells: Sequence[Setting], value: str, field: str | None = None) -> list[Point]:
    """Return cells as points, at their value of a field; the statistic is that of their episodes."""
    place = {str(key): i for i, cell in enumerate(cells) for key in cell.rows["key"]}
    own = run.episodes[run.episodes["key"].isin(place)]
    score_unit = run.cells.set_index("key")["score_unit"]
    own = own.assign(place=own["key"].map(place), score_unit=own["key"].map(score_unit))
    found = aggregate(own, "mean", ["place"], value=value, interval="new_seeds").set_index("place")
    points = []
    for i, cell in enumerate(cells):
        row: Any = found.loc[i]
        by_seed = {int(seed): float(mean) for seed, mean in zip(cell.rows["seed"], cell.rows[value], strict=True)}
        at = value_of(cell.settings[field]) if field else None
        points.append(Point(at, row["estimate"], row["low"], row["high"], by_seed, row["lacking"]))
    return points


def _order(point: Point) -> tuple[bool, float, str]:
    is_left = not isinstance(point.value, (int, float))
    return not is_left, 0.0 if is_left else float(point.value or 0), shown(point.value)


def _label(own: Settings, kin: Sequence[Settings]) -> str:
    """Return the settings in which a family differs from others; its planner's name if in none."""
    alike = [other for other in kin if other["name"] == own["name"]]
    differing = [name for name in own if len({other.get(name) for other in alike}) > 1]
    parts = [own["name"]] if len(alike) < len(kin) or not differing else []
    parts += [f"{SHORT.get(name, name)}={shown(value_of(own[name]))}" for name in differing if name not in NAMES]
    return " ".join(parts + [own[name] for name in ("variant", "sweep") if name in differing])


def is_number(text: str) -> bool:
    """Return whether a recorded setting is a number; true, "auto" and what is unset are none."""
    return isinstance(value_of(text), float)


def value_of(text: str) -> Value:
    """Return a recorded setting as a finite number, a word, or None where it is unset."""
    try:
        value = json.loads(text)
    except ValueError:
        return text or None
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_real else text
