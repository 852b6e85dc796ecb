"""Which bases are under-trained: a gain over one of those may be one of longer training.

A base (rebrac, iql, any trained policy but bc) is judged on each task by three questions:

* *Does its score still move?* A seed's move is the rise, over the last 20 % of updates, of the least-squares line
  through the points of its learning curve from 80 % of the updates to the end, both included; with three equally
  spaced points it is the last minus the first. The base's move is the mean over training seeds. It counts if its
  size exceeds the half width of the score's 95 % interval over new training seeds, so that it is large beside the
  uncertainty of the score, and the half width of its own 95 % interval over new training seeds (Student's t on the
  seeds' moves), so that it is not the noise of a few episodes. A move between the two cannot be told from noise.
* *Does it beat bc?* The mean paired difference to bc, same training seeds and environment seeds, is above zero. It
  is asked where the sweep has those episodes of bc.
* *Does it beat its data?* Its score is above the mean return of the dataset's episodes.

A base is under-trained if it moves, or fails to beat one of the two. If none of this is shown but the move is not
known (fewer than three seeds, no curve, fewer than two points of it in that range, noise), it cannot be judged.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.rendering import interval_text, seeds_text, signed
from analysis.statistics import Evidence, Interval, UnpairedError, paired_differences, seed_interval
from analysis.table.rows import UNDER_TRAINED, Cell, Group

__all__ = ["Curve", "base_keys", "mark_averages", "mark_under_trained", "move"]

Curve = Sequence[Mapping[str, Any]]  # a component's points in rising order of "step", as training wrote them

CLONE = "bc"  # what a base has to beat; not judged itself
LAST = 0.2  # share of the updates over which a trained policy's score no longer moves
RANGE = f"the last {LAST:.0%} of updates".replace("%", " %")


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
class Answer:
    """The answer to one question about a base: whether it is under-trained (None: unknown), and the reason."""

    against: bool | None
    reason: str = ""


def mark_under_trained(groups: Sequence[Group], curves: Mapping[str, Curve]) -> tuple[list[Group], list[str]]:
    """Return the rows of one task with ``under_trained`` filled in, and a note on each base that is not trained.

    A planner's row is marked as its base is. Rows of bc, planners on it, dataset and papers are not judged.

    Args:
        groups: as `analysis.table.rows.groups_of` returns them.
        curves: learning curves by component key.
    """
    baselines = [group for group in groups if group.row.kind == "none" and group.scores is not None]
    clones = [group for group in baselines if group.row.base == CLONE]
    dataset = next((group.row.score_mean for group in groups if group.row.kind == "dataset"), None)
    judged: dict[str, bool | None] = {}  # base key → whether it is under-trained
    notes = []
    for base in baselines:
        if base not in clones:
            answers = [_moving(base, curves), *(_below_clone(base, clone) for clone in clones)]
            answers += [] if dataset is None else [_below_dataset(base, dataset)]
            verdict = _joint(answer.against for answer in answers)
            judged |= dict.fromkeys((str(cell.facts["base_key"]) for cell in base.cells), verdict)
            notes += _notes(base, verdict, answers)
    return [_marked(group, (judged.get(str(c.facts["base_key"])) for c in group.cells)) for group in groups], notes


def mark_averages(averages: Sequence[Group], by_task: Mapping[str, Sequence[Group]]) -> list[Group]:
    """Return the average rows, under-trained where the row of one task is.

    Args:
        averages: as `analysis.table.averages.average_groups` returns them for ``by_task``.
        by_task: the rows of the tasks, marked; those in raw returns are in no average.
    """
    rows = [group for groups in by_task.values() for group in groups if group.row.score_unit != "return"]

    def is_member(group: Group, average: Group) -> bool:
        # the average of a planner with one cell per task has no base or variant where its cells differ in it
        same_base = average.row.base in (None, group.row.base)
        return group.name == average.name and same_base and average.row.variant in (None, group.row.variant)

    return [
        _marked(average, (group.row.under_trained for group in rows if group.cells and is_member(group, average)))
        for average in averages
    ]


def _moving(base: Group, curves: Mapping[str, Curve]) -> Answer:
    """Judge whether a base's score still moves."""
    assert base.scores is not None
    done = [cell for cell in base.cells if cell.episodes is not None]
    scores = base.scores.for_new_seeds()
    if scores is None:
        return Answer(None, f"that takes three training seeds and there {'is 1' if len(done) == 1 else 'are 2'}")
    column = "eval/return" if base.row.score_unit == "return" else "eval/normalized_score"
    own = {cell.seed: curves.get(str(cell.facts["base_key"])) for cell in done}
    if without := [seed for seed, curve in own.items() if not curve]:
        return Answer(None, f"there is no learning curve of {seeds_text(without)}")
    moves = {seed: move(curve, column) for seed, curve in own.items() if curve}
    if short := [seed for seed, value in moves.items() if value is None]:
        return Answer(None, f"the learning curve of {seeds_text(short)} has fewer than two scores in {RANGE}")
    values = [value for value in moves.values() if value is not None]
    mean, noise = float(np.mean(values)), seed_interval(values)
    assert noise is not None
    allowed, spread = scores.half_width, noise.half_width
    text = f"its score moved by {signed(mean)} over {RANGE} (interval ±{allowed:.1f}, of the move ±{spread:.1f})"
    if abs(mean) <= allowed:
        return Answer(False, text)
    return Answer(True, text) if abs(mean) > spread else Answer(None, f"{text}, which may be noise")


