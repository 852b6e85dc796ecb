"""The gain over the values of one planner field: cells of a sweep that differ in that field alone.

The gain is the table's: paired with the base policy, same training seed and same environment seed, mean over
training seeds of per-seed means. Cells that only served to choose among settings have no base to be paired with.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.figures.drawing import UNSET
from analysis.models.curves import Estimate
from analysis.runs import facts_by_key
from analysis.table.rows import Cell, Group, groups_of

__all__ = ["SHORT", "Family", "Panel", "Point", "ablation_panels"]

SHORT = {"horizon": "H", "rollouts": "M", "updates": "E"}  # as the planners' configs and the table call them
PREFIX = "planner."  # of a planner's fields in the records
NAMES = ("planner", "variant")  # in a cell's settings, beside the fields: the planner's name, the components' variant


@dataclass(frozen=True)
class Point:
    """One cell: the field's value, None where the field is unset, and the paired gain in points of score."""

    value: float | None
    gain: Estimate
    by_seed: dict[int, float]  # training seed → mean paired difference


@dataclass(frozen=True)
class Family:
    """Cells of one planner that differ in one field only, by rising value, that without a value first."""

    label: str  # planner and settings, as far as they tell it from the others of its panel
    base: str
    points: list[Point]


@dataclass(frozen=True)
class Panel:
    """All families of one task in which one field varies."""

    task: str
    field: str
    score_unit: str  # "normalized" or "return"
    families: list[Family]


CellSettings = dict[str, str]  # a cell's planner fields as text, its planner's name and variant


def ablation_panels(
    cells: pd.DataFrame, episodes: Mapping[str, pd.DataFrame], labels: Mapping[str, Mapping[str, Any]]
) -> list[Panel]:
    """Return a panel for every task and numeric planner field that varies within a planner, tasks outermost.

    Args:
        cells: rows of `analysis.runs.Records.units`.
        episodes: of every cell, by key.
        labels: the sweep's own facts about a cell, by key: `labels` of its plan.
    """
    by_task: dict[str, list[Cell]] = {}
    for key, recorded in facts_by_key(cells).items():
        cell = Cell(key, {**recorded, **labels.get(key, {})}, episodes[key])
        if cell.facts["role"] == "report" and cell.is_finite:
            by_task.setdefault(cell.facts["task"], []).append(cell)
    panels = []
    for task, own in by_task.items():
        gained = [group for group in groups_of(own)[0] if group.gains is not None]
        cells_of = [(_settings(group), group) for group in gained]
        for name in _numeric_fields(settings for settings, _ in cells_of):
            families = _families(name, cells_of)
            if families:
                panels.append(Panel(task, name, str(gained[0].row.score_unit), families))
    return panels


def _settings(group: Group) -> CellSettings:
    return {"planner": group.name, **{name.removeprefix(PREFIX): value for name, value in group.settings}}


def _numeric_fields(cells: Iterable[CellSettings]) -> list[str]:
    """Return the fields with at least two values of which one is a number; those of the paper first."""
    values: dict[str, set[str]] = {}
    for settings in cells:
        for name in settings.keys() - set(NAMES):
            values.setdefault(name, set()).add(settings[name])
    found = [name for name, texts in values.items() if len(texts) > 1 and any(_number(t) is not None for t in texts)]
    first = [*SHORT, "step_size"]
    return sorted(found, key=lambda name: (first.index(name) if name in first else len(first), name))


def _families(name: str, cells: Sequence[tuple[CellSettings, Group]]) -> list[Family]:
    """Return the sets of cells that differ in this field alone and have at least two values of it."""
    gathered: dict[tuple[tuple[str, str], ...], dict[str, Group]] = {}
    for settings, group in cells:
        if name in settings and (settings[name] == "" or _number(settings[name]) is not None):
            others = tuple((other, text) for other, text in settings.items() if other != name)
            gathered.setdefault(others, {})[settings[name]] = group
    varying = {others: members for others, members in gathered.items() if len(members) > 1}
    families = []
    for others, members in varying.items():
        points = [_point(_number(text), group) for text, group in members.items()]
        points.sort(key=lambda point: -math.inf if point.value is None else point.value)
        base = str(next(iter(members.values())).row.base)
        families.append(Family(_label(dict(others), [dict(own) for own in varying]), base, points))
    return families


def _point(value: float | None, group: Group) -> Point:
    assert group.gains is not None
    by_seed = {seed: float(differences.mean()) for seed, differences in group.gains.tasks[0].items()}
    gain = Estimate.over(by_seed)
    assert gain is not None
    return Point(value, gain, by_seed)


def _label(own: CellSettings, families: Sequence[CellSettings]) -> str:
    """Return the settings in which a family differs from the others of its panel; its planner's name if in none."""
    kin = [other for other in families if other["planner"] == own["planner"]]
    differing = [name for name in own if len({other.get(name) for other in kin}) > 1]
    parts = [own["planner"]] if len(kin) < len(families) or not differing else []
    parts += [f"{SHORT.get(name, name)}={own[name] or UNSET}" for name in differing if name not in NAMES]
    return " ".join(parts + ([own["variant"]] if "variant" in differing else []))


def _number(text: str) -> float | None:
    """Return a recorded setting as a number; None where it is none, as true, "auto" and what is unset."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None
