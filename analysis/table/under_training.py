"""What a reader should know of the bases: whether training was over, and whether they are below cloning.

A base (rebrac, iql, any trained policy but bc) is judged on each task, and each of two marks has its own meaning:

* ‡ *still moving*: its score rose or fell at the end of training, so longer training might give what adaptation
  gives. A seed's move is the rise, over the last 20 % of updates, of the least-squares line through the points of its
  learning curve from 80 % of the updates to the end, both included; with three equally spaced points it is the last
  minus the first. The move is paired over seeds: its mean is compared with Student's t on the seeds' moves, however
  much the seeds' scores differ.
* § *below cloning or data*: on the same training seeds and starting states it scores less than bc, or it scores
  less than the mean return of the dataset's episodes. That is a fact about the base and says nothing of its training.

Both are marked only where they are shown for new training seeds. All moves of a sweep are one family of hypotheses,
all comparisons with bc and data another, and Holm's procedure decides. What is not shown is said in a note, with the
interval and, of a move, with the size that four of five sweeps like this one would show. Fewer than three seeds show
neither. A recording whose episodes are longer or shorter than the environment's is not compared with.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.rendering import number, seeds_text, signed, with_interval
from analysis.statistics import LEVEL, MIN_SEEDS, Evidence, Spread, UnpairedError, holm, paired_differences, seed_spread
from analysis.table.rows import BELOW_CLONING, STILL_MOVING, Cell, Group

__all__ = ["Curve", "base_keys", "mark_averages", "mark_bases", "move"]

Curve = Sequence[Mapping[str, Any]]  # a component's points in rising order of "step", as training wrote them

CLONE = "bc"  # what a base is compared with; not judged itself
LAST = 0.2  # share of the updates over which a trained policy's score no longer moves
RANGE = f"the last {LAST:.0%} of updates".replace("%", " %")
SAME_LIMIT = 0.01  # step limits of recording and environment that differ by less count as equal


def base_keys(cells: Iterable[Cell]) -> list[str]:
    """Return the keys of the components that are judged: bases but bc that were themselves evaluated, each once."""
    done = [cell.facts for cell in cells if cell.episodes is not None]
    judged = (facts for facts in done if facts["kind"] == "none" and facts["base"] != CLONE)
    return list(dict.fromkeys(str(facts["base_key"]) for facts in judged))


def move(curve: Curve, column: str) -> float | None:
    """Return by how much a learning curve rose over the last 20 % of updates; None below two points there.

    Args:
        curve: its points; the last one is at the end of training.
        column: the metric, in whose unit the move is.
    """
    end = float(curve[-1]["step"])
    points = pd.DataFrame([(point["step"], point.get(column)) for point in curve], dtype=float)
    # Points are at whole updates, so one meant for 80 % may be rounded to half an update before.
    late = points[np.isfinite(points[1]) & (points[0] + 0.5 >= (1 - LAST) * end)]
    if len(late) < 2:
        return None
    steps, values = late.to_numpy().T
    away = steps - steps.mean()
    slope = (away * (values - values[-1])).sum() / (away**2).sum()  # exactly 0 for a flat curve
    return float(slope * LAST * end)


@dataclass(frozen=True)
class Estimate:
    """One mean that a base is judged by, and how uncertain it is."""

    base: Group
    mean: float
    spread: Spread | None  # None: too few seeds
    what: str  # with which it is compared, or the reason why there is no mean


def mark_bases(
    by_task: Mapping[str, Sequence[Group]], curves: Mapping[str, Curve]
) -> tuple[dict[str, list[Group]], dict[str, list[str]]]:
    """Return the rows of all tasks with both marks filled in, and notes on each task's bases.

    A planner's row is marked as its base is. Rows of bc, planners on it, dataset and papers are not judged.

    Args:
        by_task: rows as `analysis.table.rows.groups_of` returns them.
        curves: learning curves by component key.
    """
    moves, levels = [], []
    notes: dict[str, list[str]] = {task: [] for task in by_task}
    for task, groups in by_task.items():
        baselines = [group for group in groups if group.row.kind == "none" and group.scores is not None]
        clones = [group for group in baselines if group.row.base == CLONE]
        for base in (group for group in baselines if group.row.base != CLONE):
            moves.append(_move_of(base, curves))
            compared = [_against_clone(base, clone) for clone in clones]
            levels += [estimate for estimate in (*compared, _against_dataset(base, groups, notes[task])) if estimate]
    moving, apart = _shown(moves), _shown(levels)
    strict = 1 - (1 - LEVEL) / max(1, sum(one.spread is not None for one in moves))  # Holm's, of the largest move
    below = [is_apart and level.mean < 0 for level, is_apart in zip(levels, apart, strict=True)]
    marks: dict[str, dict[str, bool | None]] = {}  # key of a base → its marks
    for estimate, is_shown in zip(moves, moving, strict=True):
        base = estimate.base
        own = [is_low for level, is_low in zip(levels, below, strict=True) if level.base is base]
        for cell in base.cells:
            marks[str(cell.facts["base_key"])] = {"still_moving": is_shown, "below_cloning": _joint(own)}
        notes[base.row.task].append(_note_of_move(estimate, is_shown, strict))
    for level, is_apart in zip(levels, apart, strict=True):
        notes[level.base.row.task] += _note_of_level(level, is_apart)
    return {task: [_marked(group, marks) for group in groups] for task, groups in by_task.items()}, notes


def mark_averages(averages: Sequence[Group], by_task: Mapping[str, Sequence[Group]]) -> list[Group]:
    """Return the average rows, marked where the row of one task is.

    Args:
        averages: as `analysis.table.averages.average_groups` returns them for ``by_task``.
        by_task: the rows of the tasks, marked; those in raw returns are in no average.
    """
    rows = [group for groups in by_task.values() for group in groups if group.row.score_unit != "return"]

    def is_member(group: Group, average: Group) -> bool:
        # the average of a planner with one cell per task has no base or variant where its cells differ in it
        same_base = average.row.base in (None, group.row.base)
        return group.name == average.name and same_base and average.row.variant in (None, group.row.variant)

    def of_members(average: Group) -> Group:
        members = [group.row for group in rows if group.cells and is_member(group, average)]
        moving, below = _joint(row.still_moving for row in members), _joint(row.below_cloning for row in members)
        return replace(average, row=replace(average.row, still_moving=moving, below_cloning=below))

    return [of_members(average) for average in averages]


# ---- what is estimated --------------------------------------------------------------------------


def _move_of(base: Group, curves: Mapping[str, Curve]) -> Estimate:
    """Return the mean move of a base; without spread, why it cannot be judged."""
    done = [cell for cell in base.cells if cell.episodes is not None]
    if len(done) < MIN_SEEDS:
        return Estimate(base, 0.0, None, _too_few(len(done)))
    column = "eval/return" if base.row.score_unit == "return" else "eval/normalized_score"
    own = {cell.seed: curves.get(str(cell.facts["base_key"])) for cell in done}
    if without := [seed for seed, curve in own.items() if not curve]:
        return Estimate(base, 0.0, None, f"there is no learning curve of {seeds_text(without)}")
    moves = {seed: move(curve, column) for seed, curve in own.items() if curve}
    if short := [seed for seed, value in moves.items() if value is None]:
        return Estimate(
            base, 0.0, None, f"the learning curve of {seeds_text(short)} has fewer than two scores in {RANGE}"
        )
    values = [value for value in moves.values() if value is not None]
    return Estimate(base, float(np.mean(values)), seed_spread(values), RANGE)


def _against_clone(base: Group, clone: Group) -> Estimate | None:
    """Return by how much a base is above bc on the same episodes; None if bc lacks some of them."""
    assert base.scores is not None
    assert clone.scores is not None
    try:
        differences = (paired_differences(_scores(base), _scores(clone)),)
    except UnpairedError:
        return None
    successes = base.scores.of == clone.scores.of == "successes"
    evidence = Evidence(differences, "differences" if successes else "scores", base.scores.starts_shared)
    return Estimate(base, evidence.mean(), evidence.over_new_seeds(), clone.row.label)


def _against_dataset(base: Group, groups: Sequence[Group], notes: list[str]) -> Estimate | None:
    """Return by how much a base is above the mean return of its data; None, with a note, where they do not compare."""
    assert base.scores is not None
    dataset = next((group.row.score_mean for group in groups if group.row.kind == "dataset"), None)
    if dataset is None:
        return None
    facts = next(cell.facts for cell in base.cells if cell.episodes is not None)
    names = ("dataset_longest_episode", "dataset_time_limit", "max_episode_steps")
    longest, cut, limit = (float(facts.get(name, np.nan)) for name in names)
    if longest > (1 + SAME_LIMIT) * limit or cut < (1 - SAME_LIMIT) * limit:  # False where one is unknown
        note = (
            f"{base.row.task}: the dataset's mean is no measure of the other rows: its episodes have up to "
            f"{longest:.0f} steps, the environment's {limit:.0f}"
        )
        notes += [note] if note not in notes else []
        return None
    return Estimate(base, base.scores.mean() - dataset, base.scores.over_new_seeds(), "the dataset's mean")


# ---- what is shown, and said --------------------------------------------------------------------


def _shown(estimates: Sequence[Estimate]) -> list[bool | None]:
    """Return for each estimate whether it is shown to differ from 0; None without a spread."""
    judged = [i for i, estimate in enumerate(estimates) if estimate.spread is not None]
    p_values = [e.spread.p_value(e.mean) for e in estimates if e.spread is not None]
    kept = dict(zip(judged, holm(p_values), strict=True))
    return [kept.get(i) for i in range(len(estimates))]


def _note_of_move(move: Estimate, is_shown: bool | None, level: float) -> str:
    row = move.base.row
    if move.spread is None:
        return f"{row.task}: whether {row.label} is still moving cannot be judged: {move.what}"
    said = with_interval(move.mean, *move.spread.interval(move.mean), sign=True)
    if is_shown:
        return f"{row.task}: {row.label} is still moving {STILL_MOVING}: its score moved by {said} over {RANGE}"
    return (
        f"{row.task}: {row.label} is not shown to be still moving: its score moved by {said} over {RANGE}; "
        f"a move of {number(move.spread.detectable(level))} is seen in four of five cases"
    )


def _note_of_level(level: Estimate, is_shown: bool | None) -> list[str]:
    """Return a note unless the base is shown to be above what it is compared with."""
    row = level.base.row
    start = f"{row.task}: {row.label} is"
    if level.spread is None:
        return [f"{start} {signed(level.mean)} beside {level.what}, no verdict: {_too_few(row.n_seeds or 0)}"]
    if is_shown and level.mean < 0:
        low, high = level.spread.interval(-level.mean)
        said = with_interval(-level.mean, low, high)
        return [f"{start} {said} below {level.what} {BELOW_CLONING}"]
    if is_shown:
        return []
    said = with_interval(level.mean, *level.spread.interval(level.mean), sign=True)
    return [f"{start} not shown to differ from {level.what}: {said}"]


def _too_few(seeds: int) -> str:
    return f"that takes three training seeds and there {'is 1' if seeds == 1 else f'are {seeds}'}"


def _joint(answers: Iterable[bool | None]) -> bool | None:
    """Return True if one of them is True, else None if one is unknown or there are none."""
    known = list(answers)
    if True in known:
        return True
    return None if None in known or not known else False


def _marked(group: Group, marks: Mapping[str, Mapping[str, bool | None]]) -> Group:
    own = [marks.get(str(cell.facts["base_key"]), {}) for cell in group.cells]
    moving, below = (_joint(each.get(name) for each in own) for name in ("still_moving", "below_cloning"))
    return replace(group, row=replace(group.row, still_moving=moving, below_cloning=below))


def _scores(group: Group) -> dict[int, dict[int, float]]:
    return {cell.seed: cell.scores for cell in group.cells if cell.episodes is not None}
