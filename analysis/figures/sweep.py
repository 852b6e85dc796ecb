"""Figures of a sweep with several plots: gains over each field of a planner, learning curves of policies and models.

Every plot is one that the functions of `analysis.figures` draw alone, too. A figure is None where there is nothing to
draw.
"""

import math
from itertools import zip_longest

from matplotlib.figure import Figure

from analysis.figures.ablation import Measure, plot_ablation
from analysis.figures.comparison import plot_speed
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

__all__ = ["LACKING", "ablation_figure", "models_figure", "policies_figure", "speed_figure", "sweep_figures"]

ENTRY_HEIGHT = 0.19  # inches, of a plot's legend
CURVES_CAPTION = "lines: mean over training seeds; bands: from the lowest seed to the highest"
GAINS_CAPTION = (
    "points: paired gain over the base, mean over training seeds; bars: 95 % interval over new training seeds "
    "(from three seeds on); grey: single training seeds; hollow: training seeds are missing"
)
SPEED_CAPTION = (
    "points: mean score over training seeds; bars: 95 % interval over new training seeds (from three seeds on); "
    "grey: the best score for its time"
)
FRONT = 3  # lines of a legend for what the Pareto front numbers, as a rule
LACKING = {  # why a figure is not drawn
    "ablation": "no planner field has two values with a paired gain (give a field a list, and its base as a baseline)",
    "policies": "no policy has a learning curve of scores (it takes eval_episodes of 1 or more)",
}


def sweep_figures(tracking_uri: str, sweep: str) -> tuple[dict[str, Figure], list[str]]:
    """Return the figures of a sweep, "ablation" and "policies", by name, and notes on what is left out.

    Args:
        tracking_uri: where the sweep was recorded.
        sweep: its name.

    Raises:
        UserError: the store or the sweep does not exist or cannot be reached, or there is nothing to draw.
    """
    run = load(sweep, tracking_uri=tracking_uri)
    figures = {"ablation": ablation_figure(run), "policies": policies_figure(run)}
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


def speed_figure(run: Runs) -> Figure | None:
    """Return `plot_speed` for every task that has a complete cell."""
    complete = run.cells[(run.cells["role"] == "report") & run.cells["score"].notna()]
    tasks = [task for task in tasks_of(run) if task in set(complete["task"])]
    if not tasks:
        return None
    entries = complete.groupby("task")["name"].nunique().max() + FRONT
    with styled():
        figure, places = plots(len(tasks), min(WIDEST, len(tasks)), below=ENTRY_HEIGHT * entries)
        for axes, task in zip(places, tasks, strict=True):
            plot_speed(run, task=task, ax=axes)
        add_caption(figure, SPEED_CAPTION)
    return figure


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
