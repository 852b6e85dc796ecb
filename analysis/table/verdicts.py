"""Sentences below the table: whether adaptation helps, and whether the rows are comparable.

A gain is called shown only if its interval excludes zero after correcting for the number of cells it
is the best of (Bonferroni): the best of many cells without effect looks like a gain.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.rendering import DASH, interval_text, number, signed
from analysis.statistics import LEVEL, Interval
from analysis.table.rows import UNDER_TRAINED, Group, Row

__all__ = ["chosen_notes", "mixture_notes", "verdict"]

# May change numbers or times although they are not part of a key.
COMPARABLE = ("device", "threads", "torch", "mujoco", "mpcwdwm")


def verdict(task: str, groups: Sequence[Group]) -> str | None:
    """Return one sentence on what the planners of one task gain; None if it has no planner."""
    planners = [group for group in groups if group.is_planner]
    gained = [group for group in planners if group.gains is not None and group.row.gain_mean is not None]
    if not planners:
        return None
    if not gained:
        return f"{task}: no cell has a paired gain, so no conclusion"
    best = max(gained, key=lambda group: group.row.gain_mean or 0.0)
    row, k = best.row, len(gained)
    gain = _gain_text(row)
    cell = row.label if k == 1 else f"best-looking cell {row.label}"
    assert best.gains is not None
    counted = best.gains.for_these_policies(level=1 - (1 - LEVEL) / k)
    sentence = f"{task}: {cell} gains {gain} over {row.base}: {_conclusion(row, counted, k)}"
    if k > 1:
        sentence += f"; it is the best of {k} cells, so its gain is optimistic"
    harmed = sum(g.row.gain_high is not None and g.row.gain_high < 0 for g in gained)
    if harmed:
        sentence += f"; {harmed} of {k} {'shows' if harmed == 1 else 'show'} harm"
    if row.under_trained:
        sentence += f"; {row.base} is under-trained {UNDER_TRAINED}, so this does not say what a trained policy gains"
    return sentence


def _gain_text(row: Row) -> str:
    """Return a gain and its interval; numbers that round to zero have two significant digits, for the sign."""

    def text(value: float) -> str:
        return number(value, "+.2g" if 0 < abs(value) < 0.05 else "+.1f")

    gain = text(row.gain_mean or 0.0)
    if row.gain_low is None or row.gain_high is None:
        return f"{gain} {DASH}"
    return f"{gain} [{text(row.gain_low)}, {text(row.gain_high)}]"


def _conclusion(row: Row, counted: Interval | None, k: int) -> str:
    if row.gain_low is None or row.gain_high is None or counted is None:
        return "one episode per seed, nothing shown"
    if row.gain_high < 0:
        return "harm shown for these policies"
    if row.gain_low <= 0:
        return "no gain shown"
    if counted.low <= 0:
        return f"no gain shown once the choice among {k} cells is counted"
    seeds = interval_text(row.gain_seed_low, row.gain_seed_high, "+.1f")
    if row.gain_seed_low is None:
        return "gain shown for these policies; an interval over new training seeds takes three seeds"
    if row.gain_seed_low > 0:
        return f"gain shown for these policies and for new training seeds {seeds}"
    return f"gain shown for these policies, not for new training seeds {seeds}"


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
