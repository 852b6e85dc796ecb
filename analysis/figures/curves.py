"""Learning curves of policies, and errors of world models on held-out episodes, over gradient updates."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from analysis.figures.drawing import (
    BAND,
    LEVEL_LINE,
    UNITS,
    Look,
    add_legend_below,
    log_ticks,
    looks,
    own_axes,
    styled,
)
from analysis.figures.families import task_of
from analysis.frames import Runs
from analysis.models.curves import Trained, trained_parts
from analysis.models.report import ONE_STEP, UNCHANGED, open_loop_metrics, steps_of, unchanged
from mpcwdwm.errors import UserError

__all__ = [
    "DATASET_LEVEL",
    "draw_errors",
    "draw_policies",
    "error_metrics",
    "plot_learning_curves",
    "plot_model_error",
    "policies_of",
    "worlds_of",
]

POLICIES = ("rebrac", "iql", "bc")
WORLD_MODEL = "world_model"
SCORES = {"normalized": "eval/normalized_score", "return": "eval/return"}  # of a policy's curve, by the task's unit
DATASET = {"normalized": "dataset_score", "return": "dataset_return"}  # of a cell
DATASET_LEVEL = "mean of the dataset"


def plot_learning_curves(run: Runs, *, task: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the policies' scores in the environment over training: means over seeds, with the range between them.

    Dashed is the mean score of the dataset's episodes.

    Args:
        run: of `analysis.load`.
        task: which; not needed if there is one.
        ax: where to draw; None: a figure of its own.

    Raises:
        UserError: no such task, or no policy of it has scores in its learning curve.
    """
    task = task_of(run, task, "plot_learning_curves")
    policies = policies_of(run, task)
    if not policies:
        raise UserError(
            f"plot_learning_curves: no policy on {task} has a learning curve of scores: give it eval_episodes of 1 or "
            "more, and run the sweep"
        )
    with styled():
        axes = own_axes(ax)
        draw_policies(axes, run, task, policies, looks(part.label for part in policies))
        add_legend_below(axes)
    return axes


def plot_model_error(run: Runs, steps: int = 1, *, task: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the world models' errors on held-out episodes over training: means over seeds, with their range.

    Dashed is the error of the prediction that the state does not change.

    Args:
        run: of `analysis.load`.
        steps: 1, or the H steps after which open-loop errors were measured.
        task: which; not needed if there is one.
        ax: where to draw; None: a figure of its own.

    Raises:
        UserError: no such task, or no world model of it has such an error.
    """
    task = task_of(run, task, "plot_model_error")
    worlds = worlds_of(trained_parts(run, [WORLD_MODEL])[0], task)
    metrics = {steps_of(metric): metric for metric in error_metrics(worlds)}
    if steps not in metrics:
        known = ", ".join(map(str, metrics)) or "none: held-out episodes are needed"
        raise UserError(
            f"plot_model_error: no world model on {task} has an error after {steps} steps; there are {known}"
        )
    with styled():
        axes = own_axes(ax)
        draw_errors(axes, task, worlds, metrics[steps], looks(part.label for part in worlds))
        log_ticks([axes])
        add_legend_below(axes)
    return axes


# ---- pieces -------------------------------------------------------------------------------------


def policies_of(run: Runs, task: str) -> list[Trained]:
    """Return the policies of a task that have scores in their learning curves."""
    parts = trained_parts(run, POLICIES)[0]
    return [part for part in parts if part.task == task and SCORES[part.score_unit] in part.metrics]


def worlds_of(parts: Sequence[Trained], task: str) -> list[Trained]:
    """Return the world models of a task that have an error."""
    own = [part for part in parts if part.task == task and part.component == WORLD_MODEL]
    return [part for part in own if ONE_STEP in part.metrics]


def error_metrics(worlds: Sequence[Trained]) -> list[str]:
    """Return the names of their errors: after one step, then after more."""
    return [ONE_STEP, *open_loop_metrics(worlds)] if worlds else []


def draw_policies(axes: Axes, run: Runs, task: str, policies: Sequence[Trained], by_label: Mapping[str, Look]) -> bool:
    """Draw a task's policies; return whether the dataset's mean is known and drawn."""
    unit = policies[0].score_unit
    axes.set_title(task)
    axes.set_ylabel(UNITS[unit])
    _draw_curves(axes, policies, SCORES[unit], by_label)
    means = run.cells.loc[run.cells["task"] == task, DATASET[unit]].dropna()
    if len(means):
        axes.axhline(float(means.iloc[0]), **LEVEL_LINE, label=DATASET_LEVEL)
    return len(means) > 0


def draw_errors(axes: Axes, task: str, worlds: Sequence[Trained], metric: str, by_label: Mapping[str, Look]) -> bool:
    """Draw a task's world models; return whether the error of no change is known and drawn."""
    axes.set_title(f"{task}, {'one step' if metric == ONE_STEP else f'{steps_of(metric)} steps'}")
    axes.set_ylabel("RMSE, standard deviations")
    axes.set_yscale("log")
    _draw_curves(axes, worlds, metric, by_label)
    still = unchanged(worlds, metric)
    if still is not None:
        axes.axhline(still.mean, **LEVEL_LINE, label=UNCHANGED)
    return still is not None


def _draw_curves(axes: Axes, parts: Sequence[Trained], metric: str, by_label: Mapping[str, Look]) -> None:
    for part in parts:
        updates, values = part.series(metric)
        if len(updates):
            look = by_label[part.label]
            axes.plot(updates, values.mean(axis=0), **look._asdict(), label=part.label)
            if len(values) > 1:
                low, high = values.min(axis=0), values.max(axis=0)
                axes.fill_between(updates, low, high, color=look.color, alpha=BAND, linewidth=0)
    axes.set_xlabel("gradient updates")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    axes.margins(y=0.1)
