"""The differences of two sweeps, or of two commits of one, with their intervals and a verdict.

A difference is B minus A, for new training seeds and starting states (`analysis.table.differences`). Which differences
are *shown* is decided by Holm's procedure over all of them, averages included: where nothing differs, one comparison in
twenty says otherwise. Rows that are the very same records on both sides are not tested.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import pandas as pd

from analysis import rendering
from analysis.compare.sides import Match, Side, match, provenance_notes, scores_of
from analysis.rendering import DASH, Strong, TableSection, number, signed, with_interval
from analysis.statistics import LEVEL, holm_adjusted
from analysis.table.averages import AVERAGE
from analysis.table.differences import difference
from analysis.table.html import to_html
from analysis.table.latex import to_latex

__all__ = ["Compared", "Comparison", "Form", "compare"]

Form = Literal["text", "markdown", "latex", "html", "csv", "json"]
WRITERS = {"markdown": rendering.to_markdown, "html": to_html}
LEAST_SHOWN = 0.001  # smaller p-values are written as such
LISTED = 8  # rows of one side that a note names; it counts the others
CAPTION = (
    "B − A: mean difference of scores, with its 95 % interval over new training seeds and starting states (not "
    "corrected); p: of a difference of 0, corrected (Holm) for all rows here; bold where it is at most 0.05."
)


@dataclass(frozen=True)
class Compared:
    """One row: a method on a task, or over all tasks. None where there is no number."""

    task: str
    method: str
    a: float  # mean score
    b: float
    difference: float  # B minus A; of the pairs if it is paired
    low: float | None  # 95 %, new training seeds and starting states
    high: float | None
    p: float | None
    p_corrected: float | None
    verdict: str  # "higher", "lower", "not shown", "no verdict", "same records"
    paired: bool
    n_seeds: int  # in common if paired, else of the side that has fewer
    n_episodes: int
    matched_by: str  # "label" or "settings"
    differs: str  # what is set otherwise
    score_unit: str | None


@dataclass(frozen=True)
class Comparison:
    """Two sides, A and B.

    Attributes:
        a: name of the first.
        b: name of the second.
        rows: what both have, task by task in the order of A, averages last.
        only_a: (task, method) of the rows that only A has.
        only_b: those that only B has.
        notes: what differs in code, machine and data, and what lacks a result.
    """

    a: str
    b: str
    rows: Sequence[Compared]
    only_a: Sequence[tuple[str, str]]
    only_b: Sequence[tuple[str, str]]
    notes: Sequence[str]

    @property
    def headline(self) -> str:
        """Return one sentence on all rows."""
        tested = [row for row in self.rows if row.p is not None]
        same = sum(row.verdict == "same records" for row in self.rows)
        if not self.rows:
            return "no row of A has a counterpart in B"
        said = [f"{same} of {len(self.rows)} rows are the same records"] if same else []
        if tested:
            higher, lower, neither = (
                sum(row.verdict == name for row in tested) for name in ("higher", "lower", "not shown")
            )
            rows = "difference" if len(tested) == 1 else "differences"
            said.append(
                f"of {len(tested)} {rows} B is shown to be higher in {higher}, lower in {lower}, "
                f"and neither in {neither}"
            )
        if lacking := sum(row.verdict == "no verdict" for row in self.rows):
            said.append(f"no verdict on {lacking}: it takes three training seeds on both sides, and two episodes")
        return "; ".join(said)

    def frame(self) -> pd.DataFrame:
        """Return the rows as a data frame; its columns are the fields of `Compared`."""
        return pd.DataFrame([vars(row) for row in self.rows], columns=[column.name for column in fields(Compared)])

    def render(self, form: Form, width: int = 100) -> str:
        """Return the comparison for a terminal of ``width`` columns, as a page, as LaTeX, as CSV or as JSON."""
        if form == "csv":
            return self.frame().to_csv(index=False, lineterminator="\n", float_format="%.6g")
        if form == "json":
            lacking = {"only_a": self.only_a, "only_b": self.only_b}
            content = {"a": self.a, "b": self.b, "headline": self.headline, "rows": list(map(vars, self.rows))}
            return json.dumps({**content, **lacking, "notes": self.notes}, indent=1, ensure_ascii=False) + "\n"
        notes = [*self._only(), *self.notes]
        if form == "latex":
            return to_latex(f"{self.a}-{self.b}", [self._one_table()], [self.headline, *notes])
        found = TableSection(f"A is {self.a}, B is {self.b}", [], [self.headline])
        tasks = list(dict.fromkeys(row.task for row in self.rows))
        tables = [TableSection(of, [[_shown(row) for row in self.rows if row.task == of]]) for of in tasks]
        tables = [*tables[:-1], *(replace(last, caption=CAPTION) for last in tables[-1:])]
        if form == "text":
            return rendering.to_text([rendering.in_pieces(one, width) for one in (found, *tables)], notes, width)
        return WRITERS[form](f"{self.a} and {self.b}", [found, *tables], notes)

    def _one_table(self) -> TableSection:
        """Return the rows of all tasks in one table, a line above each task."""
        starts = [i for i, row in enumerate(self.rows) if i == 0 or row.task != self.rows[i - 1].task]
        rows = [{"task": row.task if i in starts else "", **_shown(row)} for i, row in enumerate(self.rows)]
        caption = f"A is {self.a}, B is {self.b}. {CAPTION}"
        return TableSection("Differences", [rows] if rows else [], caption=caption, ruled=starts[1:], texts=2)

    def _only(self) -> list[str]:
        return [
            f"only in {side}: {', '.join(f'{method} on {task}' for task, method in found[:LISTED])}"
            + (f" and {len(found) - LISTED} more" if len(found) > LISTED else "")
            for side, found in (("A", self.only_a), ("B", self.only_b))
            if found
        ]


def compare(a: Side, b: Side) -> Comparison:
    """Return the differences of two sides, as `analysis.compare.sides.read_side` reads them."""
    matches, only_a, only_b = match(a, b)
    tasks = list(dict.fromkeys(one.a.row.task for one in matches))
    rows = [_compared(one.a.row.task, [one]) for task in tasks for one in matches if one.a.row.task == task]
    rows += _averages(matches)
    corrected = holm_adjusted([row.p for row in rows])
    judged = [_judged(row, p) for row, p in zip(rows, corrected, strict=True)]
    return Comparison(
        a.name,
        b.name,
        judged,
        [(group.row.task, group.row.label) for group in only_a],
        [(group.row.task, group.row.label) for group in only_b],
        [*provenance_notes(a, b, tasks), *a.notes, *b.notes],
    )


def _averages(matches: Sequence[Match]) -> list[Compared]:
    """Return the difference over all tasks of every method that both sides have on each, from two tasks on."""
    scored = [one for one in matches if one.a.row.score_unit != "return"]
    tasks = {one.a.row.task for one in scored}
    by_label: dict[str, list[Match]] = {}
    for one in scored:
        by_label.setdefault(one.a.row.label, []).append(one)
    return [_compared(AVERAGE, own) for own in by_label.values() if 2 <= len(own) == len(tasks)]


def _compared(task: str, matches: Sequence[Match]) -> Compared:
    found = difference([scores_of(one.b) for one in matches], [scores_of(one.a) for one in matches])
    same = all(one.same_records for one in matches)
    interval = found.spread.interval(found.mean) if found.spread and not same else None
    return Compared(
        task=task,
        method=matches[0].a.row.label,
        a=_mean(one.a.row.score_mean for one in matches),
        b=_mean(one.b.row.score_mean for one in matches),
        difference=found.mean,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        p=None if same else found.p,
        p_corrected=None,
        verdict="same records" if same else "no verdict",
        paired=found.paired,
        n_seeds=found.n_seeds,
        n_episodes=found.n_episodes,
        matched_by=matches[0].by,
        differs="; ".join(dict.fromkeys(one.differs for one in matches if one.differs)),
        score_unit=matches[0].a.row.score_unit,
    )


def _mean(values: Iterable[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def _judged(row: Compared, p: float | None) -> Compared:
    if p is None:
        return row
    shown = "higher" if row.difference > 0 else "lower"
    return replace(row, p_corrected=p, verdict=shown if p <= 1 - LEVEL else "not shown")


def _shown(row: Compared) -> dict[str, str]:
    """Return a row as text, by header."""
    if row.low is None:
        change = signed(row.difference)
    else:
        change = with_interval(row.difference, row.low, row.high, sign=True)
    p = DASH if row.p_corrected is None else f"{row.p_corrected:.3f}"
    return {
        "method": row.method + (f" ({row.differs})" if row.differs else ""),
        "A": number(row.a),
        "B": number(row.b),
        "B − A [95 %]": Strong(change) if row.verdict in ("higher", "lower") else change,
        "p": f"< {LEAST_SHOWN}" if row.p_corrected is not None and row.p_corrected < LEAST_SHOWN else p,
        "verdict": row.verdict,
        "seeds × episodes": f"{row.n_seeds} × {row.n_episodes / row.n_seeds:g}" + ("" if row.paired else ", unpaired"),
    }
