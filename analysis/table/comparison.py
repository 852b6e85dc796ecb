"""The comparison table: every method on every task, beside the dataset and the published scores.

`build_table` reads the records, `Table` renders them. The CSV depends on
the episodes, the learning curves and the plan alone: fixed columns, fixed formats, the plan's order, no time of day.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from typing import Any, Literal

import pandas as pd

from analysis import rendering
from analysis.rendering import (
    DASH,
    TableSection,
    in_pieces,
    interval_text,
    reason_missing,
    signed,
    with_half_width,
    with_interval,
)
from analysis.runs import Records, facts_by_key, part_keys
from analysis.table.averages import AVERAGE, average_groups
from analysis.table.html import to_html
from analysis.table.latex import to_latex
from analysis.table.paper_layout import grids_frame, paper_grids, section_of, with_published
from analysis.table.published_scores import PUBLISHED_METHODS
from analysis.table.rows import BELOW_CLONING, STILL_MOVING, Cell, Group, Row, groups_of
from analysis.table.under_training import base_keys, mark_averages, mark_bases
from analysis.table.verdicts import chosen_notes, mixture_notes, verdicts

__all__ = ["Form", "Layout", "Table", "build_table", "cells_by_task", "row_texts"]

Form = Literal["text", "markdown", "latex", "html", "csv", "json"]
Layout = Literal["long", "paper"]
NOT_IN_TEXT = ("score, new seeds", "hours", "seeds × episodes")  # columns for which a terminal has no room
WRITERS = {"markdown": rendering.to_markdown, "latex": to_latex, "html": to_html}
COLUMNS = [column.name for column in fields(Row)]
FactsByKey = Mapping[str, Mapping[str, Any]]  # by key
LEGEND = (
    "score: mean over training seeds of per-seed means, with the 95 % interval over episodes for these trained "
    "policies (Student's t on means per starting state; of success rates Wilson's, of their gains Bonett and Price's)",
    "gain: paired with the base policy, same training seed and same environment seed, with the same interval",
    "new seeds: 95 % interval over new training seeds and starting states, not corrected for the number of rows; "
    "– below three seeds",
    "sentences and marks: corrected (Holm) for all rows or bases of this table, unlike the intervals beside them, so "
    "that where nothing has an effect one table in twenty says otherwise; "
    "an event of one episode in 20 stays unseen in 30 episodes in 21 % of cases, in 100 in 0.6 %",
    "evals: network evaluations to act, per step: inputs that pass through a network, each denoising step and each "
    "network of an ensemble by itself, and again on a gradient's way back; the same on any machine",
    "hours: processor hours (threads × time; GPU-hours where marked) of the evaluation and of the training of all "
    "the row is built on; in the average row of all tasks together",
)
MARKS = {
    "still_moving": f"{STILL_MOVING} still moving: the base's score is shown to move over the last 20 % of updates; "
    "longer training might give the same gain",
    "below_cloning": f"{BELOW_CLONING} below cloning or data: the base is shown to be below bc or the dataset's mean",
}
PUBLISHED_NOTE = (
    "published scores come from their authors' runs, not from the environment and simulator version of this table"
)
SECOND_HAND_NOTE = "† second-hand: quoted by others, not checked against the paper"


@dataclass(frozen=True)
class Table:
    """A finished comparison.

    Attributes:
        sweep: its name.
        rows: in the order of the plan, task by task, the average last.
        verdicts: one sentence per task on whether adaptation helps.
        notes: on missing results, choices of cells, comparability, and sources.
        groups: the rows of each task, with the cells they are computed from.
    """

    sweep: str
    rows: list[Row]
    verdicts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    groups: Mapping[str, Sequence[Group]] = field(default_factory=dict)

    def render(
        self,
        form: Form,
        layout: Layout = "paper",
        width: int = 100,
        published: Sequence[str] = PUBLISHED_METHODS,
    ) -> str:
        """Return the table as text for a terminal, a Markdown or HTML page, LaTeX to be included, CSV or JSON.

        The JSON has the rows of the long layout with all their fields, whatever the layout.

        Args:
            form: which of these.
            layout: "long": a row per method and task, with gains, times and counts; "paper": rows are tasks, columns
                methods (`analysis.table.paper_layout`).
            width: columns of the terminal.
            published: methods of which published scores have a column in the paper's layout.
        """
        if form == "json":
            content = {"sweep": self.sweep, "verdicts": self.verdicts, "rows": list(map(vars, self.rows))}
            return json.dumps({**content, "notes": self.notes}, indent=1, ensure_ascii=False) + "\n"
        if layout == "paper":
            groups = with_published(self.groups, published)
            grids = paper_grids(groups)
            if form == "csv":
                return grids_frame(grids).to_csv(index=False, lineterminator="\n", float_format="%.6g")
            sections = [section_of(grid) for grid in grids]
            notes = [note for note in self.notes if note not in _sources(chain(*self.groups.values()))]
            notes = [*self.verdicts, *notes, *_sources(chain(*groups.values()))]
        elif form == "csv":
            lines = [{name: _csv_field(name, value) for name, value in vars(row).items()} for row in self.rows]
            return pd.DataFrame(lines, columns=COLUMNS).to_csv(index=False, lineterminator="\n")
        else:
            hidden = NOT_IN_TEXT if form == "text" else ()
            notes = [note for note in self.remarks() if not note.startswith(tuple(f"{name}: " for name in hidden))]
            sections = self._sections(*hidden)
        if form == "text":
            fitting = [in_pieces(section, width) for section in sections] if layout == "paper" else sections
            return rendering.to_text(fitting, notes, width)
        return WRITERS[form](self.sweep, sections, notes)

    def to_csv(self) -> str:
        """Return the CSV: results with four decimals or six digits, settings as they were given, nothing for None."""
        return self.render("csv", "long")

    def to_markdown(self) -> str:
        """Return a Markdown page: one table per task with its verdict, then notes and legend."""
        return self.render("markdown", "long")

    def to_text(self, width: int = 100) -> str:
        """Return the table for a terminal of ``width`` columns, without colours."""
        return self.render("text", "long", width)

    def _sections(self, *hidden: str) -> list[TableSection]:
        """Return a section for each task; ``hidden`` are headers of columns to leave out."""
        sections = []
        for task in dict.fromkeys(row.task for row in self.rows):
            rows = [row for row in self.rows if row.task == task]
            table = [{name: text for name, text in row_texts(row).items() if name not in hidden} for row in rows]
            verdicts = [line for line in self.verdicts if line.startswith(f"{task}: ")]
            sections.append(TableSection(_heading(task, rows), [table], verdicts))
        return sections

    def remarks(self) -> list[str]:
        """Return what is said below all sections: the notes, and what columns and marks mean."""
        marks = [text for name, text in MARKS.items() if any(vars(row)[name] for row in self.rows)]
        return [*self.notes, *LEGEND, *marks]


def build_table(tracking_uri: str, sweep: str) -> Table:
    """Return the table of a sweep from its MLflow records.

    Args:
        tracking_uri: where the sweep was recorded.
        sweep: its name.

    Raises:
        UserError: the store or the sweep does not exist, or cannot be reached.
    """
    records = Records(tracking_uri)
    plan = records.plan(sweep)
    cells = records.units(plan["cells"])
    parts = records.units(part_keys(cells))
    episodes = records.episodes(cells)
    plan["failed"] = {**records.unreadable, **plan.get("failed", {})}
    by_task, notes = cells_by_task(plan, facts_by_key(cells), facts_by_key(parts), episodes)
    notes = [*filter(None, [records.left_out([*plan["components"], *plan["cells"]])]), *notes]
    bases = base_keys(cell for roles in by_task.values() for cell in roles.get("report", []))
    curves = records.curves(parts.loc[[key for key in bases if key in parts.index]], skip_broken=True)
    reported = {task: groups_of(roles.get("report", [])) for task, roles in by_task.items()}
    groups, on_bases = mark_bases({task: rows for task, (rows, _) in reported.items()}, curves)
    for task, roles in by_task.items():
        candidates, unchosen = groups_of(roles.get("select", []))
        notes += reported[task][1] + unchosen + chosen_notes(task, candidates, groups[task]) + on_bases[task]
    averages, left_out = average_groups(groups)
    groups = {**groups, AVERAGE: mark_averages(averages, groups)} if averages else groups
    shown = [group for task_groups in groups.values() for group in task_groups]
    mixtures = mixture_notes(pd.concat([cells, parts])) if len(cells) else []
    mixtures += _environments(by_task)
    return Table(
        sweep=sweep,
        rows=[group.row for group in shown],
        verdicts=verdicts(groups),
        notes=mixtures + notes + left_out + _sources(shown),
        groups=groups,
    )


def cells_by_task(
    plan: Mapping[str, Any], recorded: FactsByKey, trained: FactsByKey, episodes: Mapping[str, pd.DataFrame]
) -> tuple[dict[str, dict[str, list[Cell]]], list[str]]:
    """Return task → role → cells in the order of the plan, and notes on cells of which nothing is known."""
    notes: list[str] = []
    by_task: dict[str, dict[str, list[Cell]]] = {}
    for key in plan["cells"]:
        # The labels of this sweep count: the cell may have been recorded by another that names it otherwise.
        facts = {**recorded.get(key, {}), **plan.get("labels", {}).get(key, {})}
        failure = plan.get("failed", {}).get(key)
        if not facts:
            notes.append(f"{key}: {reason_missing(failure)}")
            continue
        hours = _hours(recorded[key], trained) if key in recorded else (0.0, 0.0)
        cell = Cell(key, facts, episodes.get(key), failure, hours)
        if cell.episodes is not None and not cell.is_finite:
            cell = replace(cell, episodes=None, failure="the score of an episode is not finite")
        by_task.setdefault(facts["task"], {}).setdefault(facts["role"], []).append(cell)
    return by_task, notes


def _environments(by_task: Mapping[str, dict[str, list[Cell]]]) -> list[str]:
    """Return what was recorded of each task's environment for readers of its scores, one note each."""
    told = ((task, cell.facts.get("env_note")) for task, roles in by_task.items() for cell in chain(*roles.values()))
    return [f"{task}: {note}" for task, note in dict.fromkeys(told) if note]


