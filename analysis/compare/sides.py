"""What is compared: the rows of a sweep as it was run last, or of the cells that it recorded at one commit.

Rows of two sides match if they have the same task and the same label, which is the planner's name with what varies in
its grid. Rows without such a counterpart match if task, planner and every setting that both sides know are the same, as
those of a grid over H do with a sweep that fixes H.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.runs import Records, facts_by_key
from analysis.table.comparison import cells_by_task
from analysis.table.differences import Scores
from analysis.table.rows import Group, groups_of

__all__ = ["Match", "Side", "match", "provenance_notes", "read_side", "scores_of"]

PROVENANCE = ("git_sha", "mpcwdwm", "torch", "mujoco", "device", "threads", "env_id", "dataset_sha256")
HASH = re.compile(r"([0-9a-f]{12})[0-9a-f]{28,52}(-dirty)?")  # of git or sha256; the first digits are shown
DESIGN = ("base", "world_model", "denoising_steps")  # beside the planner's own fields


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        name: as it was given, "SWEEP" or "SWEEP@COMMIT".
        groups: its rows that have a result, baselines first as planned; no published scores.
        notes: what has no result, and why.
    """

    name: str
    groups: Sequence[Group]
    notes: Sequence[str]

    def facts(self, name: str) -> dict[str, set[str]]:
        """Return task → what its cells have recorded under a name."""
        found: dict[str, set[str]] = {}
        for group in self.groups:
            for cell in group.cells:
                if cell.episodes is not None and name in cell.facts:
                    found.setdefault(group.row.task, set()).add(_shortened(str(cell.facts[name])))
        return found


@dataclass(frozen=True)
class Match:
    """Rows of both sides that are compared; ``by`` says what matches, "label" or "settings"."""

    a: Group
    b: Group
    by: str

    @property
    def same_records(self) -> bool:
        """Return whether both are the very same units of work."""
        return self.a.row.keys == self.b.row.keys

    @property
    def differs(self) -> str:
        """Return what is set otherwise, "horizon 3 → 5, world_model diffusion → mlp"; empty if nothing is."""
        own, other = _settings(self.a), _settings(self.b)
        names = [name for name in own if name in other and own[name] != other[name]]
        return ", ".join(f"{name} {own[name] or '–'} → {other[name] or '–'}" for name in names)


def read_side(uri: str, sweep: str, commit: str | None = None) -> Side:
    """Return one side from the records.

    Args:
        uri: of MLflow.
        sweep: as it was recorded.
        commit: the first digits of a git commit; None: the sweep as it was run last.

    Raises:
        UserError: the store, the sweep, or cells of that commit do not exist.
    """
    name = sweep if commit is None else f"{sweep}@{commit}"
    records = Records(uri)
    plan: dict[str, Any] = records.plan(sweep) if commit is None else {"cells": records.cells_at(sweep, commit)}
    cells = records.units(plan["cells"])
    episodes = records.episodes(cells)
    plan["failed"] = {**records.unreadable, **plan.get("failed", {})}
    by_task, notes = cells_by_task(plan, facts_by_key(cells), {}, episodes)
    groups: list[Group] = []
    for roles in by_task.values():
        rows, lacking = groups_of(roles.get("report", []))
        groups += [group for group in rows if group.cells and group.row.score_mean is not None]
        notes += lacking
    return Side(name, groups, [f"{name}: {note}" for note in notes])


def match(a: Side, b: Side) -> tuple[list[Match], list[Group], list[Group]]:
    """Return the rows that match, in the order of A, and those that only A and only B have."""
    found: dict[int, Match] = {}
    rest_a, rest_b = list(a.groups), list(b.groups)
    known = {name for group in a.groups for name in _settings(group)}
    known &= {name for group in b.groups for name in _settings(group)}
    for by, identity in (("label", _label), ("settings", lambda group: _design(group, known))):
        others = {identity(group): group for group in reversed(rest_b)}
        for group in list(rest_a):
            other = others.pop(identity(group), None)
            if other is not None and group.row.score_unit == other.row.score_unit:
                found[id(group)] = Match(group, other, by)
                rest_a.remove(group)
                rest_b.remove(other)
    return [found[id(group)] for group in a.groups if id(group) in found], rest_a, rest_b


def provenance_notes(a: Side, b: Side, tasks: Sequence[str]) -> list[str]:
    """Return what was recorded of code, machine and data that differs between the sides on the tasks both have."""
    notes = []
    for name in PROVENANCE:
        own, other = a.facts(name), b.facts(name)
        by_change: dict[str, list[str]] = {}
        for task in tasks:
            if task in own and task in other and own[task] != other[task]:
                change = f"{', '.join(sorted(own[task]))} → {', '.join(sorted(other[task]))}"
                by_change.setdefault(change, []).append(task)
        for change, changed in by_change.items():
            where = "" if len(changed) == len(tasks) else f" on {', '.join(changed)}"
            notes.append(f"{name}: {change}{where}")
    return notes


def scores_of(group: Group) -> Scores:
    """Return a row's scores, training seed → environment seed → score."""
    return {cell.seed: cell.scores for cell in group.cells if cell.episodes is not None}


def _shortened(text: str) -> str:
    return HASH.sub(r"\1\2", text)


def _label(group: Group) -> tuple[str, ...]:
    return group.row.task, group.row.label, group.row.kind or ""


def _settings(group: Group) -> Mapping[str, str]:
    """Return what a row's cells were made with: fields of the planner, base and world model."""
    own = {name: str(vars(group.row)[name] or "") for name in DESIGN}
    return {**own, **{name.removeprefix("planner."): value for name, value in group.settings}}


def _design(group: Group, known: set[str]) -> tuple[str, ...]:
    values = (f"{name}={value}" for name, value in sorted(_settings(group).items()) if name in known)
    return group.row.task, group.name, *values
