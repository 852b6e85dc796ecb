"""Sentences below the table: whether adaptation helps, and whether the rows are comparable.

A gain or a harm is called shown for new training seeds: the policies at hand are a few draws from what training gives.
All cells of a sweep, averages included, are one family of hypotheses, and Holm's procedure decides which are shown.
So where nothing has an effect, at most one sweep in twenty has a sentence that says otherwise, however many cells it
has and whatever they have in common. Few seeds that agree by chance show little: `analysis.statistics.least_p`.
`tests/benchmarks/verdicts.py` measures this, and the power.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.rendering import number, signed, with_interval
from analysis.statistics import LEVEL, MIN_SEEDS, Evidence, holm, least_p
from analysis.table.rows import BELOW_CLONING, STILL_MOVING, Group

__all__ = ["chosen_notes", "mixture_notes", "verdicts"]

# May change numbers or times although they are not part of a key.
COMPARABLE = ("device", "threads", "torch", "mujoco", "mpcwdwm")
MOST_SEEDS = 100  # enough for a table of any size
NAMED = 3  # cells that a sentence names; it counts the others


def verdicts(by_task: Mapping[str, Sequence[Group]]) -> list[str]:
    """Return one sentence for each task on what all of its planners' cells gain; none for a task without planners.

    Args:
        by_task: the rows of each task, and those of the average under its name.
    """
    cells = [group for groups in by_task.values() for group in groups if group.is_planner]
    judged = [(group, p) for group in cells if group.gains and (p := group.gains.p_value()) is not None]
    kept = holm([p for _, p in judged])
    shown = {id(group): is_shown for (group, _), is_shown in zip(judged, kept, strict=True)}
    too_few = _too_few_for([group.gains for group, _ in judged if group.gains])
    of_task = {task: [group for group in groups if group.is_planner] for task, groups in by_task.items()}
    sentences = (_sentence(task, planners, shown, too_few) for task, planners in of_task.items())
    return [sentence for sentence in sentences if sentence]


def _too_few_for(evidence: Sequence[Evidence]) -> str:
    """Return what it takes to show anything in a table of so many cells, if none has it; else nothing."""
    k = len(evidence)
    level = (1 - LEVEL) / max(1, k)  # Holm's, of the smallest p-value
    if not evidence or min(own.least_p() for own in evidence) <= level:
        return ""
    have = max(len(own.tasks[0]) for own in evidence)
    seeds = next(n for n in range(MIN_SEEDS, MOST_SEEDS) if least_p(n, MOST_SEEDS) <= level)
    more = f"{seeds} training seeds" if seeds > have else "more episodes"
    return f"; in a table of {k} cells it takes {more} to show anything"


def _sentence(task: str, cells: Sequence[Group], shown: Mapping[int, bool], too_few: str) -> str | None:
    """Return the sentence of one task.

    Args:
        task: its name.
        cells: the rows of its planners.
        shown: id of a row that was judged → whether its gain or harm is shown.
        too_few: what it takes to show anything, if no row of the table has it.
    """
    if not cells:
        return None
    judged = sorted((c for c in cells if id(c) in shown), key=lambda c: c.row.gain_mean or 0.0, reverse=True)
    lacking = [cell for cell in cells if id(cell) not in shown]
    if not judged:
        return f"{task}: no verdict: {_missing(lacking)}"
    gaining = [cell for cell in judged if shown[id(cell)] and (cell.row.gain_mean or 0) > 0]
    harming = [cell for cell in reversed(judged) if shown[id(cell)] and (cell.row.gain_mean or 0) < 0]
    open_ = [cell for cell in judged if not shown[id(cell)]]
    k = len(judged)
    parts = [
        f"{what} shown for new training seeds{f' in {len(found)} of {k} cells' if k > 1 else ''}: {_listed(found)}"
        for what, found in (("gain", gaining), ("harm", harming))
        if found
    ]
    if open_ and k == 1:
        parts.append(f"neither gain nor harm shown for new training seeds: {_named(open_[0])}")
    elif open_:
        parts.append(f"neither shown in {len(open_)} of {k} cells, among them the largest estimate {_named(open_[0])}")
    if lacking:
        parts.append(f"no verdict on {len(lacking)} {'cell' if len(lacking) == 1 else 'cells'}: {_missing(lacking)}")
    return f"{task}: {'; '.join(parts)}{too_few}{_on_bases(judged)}"


def _named(cell: Group) -> str:
    row = cell.row
    gain = with_interval(row.gain_mean or 0.0, row.gain_seed_low, row.gain_seed_high, sign=True)
    return f"{row.label} {gain} over {row.base or 'the base of each task'}"


def _listed(cells: Sequence[Group]) -> str:
    more = len(cells) - NAMED
    return ", ".join(map(_named, cells[:NAMED])) + (f" and {more} more" if more > 0 else "")


def _missing(cells: Sequence[Group]) -> str:
    """Say what evidence is lacking for a verdict."""
    reasons = []
    for cell in cells:
        seeds = cell.row.n_seeds or 0
        if cell.gains is None:
            reasons.append("there is no paired gain")
        elif 0 < seeds < MIN_SEEDS:
            reasons.append(f"it takes {MIN_SEEDS} training seeds, and there {'is 1' if seeds == 1 else f'are {seeds}'}")
        elif cell.gains.over_new_seeds() is None:
            reasons.append(f"it takes {MIN_SEEDS} training seeds, the same on every task")
        else:
            reasons.append("it takes two episodes of each training seed")
    return ", ".join(dict.fromkeys(reasons))


def _on_bases(cells: Sequence[Group]) -> str:
    """Return what is to be said of the bases of the cells, which a trained or a better base might not give."""
    said = ""
    for mark, is_marked, what in (
        (
            STILL_MOVING,
            lambda row: row.still_moving,
            "is still moving {}, so this does not say what a trained policy gains",
        ),
        (BELOW_CLONING, lambda row: row.below_cloning, "is below cloning or its data {}"),
    ):
        bases = dict.fromkeys(cell.row.base or "the base of a task" for cell in cells if is_marked(cell.row))
        said += "".join(f"; {base} {what.format(mark)}" for base in bases)
    return said


def chosen_notes(task: str, candidates: Sequence[Group], reported: Sequence[Group]) -> list[str]:
    """Return a note on the scores by which the reported cells of a task were chosen, if there was a selection."""
    planners = [group for group in candidates if group.is_planner]
    if not planners:
        return []
    shown = {(group.name, group.settings) for group in reported if group.is_planner and group.settings}
    parts = []
    for group in planners:
        row = group.row
        score = "no score" if row.score_mean is None else f"score {number(row.score_mean)}"
        gain = "" if row.gain_mean is None else f", gain {signed(row.gain_mean)}"
        parts.append(f"{row.label}: {score}{gain}{' (chosen)' if (group.name, group.settings) in shown else ''}")
    return [f"{task}: the cell was chosen on other seeds, which are not part of the table, among {'; '.join(parts)}"]


def mixture_notes(units: pd.DataFrame) -> list[str]:
    """Flag rows that were not computed alike: several devices, thread counts or versions at one stage.

    Args:
        units: rows of `analysis.runs.Records.units`, cells and components.
    """
    notes = []
    stages: Mapping[str, pd.DataFrame] = {
        f"training of {name}": part for name, part in units[units["mpcwdwm.kind"] == "component"].groupby("method")
    }
    for stage, part in {"evaluation": units[units["mpcwdwm.kind"] == "cell"], **stages}.items():
        for name in COMPARABLE:
            counts = part[name].value_counts().sort_index()
            if len(counts) > 1:
                listed = ", ".join(f"{value} ({count})" for value, count in counts.items())
                notes.append(f"⚠ mixture of {name} in {stage}: {listed}; the rows may not be comparable")
    return notes
