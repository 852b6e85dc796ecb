"""A sweep's results in the layout of the paper's tables: rows are tasks, columns methods, and averages stand below.

A planner with several cells on a task, a grid, has no column there: which of them would stand in it is a choice by the
scores shown. Each grid has a table of its own, an *ablation*: rows are settings, columns tasks.

Every number is a mean over training seeds with half of its 95 % interval over new training seeds and starting states.
Bold are the methods of a row, or the settings of a column, of which `perhaps_best` says that they may be the best.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.rendering import DASH, Strong, TableSection, with_half_width
from analysis.table.averages import AVERAGE, CHOSEN, Members, averages_over, methods_of
from analysis.table.differences import Scores, perhaps_best
from analysis.table.published_scores import published_scores
from analysis.table.rows import BELOW_CLONING, STILL_MOVING, Group, Row, published_group
from analysis.table.under_training import mark_averages

__all__ = ["Grid", "grids_frame", "paper_grids", "section_of", "with_published"]

MAZES = re.compile(r"mpcwdwm/(AntMaze|PointMaze)-")
GYM = re.compile(r"(HalfCheetah|Hopper|Walker2d|Ant)-v")
WIDEST = 6  # columns of an ablation that are tasks; with more tasks its columns are averages
BOLD = (
    "Bold: not distinguishable from the best. No other {entry} of the {line} is shown to score more, over new training "
    "seeds and starting states (paired where both were run for the same ones; one-sided, corrected for the number of "
    "{entry}s), so the truly best is bold with a chance of 95 %."
)
OTHERS_NUMBERS = "Published scores are their authors', with the standard deviation over seeds; they are not compared."
SECOND_HAND = "†: second-hand, quoted by others."


@dataclass(frozen=True)
class Entry:
    """One number of a table: None where there is none, with the reason in ``status``."""

    mean: float | None = None
    low: float | None = None  # 95 %, new training seeds
    high: float | None = None
    std: float | None = None  # over training seeds, of a published score
    is_published: bool = False
    best: bool | None = None  # `perhaps_best`
    marks: str = ""
    status: str = "ok"  # as `analysis.table.rows.Row.status`

    def text(self, *, signed: bool) -> str:
        """Return it as a cell: "70.1 ± 3.2", in bold where it may be the best."""
        if self.mean is None:
            return DASH if self.status == "ok" else self.status
        half = self.std if self.low is None or self.high is None else (self.high - self.low) / 2
        status = "" if self.status == "ok" else f" ({self.status})"
        shown = with_half_width(self.mean, half, sign=signed) + self.marks + status
        return Strong(shown) if self.best else shown


@dataclass(frozen=True)
class Line:
    """One row of a table."""

    label: str
    entries: list[Entry]  # one for each column
    is_average: bool = False


@dataclass(frozen=True)
class Grid:
    """One table in the paper's layout.

    Attributes:
        name: "comparison", or the planner of an ablation.
        heading: above it.
        caption: what its numbers and its bold print mean.
        corner: header of the column of labels.
        columns: headers of the others.
        lines: its rows.
        signed: whether its numbers are gains.
    """

    name: str
    heading: str
    caption: str
    corner: str
    columns: list[str]
    lines: list[Line]
    signed: bool = False


@dataclass(frozen=True)
class Place:
    """A task, or tasks that are averaged; ``rows`` are the methods' there, by label."""

    label: str
    tasks: list[str]
    rows: Mapping[str, Group]
    is_average: bool = False


def paper_grids(groups: Mapping[str, Sequence[Group]]) -> list[Grid]:
    """Return the comparison, if there is anything to compare, and an ablation for each planner with several cells.

    Args:
        groups: the rows of each task, as `analysis.table.comparison.Table` holds them.
    """
    by_task = {task: rows for task, rows in groups.items() if task != AVERAGE}
    methods = methods_of(by_task, by_task)
    places = _places(by_task, methods)
    varied = _planners_with_several_cells(by_task)
    compared = [label for label, rows in methods.items() if _is_compared(next(iter(rows.values())), varied)]
    grids = [_comparison(compared, methods, places)] if compared else []
    for planner in varied:
        labels = [label for label, rows in methods.items() if any(_is_of(group, planner) for group in rows.values())]
        grids.append(_ablation(planner, labels, methods, places))
    return grids


