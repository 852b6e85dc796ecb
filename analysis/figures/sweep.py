"""Figures of a sweep with several plots: gains over each field of a planner, cost beside score, learning curves.

Every plot is one that the functions of `analysis.figures` draw alone, too. A figure is None where there is nothing to
draw.
"""

import math
from itertools import zip_longest

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.ablation import Measure, plot_ablation
from analysis.figures.cost import COLUMNS, draw_cost, numbers_of
from analysis.figures.curves import (
    DATASET_LEVEL,
    draw_errors,
    draw_policies,
    error_metrics,
    policies_of,
    worlds_of,
)
from analysis.figures.drawing import (
    PANEL,
    WIDEST,
    add_caption,
    add_entries,
    add_legend,
    label_columns,
    log_ticks,
    looks,
    plots,
    styled,
)
from analysis.figures.families import Family, families, settings_of, tasks_of, varying_fields
from analysis.frames import Runs, load
from analysis.models.report import UNCHANGED, ModelsReport
from mpcwdwm.errors import UserError

__all__ = ["LACKING", "ablation_figure", "cost_figure", "models_figure", "policies_figure", "sweep_figures"]

ENTRY_HEIGHT = 0.19  # inches, of a plot's legend
CURVES_CAPTION = "lines: mean over training seeds; bands: from the lowest seed to the highest"
GAINS_CAPTION = (
    "points: paired gain over the base, mean over training seeds; bars: 95 % interval over new training seeds "
    "(from three seeds on); grey: single training seeds; hollow: training seeds are missing"
)
COST_CAPTION = (
    "points: mean score over training seeds; bars: 95 % interval over new training seeds (from three seeds on); "
    "grey: the best score for its cost; evaluations: inputs that pass through a network, and again on a gradient's way "
    "back"
)
MOST_ROWS = 10  # of a legend for which there is room: it numbers no more methods than that
LACKING = {  # why a figure is not drawn
    "ablation": "no planner field has two values with a paired gain (give a field a list, and its base as a baseline)",
    "cost": "no cell is complete",
    "policies": "no policy has a learning curve of scores (it takes eval_episodes of 1 or more)",
}


def sweep_figures(tracking_uri: str, sweep: str) -> tuple[dict[str, Figure], list[str]]:
    """Return the figures of a sweep, "ablation", "cost" and "policies", by name, and notes on what is left out.

    Args:
        tracking_uri: where the sweep was recorded.
        sweep: its name.

    Raises:
        UserError: the store or the sweep does not exist or cannot be reached, or there is nothing to draw.
    """
    run = load(sweep, tracking_uri=tracking_uri)
    figures = {"ablation": ablation_figure(run), "cost": cost_figure(run), "policies": policies_figure(run)}
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    if not drawn:
        raise UserError(f"sweep {sweep}: there is nothing to draw: {' and '.join(LACKING.values())}")
    return drawn, [*run.notes, *(f"no {name} figure: {why}" for name, why in LACKING.items() if name not in drawn)]


def ablation_figure(run: Runs, y: Measure = "gain") -> Figure | None:
    """Return `plot_ablation` for every task (rows) and every field that varies (columns)."""
    panels: dict[tuple[str, str], list[Family]] = {}
    for task in tasks_of(run):
        cells = settings_of(run, task, y)
        for field in varying_fields(cells):
            if found := families(run, cells, field, y):
                panels[task, field] = found
    if not panels:
        return None
    tasks, fields = (list(dict.fromkeys(names)) for names in zip(*panels, strict=True))
    columns = min(WIDEST, len(fields)) if len(tasks) == 1 else len(fields)
    labels = [[family.label for family in own] for own in panels.values()]
    entries = max(len(own) / label_columns(own, PANEL[0]) for own in labels)
    with styled():
        figure, places = plots(len(tasks) * len(fields), columns, below=ENTRY_HEIGHT * math.ceil(entries))
        for place, axes in enumerate(places):
            task, field = tasks[place // len(fields)], fields[place % len(fields)]
            if (task, field) in panels:
                plot_ablation(run, field, y=y, task=task, ax=axes)
            else:
                axes.remove()
        add_caption(figure, GAINS_CAPTION)
    return figure


def policies_figure(run: Runs) -> Figure | None:
    """Draw learning curves of policies, as `plot_learning_curves`, for every task, with one legend."""
    by_task = {task: policies_of(run, task) for task in tasks_of(run)}
    by_task = {task: own for task, own in by_task.items() if own}
    if not by_task:
        return None
    with styled():
        figure, places = plots(len(by_task), min(WIDEST, len(by_task)))
        by_label = looks(part.label for own in by_task.values() for part in own)
        drawn = zip(places, by_task.items(), strict=True)
        levels = [draw_policies(axes, run, task, own, by_label) for axes, (task, own) in drawn]
        add_legend(figure, by_label, DATASET_LEVEL if any(levels) else None)
        add_caption(figure, CURVES_CAPTION)
    return figure


def cost_figure(run: Runs) -> Figure | None:
    """Return `plot_cost` of scores for every task that has a complete cell (rows), against each cost (columns)."""
    complete = run.cells[(run.cells["role"] == "report") & run.cells["score"].notna()]
    panels = [
        (task, cost)
        for task in tasks_of(run)
        for cost, column in COLUMNS.items()
        if complete.reindex(columns=["task", column]).query("task == @task")[column].notna().any()
    ]
    if not panels:
        return None
    numbers, entries = numbers_of(run), dict[str, Line2D]()
    with styled():
        columns = min(len(panels), len(COLUMNS))
        rows = math.ceil(len(numbers) / label_columns(numbers, columns * PANEL[0]))
        figure, places = plots(len(panels), columns, below=ENTRY_HEIGHT * min(rows, MOST_ROWS) * columns / len(panels))
        for axes, (task, cost) in zip(places, panels, strict=True):
            own = draw_cost(axes, run, task, cost, "score", numbers)
            entries |= {str(line.get_label()): line for line in own}
        add_entries(figure, sorted(entries.values(), key=_in_order))
        add_caption(figure, COST_CAPTION)
    return figure


def _in_order(entry: Line2D) -> tuple[bool, int]:
    """Sort numbered entries of a legend by their number, the others behind them."""
    number = str(entry.get_label()).split()[0]
    return (not number.isdecimal(), int(number) if number.isdecimal() else 0)


def models_figure(report: ModelsReport) -> Figure | None:
    """Draw the errors of world models, as `plot_model_error`: for every task one step, then H steps."""
    tasks = dict.fromkeys(part.task for part in report.parts)
    by_task = {task: own for task in tasks if (own := worlds_of(report.parts, task))}
    if not by_task:
        return None
    metrics = {task: error_metrics(own) for task, own in by_task.items()}
    width = max(map(len, metrics.values()))
    columns = 2 * width if 2 * width <= WIDEST and len(by_task) >= WIDEST else width
    with styled():
        figure, places = plots(width * len(by_task), columns)
        by_label = looks(part.label for own in by_task.values() for part in own)
        levels = []
        for row, (task, own) in enumerate(by_task.items()):
            here = places[width * row : width * (row + 1)]
            for axes, metric in zip_longest(here, metrics[task]):
                if metric is None:
                    axes.remove()
                else:
                    levels.append(draw_errors(axes, task, own, metric, by_label))
            there = here[: len(metrics[task])]
            log_ticks(there)  # a task's errors compare by height
            for axes in there[1:]:
                axes.set_ylabel("")
        add_legend(figure, by_label, UNCHANGED if any(levels) else None)
        add_caption(figure, CURVES_CAPTION)
    return figure