def _below_clone(base: Group, clone: Group) -> Answer:
    """Judge whether a base fails to beat bc on the same episodes; if bc lacks some of them, it counts as no failure."""
    try:
        differences = (paired_differences(_scores(base), _scores(clone)),)
    except UnpairedError:
        return Answer(False)
    successes = (
        base.scores is not None and clone.scores is not None and base.scores.of == clone.scores.of == "successes"
    )
    evidence = Evidence(differences, of="differences" if successes else "scores")
    interval = evidence.for_new_seeds() or evidence.for_these_policies()
    return _below(evidence.mean(), interval, clone.row.label)


def _below_dataset(base: Group, dataset: float) -> Answer:
    """Judge whether a base fails to beat the mean return of its data."""
    assert base.scores is not None
    interval = base.scores.for_new_seeds() or base.scores.for_these_policies()
    shifted = Interval(interval.low - dataset, interval.high - dataset) if interval else None
    return _below(base.scores.mean() - dataset, shifted, "the dataset's mean")


def _below(difference: float, interval: Interval | None, what: str) -> Answer:
    ends = f" {interval_text(-interval.high, -interval.low)}" if interval else ""
    return Answer(difference <= 0, f"it is {abs(difference):.1f}{ends} below {what}")


def _notes(base: Group, verdict: bool | None, answers: Sequence[Answer]) -> list[str]:
    if verdict is False:
        return []
    unknown = [f"whether its score still moves cannot be judged: {a.reason}" for a in answers if a.against is None]
    row = base.row
    if verdict is None:
        return [f"{row.task}: {row.label} may be under-trained; {unknown[0]}"]
    reasons = [answer.reason for answer in answers if answer.against]
    return [f"{row.task}: {row.label} is under-trained {UNDER_TRAINED}: {'; '.join(reasons + unknown)}"]


def _joint(answers: Iterable[bool | None]) -> bool | None:
    """Return True if one of them is True, else None if one is unknown or there are none."""
    known = list(answers)
    if True in known:
        return True
    return None if None in known or not known else False


def _marked(group: Group, answers: Iterable[bool | None]) -> Group:
    return replace(group, row=replace(group.row, under_trained=_joint(answers)))


def _scores(group: Group) -> dict[int, dict[int, float]]:
    return {cell.seed: cell.scores for cell in group.cells if cell.episodes is not None}
