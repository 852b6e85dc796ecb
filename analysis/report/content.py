"""What the page of a sweep says, before it is HTML: every text and number, from the records.

The sentences and numbers are the table's own, so that page and terminal cannot differ; states, hours and provenance are
those of `analysis.load`. Only what was planned and predicted comes from outside (`Planned`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import pandas as pd
from markupsafe import Markup

from analysis.figures.sweep import LACKING, ablation_figure, cost_figure, models_figure, policies_figure
from analysis.frames import Runs, load
from analysis.mlflow_store import shown_uri
from analysis.models.report import build_models
from analysis.rendering import DASH
from analysis.report.provenance import (
    Beside,
    Planned,
    Provenance,
    Record,
    cell_provenance,
    choosing_provenance,
    component_provenance,
    records_by_key,
)
from analysis.report.vector import inline_svg
from analysis.table.averages import AVERAGE
from analysis.table.comparison import Table, build_table, row_texts
from analysis.table.rows import Group, Row
from mpcwdwm.errors import UserError

__all__ = ["Figure", "Hours", "Lacking", "Line", "Page", "Text", "build_page"]

COLUMNS = {  # of the comparison, as the table calls them → the field of `Row` by which they are sorted
    "score [95 %]": "score_mean",
    "score, new seeds": "score_seed_low",
    "gain [95 %]": "gain_mean",
    "gain, new seeds": "gain_seed_low",
    "ms/step": "ms_per_step",
    "evals": "evaluations_per_step",
    "hours": "hours",
}
COUNTS = "seeds × episodes"
FIGURES = {
    "ablation": "Paired gain over the base against every planner field that varies, a row of plots for each task",
    "cost": "Score against network evaluations and time per step, and what is best for its cost",
    "policies": "Learning curves of the pretrained policies: score over gradient updates",
    "models": "Errors of the world models on held-out episodes over gradient updates",
}
LISTED = {"component": "train", "cell": "evaluate"}


@dataclass(frozen=True)
class Text:
    """One field of the comparison: what it says, and the number by which its column is sorted, if it has one."""

    text: str
    order: float | None


@dataclass(frozen=True)
class Line:
    """One row of the comparison."""

    task: str
    method: str
    counts: str
    fields: Sequence[Text]
    provenance: Provenance | None  # None: not computed here, as published scores and averages

    @property
    def is_played(self) -> bool:
        """Return whether at least one of its cells has a result."""
        return self.counts != DASH

    @property
    def is_average(self) -> bool:
        """Return whether the row is a mean over tasks."""
        return self.task == AVERAGE


@dataclass(frozen=True)
class Figure:
    """A figure, drawn: ``svg`` is an element whose description has the id ``figure-<name>``."""

    name: str
    title: str
    svg: Markup


@dataclass(frozen=True)
class Lacking:
    """Units of one task without a result, for one reason and the same seeds."""

    what: str  # "train" or "evaluate"
    task: str
    names: Sequence[str]  # of components, or of rows of the table
    seeds: str
    units: int  # how many
    status: str  # "failed" or "missing"
    reason: str
    logs: Sequence[str]


@dataclass(frozen=True)
class Hours:
    """Process hours of one component or planner over all tasks and seeds.

    Attributes:
        what: "train" or "evaluate"; "all" of everything together.
        name: of the component or planner.
        done: complete units.
        units: planned ones.
        predicted: of all of them; None: nothing is predicted.
        predicted_done: of the complete ones; None: not all of them are predicted.
        spent: by the complete ones.
    """

    what: str
    name: str
    done: int
    units: int
    predicted: float | None
    predicted_done: float | None
    spent: float

    @property
    def ratio(self) -> float | None:
        """Return spent over predicted, of what is complete."""
        return self.spent / self.predicted_done if self.predicted_done else None


@dataclass(frozen=True)
class Page:
    """All that the page of a sweep says, in its order."""

    sweep: str
    description: str
    made: str  # when, UTC
    version: str
    place: str  # the tracking store
    verdicts: Sequence[str]
    facts: Sequence[tuple[str, str]]
    tasks: Sequence[str]
    columns: Sequence[str]
    lines: Sequence[Line]
    figures: Sequence[Figure]
    lacking: Sequence[Lacking]
    left_out: Sequence[str]
    hours: Sequence[Hours]
    notes: Sequence[str]
    components: Sequence[Provenance]
    choosing: Sequence[Provenance]
    spec: str
    unpredicted: Sequence[str]  # why something is not predicted


def build_page(
    tracking_uri: str,
    sweep: str,
    beside: Beside,
    *,
    version: str,
    description: str = "",
    spec: str = "",
    unpredicted: Sequence[str] = (),
) -> Page:
    """Return the content of a sweep's page.

    Args:
        tracking_uri: where the sweep was recorded.
        sweep: its name.
        beside: what plan and store know of its units.
        version: of the program.
        description: the sweep's own.
        spec: its YAML, resolved.
        unpredicted: why something is not predicted, a line each.

    Raises:
        UserError: the store or the sweep does not exist, or cannot be reached.
    """
    table = build_table(tracking_uri, sweep)
    run = load(sweep, tracking_uri=tracking_uri)
    figures, undrawn = _figures(run, tracking_uri, sweep)
    planned, beside = beside.planned, replace(beside, server=_server(tracking_uri, table))
    hours = [*_hours(run.components, "component", planned), *_hours(run.cells, "cell", planned)]
    hours.append(_total(hours))
    cells = records_by_key(run.cells)
    lines = [_line(row, group, cells, beside) for row, group in _rows(table)]
    unknown = sum(1 for key in [*run.components["key"], *run.cells["key"]] if planned and key not in planned)
    if unknown:
        why = "recorded units are not those that YAML and code plan now, so they are not predicted"
        unpredicted = [*unpredicted, f"{unknown} {why}"]
    return Page(
        sweep=sweep,
        description=description,
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=version,
        place=shown_uri(tracking_uri),
        verdicts=table.verdicts,
        facts=_facts(run, hours[-1]),
        tasks=list(dict.fromkeys(row.task for row in table.rows)),
        columns=list(COLUMNS),
        lines=lines,
        figures=figures,
        lacking=[*_lacking(run.components, "component", beside), *_lacking(run.cells, "cell", beside)],
        left_out=[*run.notes, *undrawn],
        hours=hours,
        notes=table.remarks(),
        components=component_provenance(run, beside),
        choosing=choosing_provenance(run, beside),
        spec=spec,
        unpredicted=unpredicted,
    )


def _server(uri: str, table: Table) -> str:
    """Return where an MLflow server shows the runs; "" where there is none, or its address has a password."""
    if not uri.startswith("http") or "@" in uri:
        return ""
    cells = chain.from_iterable(group.cells for groups in table.groups.values() for group in groups)
    run = next((cell.facts["run"] for cell in cells if "run" in cell.facts), None)
    return f"{uri.rstrip('/')}/#/experiments/{run.info.experiment_id}" if run else ""


# ---- the comparison -----------------------------------------------------------------------------


def _rows(table: Table) -> Iterable[tuple[Row, Group]]:
    """Yield the rows of all tasks with the cells behind them."""
    for groups in table.groups.values():
        for group in groups:
            yield group.row, group


def _line(row: Row, group: Group, cells: Mapping[str, Record], beside: Beside) -> Line:
    texts = row_texts(row)
    orders = {**vars(row), "hours": (row.cpu_hours or 0) + (row.gpu_hours or 0) or None}
    fields = [Text(texts[header], orders[name]) for header, name in COLUMNS.items()]
    provenance = cell_provenance(group, cells, beside) if group.cells and row.task != AVERAGE else None
    return Line(row.task, texts["method"], texts[COUNTS], fields, provenance)


# ---- figures ------------------------------------------------------------------------------------


def _figures(run: Runs, tracking_uri: str, sweep: str) -> tuple[list[Figure], list[str]]:
    """Return the figures of a sweep, and why others are not drawn."""
    drawn, notes = {"ablation": ablation_figure(run), "cost": cost_figure(run)}, list[str]()
    drawn["policies"] = policies_figure(run)
    try:
        drawn["models"] = models_figure(build_models(tracking_uri, sweep))
    except UserError as error:
        notes.append(str(error))
    notes += [f"no {name} figure: {why}" for name, why in LACKING.items() if drawn[name] is None]
    figures = [
        Figure(name, FIGURES[name], inline_svg(name, figure, f"figure-{name}"))
        for name, figure in drawn.items()
        if figure is not None
    ]
    return figures, notes


# ---- states and hours ---------------------------------------------------------------------------


def _name(row: Any, kind: str, planned: Mapping[str, Planned], *, short: bool = False) -> tuple[str, str]:
    """Return task and name of a unit; of a component without a record the plan tells them, or else its key."""
    name = row["component"] if kind == "component" else row["name" if short else "method"]
    if isinstance(name, str) and name:
        return str(row["task"]), name
    one = planned.get(row["key"])
    return (one.task, one.name) if one else ("", str(row["key"]))


def _lacking(frame: pd.DataFrame, kind: str, beside: Beside) -> list[Lacking]:
    """Return what has no result, units that lack it alike together."""
    planned = beside.planned
    by_name: dict[tuple[str, ...], list[Any]] = {}
    for row in frame[frame["status"] != "ok"].to_dict("records"):
        task, name = _name(row, kind, planned)
        by_name.setdefault((task, name, str(row["status"]), str(row["reason"])), []).append(row)
    alike: dict[tuple[str, ...], dict[str, list[Any]]] = {}
    for (task, name, status, reason), rows in by_name.items():
        known = [row["seed"] for row in rows if pd.notna(row["seed"])]
        seeds = known or [planned[row["key"]].seed for row in rows if row["key"] in planned]
        alike.setdefault((task, status, reason, ", ".join(f"{seed:g}" for seed in seeds)), {})[name] = rows
    found = []
    for (task, status, reason, seeds_text), own in alike.items():
        keys = [row["key"] for rows in own.values() for row in rows]
        logs = list(dict.fromkeys(beside.places[key].log for key in keys if key in beside.places))
        logs = [log for log in logs if log]
        found.append(Lacking(LISTED[kind], task, list(own), seeds_text, len(keys), status, reason, logs))
    return found


def _hours(frame: pd.DataFrame, kind: str, planned: Mapping[str, Planned]) -> list[Hours]:
    """Return the hours of every component or planner, in the order of the plan."""
    gathered: dict[str, list[Any]] = {}
    for row in frame.to_dict("records"):
        gathered.setdefault(_name(row, kind, planned, short=True)[1], []).append(row)
    found = []
    for name, rows in gathered.items():
        done = [row for row in rows if row["status"] == "ok"]
        spent = [row["hours"] if "hours" in row else row["seconds"] / 3600 for row in done]
        found.append(
            Hours(
                LISTED[kind],
                name,
                len(done),
                len(rows),
                _predicted(rows, planned),
                _predicted(done, planned) if done else None,
                float(sum(hours for hours in spent if pd.notna(hours))),
            )
        )
    return found


def _total(hours: Sequence[Hours]) -> Hours:
    """Return the hours of everything together."""

    def together(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) if len(known) == len(values) else None

    return Hours(
        "all",
        "",
        sum(one.done for one in hours),
        sum(one.units for one in hours),
        together([one.predicted for one in hours]),
        together([one.predicted_done for one in hours if one.done]),
        sum(one.spent for one in hours),
    )


def _predicted(rows: Sequence[Any], planned: Mapping[str, Planned]) -> float | None:
    """Return the predicted hours of some units together; None unless all are predicted."""
    hours = [planned[row["key"]].hours if row["key"] in planned else None for row in rows]
    known = [each for each in hours if each is not None]
    return sum(known) if known and len(known) == len(hours) else None


def _facts(run: Runs, total: Hours) -> list[tuple[str, str]]:
    """Return how far the sweep is and where it was computed, in short."""

    def counted(frame: pd.DataFrame) -> str:
        states = frame["status"].value_counts()
        others = [f"{states[state]} {state}" for state in ("failed", "missing") if state in states]
        return ", ".join([f"{states.get('ok', 0)} of {len(frame)} complete", *others])

    def distinct(name: str) -> str:
        frames = [frame[name] for frame in (run.cells, run.components) if name in frame]
        return ", ".join(sorted({str(value) for value in pd.concat(frames).dropna()})) if frames else ""

    told = f"{total.spent:.2f}" + ("" if total.predicted is None else f", predicted {total.predicted:.2f}")
    return [
        ("cells", counted(run.cells)),
        ("components", counted(run.components)),
        ("process hours spent", told),
        ("git commit", distinct("git_sha") or "unknown"),
        ("device", distinct("device") or "unknown"),
    ]
