"""Methods compared: performance profiles, probability of improvement."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from analysis.figures.drawing import BAND, LEVEL_LINE, UNITS, add_legend_below, looks, own_axes, styled
from analysis.figures.families import tasks_of
from analysis.frames import Runs
from analysis.statistics import performance_profile, probability_of_improvement

__all__ = ["plot_improvement", "plot_profile"]

EVEN = 0.5  # the probability that neither method is better
BANDED = 4  # methods that have bands at most
ROW = 0.16  # of a panel's height, for each method


def plot_profile(
    run: Runs, *, value: str = "score", by: Sequence[str] | str = "method", ax: Axes | None = None
) -> Axes:
    """Draw performance profiles: the share of runs (training seeds of all tasks) that score more than a threshold.

    Bands are 95 % intervals of each threshold by itself, from a bootstrap over training seeds stratified by task; none
    below three seeds, and none of more than four methods, where they would hide each other.

    Args:
        run: of `analysis.load`; `where=` there picks the methods.
        value: "score" or "gain".
        by: columns that tell the methods apart.
        ax: where to draw; None: a figure of its own.

    Raises:
        UserError: as of `analysis.performance_profile`.
    """
    found = performance_profile(run, by=by, value=value)
    columns = [by] if isinstance(by, str) else list(by)
    found["label"] = found[columns].astype(str).agg(" ".join, axis=1)
    found = found[found["estimate"].notna()]
    with styled():
        axes = own_axes(ax)
        for label, look in looks(found["label"]).items():
            own = found[found["label"] == label]
            shape = {"color": look.color, "linestyle": look.linestyle, "marker": look.marker}
            axes.plot(own["threshold"], own["estimate"], **shape, markevery=0.2, label=label, drawstyle="steps-post")
            if found["label"].nunique() <= BANDED:
                band = (own["threshold"], own["low"], own["high"])
                axes.fill_between(*band, color=look.color, alpha=BAND, linewidth=0, step="post")
        axes.set_title(_tasks(run))
        axes.set_xlabel(f"{_unit(run) if value == 'score' else value} τ")
        axes.set_ylabel(f"share of runs with {value} > τ")
        axes.set_ylim(-0.02, 1.02)
        add_legend_below(axes)
    return axes


def plot_improvement(run: Runs, vs: str | Mapping[str, object], *, ax: Axes | None = None) -> Axes:
    """Draw the chance that a run of each method scores more than one of another method on the same task.

    Bars are 95 % intervals, from a bootstrap over training seeds stratified by task; none below three seeds. Dashed is
    ½: neither is better.

    Args:
        run: of `analysis.load`; `where=` there picks the methods.
        vs: the other method, or {column: value, …} that its cells have.
        ax: where to draw; None: a figure of its own.

    Raises:
        UserError: as of `analysis.probability_of_improvement`.
    """
    found = probability_of_improvement(run, vs, by=["method"])
    found = found[found["estimate"].notna()].iloc[::-1]  # the first is drawn at the top
    with styled():
        axes = own_axes(ax, height=0.5 + ROW * len(found))
        places = range(len(found))
        bars = np.array([found["estimate"] - found["low"], found["high"] - found["estimate"]])
        axes.errorbar(found["estimate"], places, xerr=bars, color="black", marker="o", linestyle="none", elinewidth=1.1)
        axes.axvline(EVEN, **LEVEL_LINE)
        axes.set_title(_tasks(run))
        axes.set_yticks(places, found["method"])
        axes.set_ylim(-0.6, len(found) - 0.4)
        axes.set_xlim(-0.02, 1.02)
        axes.grid(visible=False)
        axes.set_xlabel(f"probability of a better run than {found['vs'].iloc[0] if len(found) else vs}")
    return axes


# ---- pieces -------------------------------------------------------------------------------------


def _tasks(run: Runs) -> str:
    """Return the only task's name, or how many there are."""
    names = tasks_of(run)
    return names[0] if len(names) == 1 else f"{len(names)} tasks"


def _unit(run: Runs) -> str:
    units = run.cells["score_unit"].dropna().unique()
    return UNITS[units[0]] if len(units) == 1 else "score"
