"""The commands that show what came out of sweeps: tables, models, figures, films, and how well step sizes were judged.

Like `sweeps.cli`, which adds them to the command line, this module knows all four packages.
"""

import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from analysis.mlflow_store import check_recorded
from mpcwdwm.errors import UserError, did_you_mean
from sweeps.spec_argument import (
    SeedsOption,
    SetOption,
    SpecArgument,
    TasksOption,
    check_named,
    load_named,
    plan_named,
    recorded_named,
)

if TYPE_CHECKING:
    from analysis.compare.sides import Side
    from analysis.models.report import ModelsReport
    from analysis.table.comparison import Table
    from cluster.units import CellUnit
    from sweeps.plan.plan import Plan
    from sweeps.spec.spec import Spec

__all__ = ["print_table", "result_app"]

Layout = Literal["long", "paper"]
Form = Literal["text", "markdown", "latex", "html", "csv", "json"]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there instead.")]
COMMIT = re.compile(r"(.+)@([0-9a-f]{4,40}(?:-dirty)?)")
NOT_PLAIN = re.compile(r"[^A-Za-z0-9.-]+")  # characters that stay out of a file's name
TABLE_FILE = "table.csv"
result_app = typer.Typer(rich_markup_mode=None)  # without a name: its commands are those of `mpcwdwm` itself


@result_app.command("table")
def table(
    spec: SpecArgument,
    sets: SetOption = None,
    tasks: TasksOption = None,
    seeds: SeedsOption = None,
    form: Annotated[Form, typer.Option("--format", help="What it is printed or written as.")] = "text",
    layout: Annotated[
        Layout | None,
        typer.Option(
            "--layout",
            help="paper: rows are tasks, columns methods, with ablations; long: a row per method and task, with gains, "
            "times and counts; by default long in the terminal, else paper.",
        ),
    ] = None,
    published: Annotated[
        str | None,
        typer.Option(
            "--published",
            metavar="METHODS",
            help="Methods of which published scores have a column in the paper's layout, as in TD3+BC,Diffuser; all or "
            "none; by default ReBRAC,IQL,MPCwDWM.",
        ),
    ] = None,
    out: OutOption = None,
) -> None:
    """Print a sweep's table as text, Markdown, LaTeX, HTML, CSV or JSON; also write it beside the results."""
    # what is wrong there is said before pandas is imported
    check_recorded(check_named(spec, sets, tasks, seeds).tracking_uri)
    from analysis.table.published_scores import PUBLISHED_METHODS, methods_named
    from sweeps.reports import note_changes, print_or_write, terminal_width

    methods = PUBLISHED_METHODS if published is None else methods_named(published)
    chosen: Layout = layout or ("long" if form == "text" else "paper")
    if published is not None and chosen == "long":
        raise UserError("--published is for the paper's layout: add --layout paper")
    loaded = load_named(spec, sets, tasks, seeds)
    built = _write_table(loaded)
    print_or_write(built.render(form, chosen, terminal_width(), methods), out)
    note_changes(loaded)


@result_app.command("compare")
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="SPEC, or SPEC@COMMIT: the cells recorded at that commit.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same; differences are B minus A.")],
    form: Annotated[Form, typer.Option("--format", help="What it is printed or written as.")] = "text",
    out: OutOption = None,
) -> None:
    """Compare two sweeps, or two commits of one: differences with intervals, and what only one of them has."""
    for side in (a, b):
        check_recorded(check_named(_sweep_and_commit(side)[0]).tracking_uri)
    from analysis.compare.comparison import compare as compared
    from sweeps.reports import print_or_write, terminal_width

    print_or_write(compared(_side(a), _side(b)).render(form, terminal_width()), out)


@result_app.command("models")
def models(spec: SpecArgument, sets: SetOption = None, tasks: TasksOption = None, seeds: SeedsOption = None) -> None:
    """Print how well a sweep's world and reward models predict held-out episodes; draw it over training."""
    from sweeps.reports import note_changes, terminal_width, write_files

    loaded = recorded_named(spec, sets, tasks, seeds)
    report, files = _models(loaded)
    print(report.to_text(terminal_width()))
    write_files(loaded, files)
    note_changes(loaded)


