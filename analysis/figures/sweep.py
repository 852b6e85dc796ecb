"""Figures of a sweep: learning curves of models and policies, and the gain over each field of a planner.

Every function takes numbers and returns a matplotlib `Figure`, or None where there is nothing to draw.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import product, zip_longest

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from analysis.figures.ablation import Panel, Point, ablation_panels
from analysis.figures.drawing import (
    LEVEL_LINE,
    LIGHT,
    PANEL,
    Look,
    Scale,
    add_caption,
    add_legend,
    label_columns,
    log_ticks,
    looks,
    plots,
    styled,
)
from analysis.models.curves import Trained, trained_parts
from analysis.models.report import ONE_STEP, UNCHANGED, ModelsReport, open_loop_metrics, steps_of, unchanged
from analysis.runs import Records
from mpcwdwm.errors import UserError

__all__ = ["ablation_figure", "models_figure", "policies_figure", "sweep_figures"]

POLICIES = ("rebrac", "iql", "bc")
SCORES = {"normalized": "eval/normalized_score", "return": "eval/return"}  # of a policy's curve, by the task's unit
DATASET = {"normalized": "dataset_score", "return": "dataset_return"}  # of a cell's record
DATASET_LEVEL = "mean of the dataset"
UNITS = {"normalized": "normalized score", "return": "return"}
BAND = 0.16  # opacity of the range between seeds
DODGE = 0.018  # share of the axis between families at the same value
WIDEST = 4  # plots beside each other where they may wrap
ENTRY_HEIGHT = 0.19  # inches, of a plot's legend
CURVES_CAPTION = "lines: mean over training seeds; bands: from the lowest seed to the highest"
GAINS_CAPTION = (
    "points: paired gain over the base, mean over training seeds; bars: 95 % interval over new training seeds "
    "(Student's t, from three seeds on); grey: single training seeds"
)
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
    records = Records(tracking_uri)
    plan = records.plan(sweep)
    cells = records.units(plan["cells"])
    panels = ablation_panels(cells, records.episodes(cells), plan.get("labels", {}))
    parts, notes = trained_parts(records, plan, POLICIES)
    figures = {"ablation": ablation_figure(panels), "policies": policies_figure(parts, _dataset_means(cells))}
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    if not drawn:
        raise UserError(f"sweep {sweep}: there is nothing to draw: {' and '.join(LACKING.values())}")
    return drawn, notes + [f"no {name} figure: {why}" for name, why in LACKING.items() if name not in drawn]


def _dataset_means(cells: pd.DataFrame) -> dict[str, float]:
    """Return the mean score of every task's dataset, in the task's unit, as far as it is recorded."""
    means: dict[str, float] = {}
    for _, cell in cells.iterrows():
        mean = cell.get(DATASET[str(cell["score_unit"])])
        if mean is not None and math.isfinite(mean):
            means.setdefault(str(cell["task"]), float(mean))
    return means


# ---- learning curves ----------------------------------------------------------------------------


def models_figure(report: ModelsReport) -> Figure | None:
    """Draw the errors of world models over gradient updates: for every task one step, then H steps."""
    worlds = [part for part in report.parts if part.component == "world_model" and ONE_STEP in part.metrics]
    if not worlds:
        return None
    by_task = {part.task: [other for other in worlds if other.task == part.task] for part in worlds}
    metrics = {task: [ONE_STEP, *open_loop_metrics(own)] for task, own in by_task.items()}
    width = max(map(len, metrics.values()))
    columns = 2 * width if 2 * width <= WIDEST and len(by_task) >= WIDEST else width
    with styled():
        figure, places = plots(width * len(by_task), columns)
        by_label = looks(part.label for part in worlds)
        for row, (task, own) in enumerate(by_task.items()):
            here = places[width * row : width * (row + 1)]
            for axes, metric in zip_longest(here, metrics[task]):
                if metric is None:
                    axes.remove()
                    continue
                axes.set_title(f"{task}, {'one step' if metric == ONE_STEP else f'{steps_of(metric)} steps'}")
                axes.set_yscale("log")
                _draw_curves(axes, own, metric, by_label)
                still = unchanged(own, metric)
                if still is not None:
                    axes.axhline(still.mean, **LEVEL_LINE, label=f"_{UNCHANGED}")
                if axes is not here[0]:
                    axes.sharey(here[0])  # a task's errors compare by height
            here[0].set_ylabel("RMSE, standard deviations")
            log_ticks(here[0])
        add_legend(figure, by_label, UNCHANGED)
        add_caption(figure, CURVES_CAPTION)
    return figure


def policies_figure(parts: Sequence[Trained], dataset_means: Mapping[str, float]) -> Figure | None:
    """Draw learning curves of policies, one plot per task.

    Args:
        parts: policies; those without scores in their curves are left out.
        dataset_means: task → mean score of its dataset's episodes, in the task's unit.
    """
    policies = [part for part in parts if SCORES[part.score_unit] in part.metrics]
    if not policies:
        return None
    tasks = list(dict.fromkeys(part.task for part in policies))
    with styled():
        figure, places = plots(len(tasks), min(WIDEST, len(tasks)))
        by_label = looks(part.label for part in policies)
        for axes, task in zip(places, tasks, strict=True):
            own = [part for part in policies if part.task == task]
            axes.set_title(task)
            axes.set_ylabel(UNITS[own[0].score_unit])
            _draw_curves(axes, own, SCORES[own[0].score_unit], by_label)
            if task in dataset_means:
                axes.axhline(dataset_means[task], **LEVEL_LINE, label=f"_{DATASET_LEVEL}")
        add_legend(figure, by_label, DATASET_LEVEL if dataset_means.keys() & set(tasks) else None)
        add_caption(figure, CURVES_CAPTION)
    return figure


def _draw_curves(axes: Axes, parts: Sequence[Trained], metric: str, by_label: Mapping[str, Look]) -> None:
    for part in parts:
        updates, values = part.series(metric)
        if len(updates):
            colour, marker = by_label[part.label]
            axes.plot(updates, values.mean(axis=0), color=colour, marker=marker, label=part.label)
            if len(values) > 1:
                low, high = values.min(axis=0), values.max(axis=0)
                axes.fill_between(updates, low, high, color=colour, alpha=BAND, linewidth=0)
    axes.set_xlabel("gradient updates")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    axes.margins(y=0.1)


# ---- ablation -----------------------------------------------------------------------------------


def ablation_figure(panels: Sequence[Panel]) -> Figure | None:
    """Draw the paired gain over each field's values: a row for each task, a column for each field."""
    if not panels:
        return None
    tasks = list(dict.fromkeys(panel.task for panel in panels))
    names = list(dict.fromkeys(panel.field for panel in panels))
    columns = min(WIDEST, len(names)) if len(tasks) == 1 else len(names)
    by_place = {(panel.task, panel.field): panel for panel in panels}
    entries = max(len(panel.families) / _legend_columns(panel) for panel in panels if panel.families)
    with styled():
        figure, places = plots(len(tasks) * len(names), columns, below=ENTRY_HEIGHT * math.ceil(entries))
        for axes, place in zip(places, product(tasks, names), strict=True):
            if place in by_place:
                _draw_panel(axes, by_place[place])
            else:
                axes.remove()
        add_caption(figure, GAINS_CAPTION)
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    scale = Scale.of(panel.field, [point.value for family in panel.families for point in family.points])
    scale.apply(axes)
    axes.axhline(0, color="black", linewidth=0.8, label="_zero")
    by_label = looks(family.label for family in panel.families)
    for i, family in enumerate(panel.families):
        aside = DODGE * (i - (len(panel.families) - 1) / 2)
        on_axis = [point for point in family.points if point.value in scale.values]
        lone = [[point] for point in family.points if point.value not in scale.values]  # no line leads to it
        for points in [on_axis, *lone]:
            at = [scale.place(point.value, aside) for point in points]
            _draw_seeds(axes, at, points)
            colour, marker = by_label[family.label]
            label = family.label if points is on_axis else f"_{family.label}"
            means = [point.gain.mean for point in points]
            axes.errorbar(at, means, _bars(points), color=colour, marker=marker, label=label, elinewidth=1.1)
    bases = {family.base for family in panel.families}
    axes.set_title(panel.task)
    axes.set_xlabel(panel.field)
    axes.set_ylabel(f"gain over {bases.pop() if len(bases) == 1 else 'the base'}, {UNITS[panel.score_unit]}")
    if len(panel.families) > 1:
        columns = _legend_columns(panel)
        axes.legend(loc="upper left", bbox_to_anchor=(-0.03, -0.2), borderaxespad=0.0, ncols=columns, fontsize=8)


def _draw_seeds(axes: Axes, at: Sequence[float], points: Sequence[Point]) -> None:
    """Draw every training seed's gain as a thin line behind the mean's."""
    for seed in sorted({seed for point in points for seed in point.by_seed}):
        own = [(x, point.by_seed[seed]) for x, point in zip(at, points, strict=True) if seed in point.by_seed]
        x, y = zip(*own, strict=True)
        axes.plot(x, y, color=LIGHT, linewidth=0.8, marker="_", zorder=1, label=f"_seed {seed}")


def _bars(points: Sequence[Point]) -> NDArray[np.float64]:
    """Return how far the intervals reach below and above the means, (2, n); nan where there is none."""

    def reach(point: Point) -> tuple[float, float]:
        mean, low, high = point.gain.mean, point.gain.low, point.gain.high
        return (math.nan, math.nan) if low is None or high is None else (mean - low, high - mean)

    return np.array([reach(point) for point in points], dtype=float).reshape(-1, 2).T


def _legend_columns(panel: Panel) -> int:
    return label_columns([family.label for family in panel.families], PANEL[0])