def with_published(groups: Mapping[str, Sequence[Group]], methods: Sequence[str]) -> dict[str, list[Group]]:
    """Return the rows with the published scores of these methods in place of those they have."""
    found: dict[str, list[Group]] = {}
    for task, rows in groups.items():
        own = [group for group in rows if group.row.kind != "published"]
        has_any = len(own) < len(rows)  # a dataset that is D4RL's own
        scores = published_scores(task, methods) if has_any else []
        found[task] = [*own, *(published_group(task, score) for score in scores)]
    return found


def section_of(grid: Grid) -> TableSection:
    """Return a table as text cells; above averages that follow tasks there is a line."""
    rows = [
        dict(
            zip(
                (grid.corner, *grid.columns),
                (line.label, *(entry.text(signed=grid.signed) for entry in line.entries)),
                strict=True,
            )
        )
        for line in grid.lines
    ]
    lines = grid.lines
    changes = {i for i in range(1, len(lines)) if lines[i].is_average != lines[i - 1].is_average}
    return TableSection(grid.heading, [rows], caption=grid.caption, ruled=changes)


def grids_frame(grids: Iterable[Grid]) -> pd.DataFrame:
    """Return the numbers of all tables, a row for each: table, row, column, mean, low, high, std, best, status."""
    return pd.DataFrame(
        [
            {
                "table": grid.name,
                "row": line.label,
                "column": column,
                "value": "gain" if grid.signed else "score",
                "mean": entry.mean,
                "low": entry.low,
                "high": entry.high,
                "published_std": entry.std,
                "best": entry.best,
                "marks": entry.marks.strip(),
                "status": entry.status,
            }
            for grid in grids
            for line in grid.lines
            for column, entry in zip(grid.columns, line.entries, strict=True)
        ]
    )


# ---- the tables ---------------------------------------------------------------------------------


def _comparison(labels: Sequence[str], methods: Mapping[str, Members], places: Sequence[Place]) -> Grid:
    rows = [[place.rows.get(label) for label in labels] for place in places]
    lines = []
    for place, groups in zip(places, rows, strict=True):
        best = perhaps_best([_scores(methods[label], place.tasks) for label in labels])
        entries = [_entry(group, is_best) for group, is_best in zip(groups, best, strict=True)]
        lines.append(Line(place.label, entries, place.is_average))
    entries = [entry for line in lines for entry in line.entries]
    units = {group.row.score_unit for line in rows for group in line if group is not None}
    caption = [
        f"{'Normalized score' if units <= {'normalized', None} else 'Score (return where no reference is known)'}: "
        "mean over training seeds ± half of the 95 % interval over new training seeds and starting states."
    ]
    caption += _about(entries, BOLD.format(entry="method", line="row"))
    if any(entry.is_published for entry in entries):
        caption.append(OTHERS_NUMBERS)
    if any("†" in entry.marks for entry in entries):
        caption.append(SECOND_HAND)
    chosen = [label.removesuffix(CHOSEN) for label in labels if label.endswith(CHOSEN)]
    caption += [f"One cell for each task, with settings of its own: {', '.join(chosen)}."] if chosen else []
    columns = [label.removesuffix(CHOSEN) for label in labels]
    return Grid("comparison", "Comparison", " ".join(caption), "task", columns, lines)


def _ablation(planner: str, labels: Sequence[str], methods: Mapping[str, Members], places: Sequence[Place]) -> Grid:
    tasks = [place for place in places if not place.is_average]
    averages = [place for place in places if place.is_average]
    shown = [*tasks, *averages] if len(tasks) <= WIDEST or not averages else averages
    members = [group for label in labels for group in methods[label].values() if _is_of(group, planner)]
    bases = list(dict.fromkeys(group.row.base or "" for group in members))
    signed = len(bases) == 1
    columns = []
    for place in shown:
        best = perhaps_best([_scores(methods[label], place.tasks) for label in labels])
        columns.append([_entry(place.rows.get(label), one, signed) for label, one in zip(labels, best, strict=True)])
    value = f"Gain over {bases[0]}, the same seeds and starting states" if signed else "Score"
    caption = [
        f"{value}: mean over training seeds ± half of the 95 % interval over new training seeds and starting states."
    ]
    caption += _about([entry for column in columns for entry in column], BOLD.format(entry="setting", line="column"))
    lines = [
        Line(label.removeprefix(planner).strip() or planner, list(entries))
        for label, entries in zip(labels, zip(*columns, strict=True), strict=True)
    ]
    heading = f"Ablation of {planner}"
    return Grid(planner, heading, " ".join(caption), "setting", [place.label for place in shown], lines, signed)


