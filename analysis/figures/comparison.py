"""Methods compared: score against time per step, performance profiles, probability of improvement."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis.figures.drawing import BAND, LEVEL_LINE, LIGHT, UNITS, add_legend_below, looks, own_axes, styled
from analysis.figures.families import task_of, tasks_of
from analysis.frames import Runs
from analysis.statistics import aggregate, performance_profile, probability_of_improvement
from analysis.statistics.groups import rows_of
from mpcwdwm.errors import UserError

__all__ = ["pareto_front", "plot_improvement", "plot_profile", "plot_speed"]

EVEN = 0.5  # the probability that neither method is better
BANDED = 4  # methods that have bands at most
ROW = 0.16  # of a panel's height, for each method
WIDE_DECADES = 2.0  # powers of ten on a logarithmic axis from which 2 and 5 have no tick of their own
NUMBER_OFFSET = (5, 5)  # points, of a number beside its marker


def pareto_front(ms: Sequence[float], score: Sequence[float]) -> list[int]:
    """Return the places of those that no other beats: at most as slow and at least as good, and one of it strictly.

    They come in the order of rising time.
    """
    order = sorted(range(len(ms)), key=lambda i: (ms[i], -score[i]))
    front: list[int] = []
    for i in order:
        if not front or score[i] > score[front[-1]] or (score[i], ms[i]) == (score[front[-1]], ms[front[-1]]):
            front.append(i)
    return front


def plot_speed(run: Runs, *, task: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the score of every method against the time of a step, and the Pareto front: the best score for its time.

    The time is the wall milliseconds to act, of a lockstep batch over its size. Points are means over training seeds,
    bars 95 % intervals over new ones. Of a planner's cells those on the front are numbered.

    Args:
        run: of `analysis.load`.
        task: which; not needed if there is one.
        ax: where to draw; None: a figure of its own.

    Raises:
        UserError: no such task, or nothing of it is complete.
    """
    task = task_of(run, task, "plot_speed")
    cells = run.cells[(run.cells["task"] == task) & (run.cells["role"] == "report") & run.cells["score"].notna()]
    if not len(cells):
        raise UserError(f"plot_speed: {task} has no complete cell: run the sweep")
    identity = [name for name in ("sweep", "method", "variant") if name in cells]
    rows = rows_of(run)
    found = aggregate(rows[rows["key"].isin(cells["key"])], "mean", [*identity, "name"])
    ms = cells.groupby(identity, sort=False, dropna=False)["ms_per_step"].mean().rename("ms").reset_index()
    found = found.merge(ms, on=identity)
    front = pareto_front(found["ms"].tolist(), found["estimate"].tolist())
    with styled():
        axes = own_axes(ax)
        for label, look in looks(found["name"]).items():
            own = found[found["name"] == label]
            bars = np.array([own["estimate"] - own["low"], own["high"] - own["estimate"]])
            colour, marker = look.color, look.marker
            axes.errorbar(own["ms"], own["estimate"], bars, fmt="none", ecolor=colour, elinewidth=1.1)
            axes.plot(own["ms"], own["estimate"], color=colour, marker=marker, linestyle="", label=label)
        at = found.iloc[front]
        axes.step(at["ms"], at["estimate"], where="post", color=LIGHT, zorder=1, label="Pareto front")
        numbered = at[at["method"] != at["name"]]  # of the others the legend says enough
        for number, row in enumerate(numbered.itertuples(), 1):
            axes.annotate(str(number), (row.ms, row.estimate), NUMBER_OFFSET, textcoords="offset points", fontsize=8)
        axes.set_xscale("log")
        _plain_log_ticks(axes, found["ms"])
        axes.set_title(task)
        axes.set_xlabel("milliseconds to act, per step of an episode")
        axes.set_ylabel(UNITS[str(cells["score_unit"].iloc[0])])
        for number, label in enumerate(_labels(numbered), 1):
            axes.add_line(Line2D([], [], color="black", linestyle="none", marker=f"${number}$", label=label))
        add_legend_below(axes)
    return axes


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


def _labels(rows: pd.DataFrame) -> list[str]:
    """Return what methods are called, with their variant where the name does not say it."""
    pairs = zip(rows["method"], rows["variant"], strict=True)
    return [f"{method} ({variant})" if variant and variant not in method else method for method, variant in pairs]


def _tasks(run: Runs) -> str:
    """Return the only task's name, or how many there are."""
    names = tasks_of(run)
    return names[0] if len(names) == 1 else f"{len(names)} tasks"


def _unit(run: Runs) -> str:
    units = run.cells["score_unit"].dropna().unique()
    return UNITS[units[0]] if len(units) == 1 else "score"


def _plain_log_ticks(axes: Axes, values: "pd.Series[float]") -> None:
    """Tick a logarithmic x axis with plain numbers: powers of ten alone where the axis has several."""
    positive = values[values > 0]
    decades = np.log10(positive.max() / positive.min()) if len(positive) else 0.0
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if decades > WIDE_DECADES else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