def _sources(groups: Iterable[Group]) -> list[str]:
    sources: dict[str, list[str]] = {}
    groups = list(groups)
    for group in groups:
        if group.source:
            sources.setdefault(group.source, []).append(group.row.label)
    notes = [f"{', '.join(dict.fromkeys(labels))}: {source}" for source, labels in sources.items()]
    if any(group.row.second_hand for group in groups):
        notes.append(SECOND_HAND_NOTE)
    return [PUBLISHED_NOTE, *notes] if notes else []


def _hours(cell: Mapping[str, Any], trained: FactsByKey) -> tuple[float, float]:
    """Return (CPU-hours, GPU-hours) of a cell's evaluation and the training of its components."""
    used = [key for name, key in cell.items() if name.startswith("part.")]
    cpu = gpu = 0.0
    for run in [cell, *(trained[key] for key in used if key in trained)]:
        hours = float(run.get("seconds", 0.0)) / 3600  # this unit's share, if it was stacked with others
        if str(run["device"]).startswith("cuda"):
            gpu += hours
        else:
            cpu += hours * (int(run["threads"]) if str(run["threads"]).isdigit() else 1)
    return cpu, gpu


# ---- how a row is shown -------------------------------------------------------------------------


def row_texts(row: Row) -> dict[str, str]:
    """Return a row as text, by header."""
    mark = f" {STILL_MOVING}" if row.still_moving else ""
    mark += f" {BELOW_CLONING}" if row.below_cloning else ""
    status = "" if row.status == "ok" else f" ({row.status})"
    score = DASH if row.score_mean is None else with_half_width(row.score_mean, row.published_std)
    if row.score_mean is not None and row.score_low is not None:
        score = with_interval(row.score_mean, row.score_low, row.score_high)
    gain = DASH
    if row.gain_mean is not None and row.gain_low is not None:
        gain = with_interval(row.gain_mean, row.gain_low, row.gain_high, sign=True)
    elif row.gain_mean is not None:
        gain = signed(row.gain_mean)
    score_ends, gain_ends = (row.score_seed_low, row.score_seed_high), (row.gain_seed_low, row.gain_seed_high)
    hours = DASH
    if row.cpu_hours is not None or row.gpu_hours is not None:
        hours = f"{row.cpu_hours or 0:.2f}" + (f" + {row.gpu_hours:.2f} GPU" if row.gpu_hours else "")
    count = DASH if row.n_seeds is None else f"{row.n_seeds} × {(row.n_episodes or 0) / row.n_seeds:g}"
    return {
        "method": row.label + mark + status,
        "score [95 %]": score,
        "score, new seeds": interval_text(*score_ends),
        "gain [95 %]": gain,
        "gain, new seeds": interval_text(*gain_ends, sign=True),
        "ms/step": DASH if row.ms_per_step is None else f"{row.ms_per_step:.2f}",
        "evals": DASH if row.evaluations_per_step is None else f"{row.evaluations_per_step:.0f}",
        "hours": hours,
        "seeds × episodes": count,
    }


def _heading(task: str, rows: Sequence[Row]) -> str:
    for row in rows:
        if row.env_id:
            unit = "raw return: no reference scores" if row.score_unit == "return" else "normalized score"
            return f"{task} ({row.env_id}, mujoco {row.mujoco}, {unit})"
    return f"{task} (normalized score)" if task == AVERAGE else task


DIGITS = 6  # of a number below 1: returns of small rewards have no four decimals
SETTINGS = ("step_size",)  # written as given, so 1e-05 stays 1e-05


def _csv_field(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if name in SETTINGS:
            return json.dumps(value)
        return f"{value:.4f}" if abs(value) >= 1 or value == 0 else f"{value:.{DIGITS}g}"
    return str(value)