@result_app.command("figures")
def figures(spec: SpecArgument, sets: SetOption = None, tasks: TasksOption = None, seeds: SeedsOption = None) -> None:
    """Draw how each field of a planner changes its gain, and the policies' learning curves; print the paths."""
    from sweeps.reports import note_changes, write_files

    loaded = recorded_named(spec, sets, tasks, seeds)
    files, notes = _figures(loaded)
    write_files(loaded, files, where=sys.stdout)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    note_changes(loaded)


@result_app.command("report")
def report(
    spec: SpecArgument,
    sets: SetOption = None,
    tasks: TasksOption = None,
    seeds: SeedsOption = None,
    out: OutOption = None,
) -> None:
    """Write a sweep as one HTML page, beside its results: what holds, table, figures, provenance, missing, hours."""
    loaded = recorded_named(spec, sets, tasks, seeds)
    from importlib.metadata import version

    from analysis.report.content import build_page
    from analysis.report.page import to_html
    from analysis.report.provenance import Beside, Place, Planned
    from sweeps.reports import note_changes, print_or_write, write_files
    from sweeps.unit_facts import recorded_spec, unit_facts, unit_places

    facts, unpredicted = unit_facts(loaded)
    planned = {key: Planned(**vars(one)) for key, one in facts.items()}
    places = {key: Place(**vars(one)) for key, one in unit_places(loaded).items()}
    page = build_page(
        loaded.tracking_uri,
        loaded.record,
        Beside(planned, places),
        version=version("mpcwdwm"),
        description=loaded.description,
        spec=recorded_spec(loaded),
        unpredicted=unpredicted,
    )
    if out is None:
        write_files(loaded, {"report.html": to_html(page)}, where=sys.stdout)
    else:
        print_or_write(to_html(page), out)
    note_changes(loaded)


@result_app.command("film")
def film(
    spec: SpecArgument,
    method: Annotated[
        str | None, typer.Option("--method", help="A planner's row of the table; by default the first.")
    ] = None,
    episode: Annotated[int, typer.Option("--episode", min=0, help="Which of the evaluation's starting states.")] = 0,
    sets: SetOption = None,
    tasks: TasksOption = None,
    seeds: SeedsOption = None,
) -> None:
    """Play one episode frozen and adapted; draw both as a contact sheet (PNG) and an animation (WebP).

    Of several tasks and seeds the first is shown. It renders without a screen: MUJOCO_GL is egl unless it is set.
    """
    if not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # before MuJoCo is imported
    plan, _ = plan_named(spec, sets, tasks, seeds)
    from analysis.figures.drawing import rendered
    from analysis.figures.film import animation, contact_sheet
    from mpcwdwm.api import load
    from mpcwdwm.evaluation.film import films
    from mpcwdwm.planning import planner_config
    from sweeps.reports import write_files

    cell = _planners_cell(plan, method)
    planner = planner_config(cell.planner or {})
    parts = load(
        plan.spec.storage, task=cell.task.name, planner=planner, seed=cell.seed, keys=tuple(cell.parts.values())
    )
    shown = films(
        parts,
        {f"{cell.base}, frozen": None, cell.method: planner},
        seed=cell.seed,
        env_seed=cell.env_seed,
        episode=episode,
    )
    name = f"film-{cell.task.name}-{NOT_PLAIN.sub('-', cell.method)}-s{cell.seed}-e{episode}"
    sheet = rendered(name, contact_sheet(shown))[f"{name}.png"]
    write_files(plan.spec, {f"{name}.png": sheet, f"{name}.webp": animation(shown)}, where=sys.stdout)