def _about(entries: Sequence[Entry], bold: str) -> list[str]:
    """Return what the caption says of bold print and marks, where there are any."""
    said = [bold] if any(entry.best is not None for entry in entries) else []
    if any(entry.low is None and entry.mean is not None and not entry.is_published for entry in entries):
        said.append("Below three training seeds there is no interval, and nothing is compared.")
    if any(STILL_MOVING in entry.marks for entry in entries):
        said.append(f"{STILL_MOVING}: its base is still moving at the end of training.")
    if any(BELOW_CLONING in entry.marks for entry in entries):
        said.append(f"{BELOW_CLONING}: its base is below cloning or its data.")
    return said


def _entry(group: Group | None, best: bool | None, gain: bool = False) -> Entry:
    if group is None:
        return Entry()
    row = group.row
    marks = "".join(f" {mark}" for mark, there in _marks(row) if there)
    numbers = (row.score_mean, row.score_seed_low, row.score_seed_high)
    if gain:
        numbers = (row.gain_mean, row.gain_seed_low, row.gain_seed_high)
    return Entry(*numbers, row.published_std, row.kind == "published", best, marks, row.status)


def _marks(row: Row) -> tuple[tuple[str, bool | None], ...]:
    return ("†", row.second_hand), (STILL_MOVING, row.still_moving), (BELOW_CLONING, row.below_cloning)


# ---- methods and places -------------------------------------------------------------------------


def _planners_with_several_cells(by_task: Mapping[str, Sequence[Group]]) -> list[str]:
    names = [[group.name for group in groups if group.is_planner] for groups in by_task.values()]
    return list(dict.fromkeys(name for own in names for name in own if own.count(name) > 1))


def _is_of(group: Group, planner: str) -> bool:
    return group.is_planner and group.name == planner


def _is_compared(group: Group, varied: Sequence[str]) -> bool:
    """Return whether a row has a column in the comparison: a policy, a planner with one cell, or a published score."""
    return group.row.kind != "dataset" and not (group.is_planner and group.name in varied)


def _places(by_task: Mapping[str, Sequence[Group]], methods: Mapping[str, Members]) -> list[Place]:
    """Return the tasks, domain by domain, each domain with its average, and the average of all at the end."""
    domains: dict[str, list[str]] = {}
    for task, groups in by_task.items():
        domains.setdefault(_domain(groups), []).append(task)
    raw = {task for task, groups in by_task.items() if any(group.row.score_unit == "return" for group in groups)}
    places = []
    for domain, tasks in domains.items():
        places += [
            Place(task, [task], {k: rows[task] for k, rows in methods.items() if task in rows}) for task in tasks
        ]
        if len(domains) > 1:
            places += _average(f"{domain} average", [task for task in tasks if task not in raw], by_task, methods)
    return places + _average(AVERAGE, [task for task in by_task if task not in raw], by_task, methods)


def _average(
    label: str, tasks: list[str], by_task: Mapping[str, Sequence[Group]], methods: Mapping[str, Members]
) -> list[Place]:
    if len(tasks) < 2:
        return []
    own = {task: by_task[task] for task in tasks}
    averages, _ = averages_over(own, methods)
    marked = mark_averages(list(averages.values()), own)
    return [Place(label, tasks, dict(zip(averages, marked, strict=True)), is_average=True)]


def _domain(groups: Sequence[Group]) -> str:
    env_id = next((group.row.env_id for group in groups if group.row.env_id), "")
    maze = MAZES.match(env_id)
    return maze[1] if maze else "Gym-MuJoCo" if GYM.match(env_id) else "other"


def _scores(rows: Members, tasks: Sequence[str]) -> list[Scores] | None:
    """Return a method's scores on each of some tasks; None if it lacks one."""
    own = [rows[task].cells if task in rows else () for task in tasks]
    found: list[Scores] = [{cell.seed: cell.scores for cell in cells if cell.episodes is not None} for cells in own]
    return found if all(found) else None
