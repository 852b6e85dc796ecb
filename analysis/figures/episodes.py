"""Along an episode: imagined against real return, and where adaptation acts and how far.

Both need sweeps that record steps: `evaluation: {traced_episodes: 1}` in the YAML.
"""

import pandas as pd
from matplotlib.axes import Axes

from analysis.figures.drawing import LEVEL_LINE, LIGHT, add_legend_below, looks, own_axes, styled
from analysis.figures.families import task_of
from analysis.frames import Runs
from mpcwdwm.errors import UserError, did_you_mean

__all__ = ["plot_adaptation", "plot_imagination"]

WINDOW = 0.05  # share of the longest episode over which changes are averaged


def plot_imagination(
    run: Runs,
    method: str | None = None,
    *,
    seed: int | None = None,
    episode: int = 0,
    task: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the imagined return Ĵ at every step of an episode beside the return that followed.

    Both are discounted and in the critic's unit. Near a time limit the real return falls short, because what would
    have come behind the limit is missing; the imagined one ends in a value.

    Args:
        run: of `analysis.load`.
        method: of a planner; None: the first that is traced.
        seed: training seed; None: the first.
        episode: which of the traced ones.
        task: which; not needed if there is one.
        ax: where to draw; None: a figure of its own.

    Raises:
        UserError: nothing is traced, or not this.
    """
    own = _steps(run, task, method, "plot_imagination")
    seeds = own["seed"].unique()
    chosen = seeds[0] if seed is None else seed
    one = own[(own["seed"] == chosen) & (own["episode"] == episode)]
    if not len(one):
        raise UserError(
            f"plot_imagination: seed {chosen}, episode {episode} is not traced; there are seeds "
            f"{', '.join(map(str, seeds))} and episodes 0 to {own['episode'].max()}"
        )
    with styled():
        axes = own_axes(ax)
        columns = {"imagined, Ĵ": "imagined_return", "real, from this step on": "real_return"}
        for (label, column), look in zip(columns.items(), looks(columns).values(), strict=True):
            axes.plot(one["step"], one[column], color=look.color, linestyle=look.linestyle, label=label)
        fallen = one[one["fell_back"]]
        if len(fallen):
            axes.plot(fallen["step"], fallen["real_return"], "kx", label="fell back to the frozen policy")
        axes.set_title(f"{one['task'].iloc[0]}\n{one['method'].iloc[0]}, seed {chosen}, episode {episode}")
        axes.set_xlabel("step of the episode")
        axes.set_ylabel("discounted return, critic's unit")
        axes.set_xlim(left=0)
        add_legend_below(axes)
    return axes


def plot_adaptation(run: Runs, method: str | None = None, *, task: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw how far adaptation moves the action at every step: its distance from the frozen policy's action.

    The line is the mean over the traced episodes of all training seeds that still run, averaged over neighbouring
    steps; every episode is a thin line. The dashed line is the share of steps that are adapted, on the right-hand axis.

    Args:
        run: of `analysis.load`.
        method: of a planner; None: the first that is traced.
        task: which; not needed if there is one.
        ax: where to draw; None: a figure of its own.

    Raises:
        UserError: nothing is traced, or not this method.
    """
    own = _steps(run, task, method, "plot_adaptation")
    window = max(1, round(WINDOW * (own["step"].max() + 1)))
    with styled():
        axes = own_axes(ax)
        for (seed, episode), one in own.groupby(["seed", "episode"]):
            label = f"_seed {seed}, episode {episode}"
            axes.plot(one["step"], one["action_change"], color=LIGHT, linewidth=0.6, zorder=1, label=label)
        running = own.groupby("step").size().to_numpy()
        look = looks(["mean"])["mean"]
        mean = _smooth(own, "action_change", window)
        axes.plot(mean.index, mean, color=look.color, label=f"mean of {running[0]} episodes, over {window} steps")
        axes.set_title(f"{own['task'].iloc[0]}\n{own['method'].iloc[0]}")
        axes.set_xlabel("step of the episode")
        axes.set_ylabel("shift of the action")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        share = _smooth(own.assign(adapted=(own["action_change"] > 0).astype(float)), "adapted", window)
        right = axes.twinx()
        right.plot(share.index, share, **LEVEL_LINE, label="share of steps adapted")
        right.set_ylim(0, 1.05)
        right.set_ylabel("share of steps adapted")
        right.grid(visible=False)
        axes.plot([], [], **LEVEL_LINE, label="share of steps adapted")  # so that one legend has both
        add_legend_below(axes)
    return axes


def _steps(run: Runs, task: str | None, method: str | None, what: str) -> pd.DataFrame:
    """Return the traced steps of one planner on one task."""
    task = task_of(run, task, what)
    steps = run.steps
    own = steps[(steps["task"] == task) & steps["imagined_return"].notna()]
    known = list(dict.fromkeys(own["method"]))
    if not known or (method is not None and method not in known):
        found = "no planner is traced" if not known else f"'{method}' is not traced{did_you_mean(str(method), known)}"
        raise UserError(f"{what}: {found} on {task}; traced are {', '.join(known) or 'frozen policies alone'}")
    chosen = method or known[0]
    return steps[(steps["task"] == task) & (steps["method"] == chosen)]


def _smooth(steps: pd.DataFrame, column: str, window: int) -> "pd.Series[float]":
    """Return the mean of a column over episodes, averaged over neighbouring steps, by step."""
    by_step = steps.groupby("step")[column].mean()
    return by_step.rolling(window, center=True, min_periods=1).mean()