@result_app.command("judges")
def judges(spec: SpecArgument) -> None:
    """Compare the estimates by which `step_size: auto` chooses with scores in the environment."""
    plan, store = plan_named(spec)
    import pandas as pd

    from analysis.off_policy_evaluation import agreement, to_text
    from sweeps.plan.step_size_scores import true_and_estimated

    true, estimated = true_and_estimated(plan, store)
    print(to_text(agreement(pd.DataFrame(true), pd.DataFrame(estimated))))


# Pieces


def print_table(spec: "Spec", *, computed: bool) -> None:
    """Print a sweep's table after a run, write it beside its results, and have MLflow show what came out.

    Tables, figures and numbers of the table go to the sweep's run, gains to those of its cells, unless the run has
    ``computed`` nothing and MLflow has this table already.
    """
    from analysis.mlflow_store import sweep_key
    from analysis.table.summary import cell_gains, sweep_metrics
    from sweeps.records.tracker import Tracker
    from sweeps.reports import terminal_width

    built = _write_table(spec)
    print(built.to_text(terminal_width()), end="")  # as `mpcwdwm table` does
    tracker, csv = Tracker(spec.tracking_uri, spec.record), built.to_csv()
    if not computed and tracker.shows(TABLE_FILE, csv):
        return
    files: dict[str, str | bytes] = {}
    with suppress(UserError):  # nothing to draw
        files |= _figures(spec)[0]
    with suppress(UserError):  # no models
        files |= _models(spec)[1]
    metrics = {sweep_key(spec.record): sweep_metrics(built), **cell_gains(built)}
    tracker.amend(metrics, {**files, "table.md": built.to_markdown(), TABLE_FILE: csv})  # the table last


def _figures(spec: "Spec") -> "tuple[dict[str, bytes], list[str]]":
    """Return the figures of a sweep as files, and notes on those that are not drawn."""
    from analysis.figures.drawing import rendered
    from analysis.figures.sweep import sweep_figures

    drawn, notes = sweep_figures(spec.tracking_uri, spec.record)
    return {file: content for name, figure in drawn.items() for file, content in rendered(name, figure).items()}, notes


def _models(spec: "Spec") -> "tuple[ModelsReport, dict[str, str | bytes]]":
    """Return the report on a sweep's models, and its files."""
    from analysis.figures.drawing import rendered
    from analysis.figures.sweep import models_figure
    from analysis.models.report import build_models

    report = build_models(spec.tracking_uri, spec.record)
    figure = models_figure(report)
    drawn = rendered("models", figure) if figure else {}
    return report, {"models.md": report.to_markdown(), "models.csv": report.to_csv(), **drawn}


def _write_table(spec: "Spec") -> "Table":
    """Write a sweep's table beside its results, and return it."""
    from analysis.table.comparison import build_table
    from sweeps.reports import write_files

    built = build_table(spec.tracking_uri, spec.record)
    write_files(spec, {"table.md": built.to_markdown(), TABLE_FILE: built.to_csv()})
    return built


def _side(text: str) -> "Side":
    """Return what "SPEC" or "SPEC@COMMIT" names."""
    from analysis.compare.sides import read_side

    sweep, commit = _sweep_and_commit(text)
    spec = load_named(sweep)
    return read_side(spec.tracking_uri, spec.record, commit)


def _sweep_and_commit(text: str) -> tuple[str, str | None]:
    at = COMMIT.fullmatch(text)
    return (at[1], at[2]) if at else (text, None)


def _planners_cell(plan: "Plan", method: str | None) -> "CellUnit":
    """Return the first cell of a planner, or of the one that is named."""
    planned = [cell for cell in plan.cells if cell.planner is not None]
    known = list(dict.fromkeys(cell.method for cell in planned))
    chosen = [cell for cell in planned if method in (None, cell.method, cell.name)]
    if not chosen:
        found = f"no planner's row is called '{method}'{did_you_mean(str(method), known)}" if known else "no planner"
        raise UserError(f"sweep {plan.spec.name}: {found}; rows are: {', '.join(known) or 'none'}")
    return chosen[0]
