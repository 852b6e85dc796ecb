"""What methods cost beside what they give: score or gain against network evaluations or milliseconds per step."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis.figures.drawing import LEVEL_LINE, LIGHT, UNITS, Look, add_legend_below, looks, own_axes, styled
from analysis.figures.families import task_of
from analysis.frames import Runs
from analysis.statistics import aggregate
from analysis.statistics.groups import rows_of
from mpcwdwm.errors import UserError

__all__ = ["COLUMNS", "Cost", "Worth", "draw_cost", "numbers_of", "pareto_front", "plot_cost"]

Cost = Literal["evaluations", "ms"]
Worth = Literal["score", "gain"]
COLUMNS: dict[Cost, str] = {"evaluations": "evaluations_per_step", "ms": "ms_per_step"}
AXES = {"evaluations": "network evaluations per step", "ms": "milliseconds to act, per step of an episode"}
FRONT = "Pareto front"
IDENTITY = ("sweep", "method", "variant")
NAMED = 20  # methods up to which all are numbered; of more, a planner's cells only on the front
WIDE_DECADES = 2.0  # powers of ten on a logarithmic axis from which 2 and 5 have no tick of their own
PLACES = ((6, 3), (6, -9), (-11, 3), (-11, -9), (-3, 9), (-3, -15))  # points, of a number: tried
ROOM = (11, 9)  # points, width and height of a number


def pareto_front(cost: Sequence[float], worth: Sequence[float]) -> list[int]:
    """Return the places of those that no other beats: at most as costly and at least as good, and one of it strictly.

    They come in the order of rising cost.
    """
    order = sorted(range(len(cost)), key=lambda i: (cost[i], -worth[i]))
    front: list[int] = []
    for i in order:
        if not front or worth[i] > worth[front[-1]] or (worth[i], cost[i]) == (worth[front[-1]], cost[front[-1]]):
            front.append(i)
    return front


def plot_cost(
    run: Runs,
    *,
    cost: Cost = "evaluations",
    value: Worth = "score",
    task: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the score or gain of every method against its cost, and the Pareto front: the best for its cost.

    Points are means over training seeds, bars 95 % intervals over new ones; the front joins the means. A number beside
    a point is that of its method in the legend. Gains are paired, over each planner's own base, which stands at 0.

    Args:
        run: of `analysis.load`.
        cost: "evaluations": of networks per step, the same on any machine; "ms": wall milliseconds to act, of a
            lockstep batch over its size.
        value: "score" or "gain".
        task: which; not needed if there is one.
        ax: where to draw; None: a figure of its own.

    Raises:
        UserError: no such cost, value or task, nothing of it is complete, or its evaluations were not counted.
    """
    for name, given, known in (("cost", cost, get_args(Cost)), ("value", value, get_args(Worth))):
        if given not in known:
            raise UserError(f"plot_cost: no {name}={given!r}; there are {', '.join(known)}")
    task = task_of(run, task, "plot_cost")
    with styled():
        axes = own_axes(ax)
        add_legend_below(axes, draw_cost(axes, run, task, cost, value, numbers_of(run, task)))
    return axes


def draw_cost(axes: Axes, run: Runs, task: str, cost: Cost, value: Worth, numbers: Mapping[str, int]) -> list[Line2D]:
    """Draw one plot, with these numbers of methods, and return the entries of its legend."""
    found = _methods(run, task, cost, value)
    front = pareto_front(found["cost"].tolist(), found["estimate"].tolist())
    by_planner = looks(run.cells["name"])
    for name, own in found.groupby("name", sort=False):
        bars = np.array([own["estimate"] - own["low"], own["high"] - own["estimate"]])
        colour, marker = by_planner[str(name)].color, by_planner[str(name)].marker
        axes.errorbar(own["cost"], own["estimate"], bars, fmt="none", ecolor=colour, elinewidth=1.1)
        axes.plot(own["cost"], own["estimate"], color=colour, marker=marker, linestyle="", label=name)
    at = found.iloc[front]
    axes.step(at["cost"], at["estimate"], where="post", color=LIGHT, zorder=1, label=FRONT)
    if value == "gain":
        axes.axhline(0, **LEVEL_LINE)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.12)
    _plain_log_ticks(axes, found["cost"])
    axes.set_title(task)
    axes.set_xlabel(AXES[cost])
    axes.set_ylabel("paired gain" if value == "gain" else UNITS[str(found["score_unit"].iloc[0])])
    is_lone = found["name"].map(found["name"].value_counts()).eq(1)
    is_named = is_lone | found["kind"].eq("none") | found.index.isin(at.index) | (len(found) <= NAMED)
    _number(axes, found, found[is_named], numbers)
    entries = [
        _entry(by_planner[name], f"{numbers[label]}  {label}")
        for name, label in zip(found["name"][is_named], found["label"][is_named], strict=True)
    ]
    entries += [_entry(by_planner[name], f"{name}, others") for name in found["name"][~is_named].unique()]
    return [*entries, Line2D([], [], color=LIGHT, label=FRONT)]


def _entry(look: Look, label: str) -> Line2D:
    return Line2D([], [], color=look.color, marker=look.marker, linestyle="", label=label)


def _methods(run: Runs, task: str, cost: Cost, value: Worth) -> pd.DataFrame:
    """Return a row per method: what it is worth, with its interval, and its cost."""
    cells = run.cells[(run.cells["task"] == task) & (run.cells["role"] == "report") & run.cells["score"].notna()]
    if not len(cells):
        raise UserError(f"plot_cost: {task} has no complete cell: run the sweep")
    cells = cells.assign(cost=pd.to_numeric(cells[COLUMNS[cost]], errors="coerce"))
    if cells["cost"].isna().all():
        raise UserError(
            f"plot_cost: network evaluations of {task} were not counted, its records are of an earlier version: "
            "give cost='ms'"
        )
    if value == "gain":
        based_on = set(cells.loc[cells["kind"].ne("none") & cells["gain"].notna(), "base_key"])
        is_base = cells["kind"].eq("none") & cells["base_key"].isin(based_on)
        if not based_on:
            raise UserError(f"plot_cost: no planner of {task} has a paired gain: give value='score'")
        cells = cells[cells["gain"].notna() | is_base]
    rows = rows_of(run)
    rows = rows[rows["key"].isin(cells["key"])]
    if value == "gain":
        rows = rows.assign(gain=rows["gain"].fillna(0.0))  # of a base over itself
    found = aggregate(rows, "mean", [*IDENTITY, "name", "kind"], value=value)
    facts = {"cost": ("cost", "mean"), "score_unit": ("score_unit", "first")}
    costs = cells.groupby(list(IDENTITY), sort=False, dropna=False).agg(**facts).reset_index()
    found = found.merge(costs, on=list(IDENTITY))
    found = found.assign(label=_labels(found))
    return found[found["cost"].notna() & found["estimate"].notna()].reset_index(drop=True)


def _number(axes: Axes, found: pd.DataFrame, named: pd.DataFrame, numbers: Mapping[str, int]) -> None:
    """Number some methods beside their points, where nothing is in the way."""
    scale = 72 / axes.figure.dpi  # points per pixel
    points, low, high = (
        [(float(x), float(y)) for x, y in axes.transData.transform(found[["cost", name]].to_numpy(float)) * scale]
        for name in ("estimate", "low", "high")
    )
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in points]
    taken += [(a[0] - 1, a[1], a[0] + 1, b[1]) for a, b in zip(low, high, strict=True) if np.isfinite([a, b]).all()]
    rows = zip(named.index.astype(int), named["label"], named["cost"], named["estimate"], strict=True)
    for place, label, cost, worth in rows:
        x, y = points[place]
        boxes = [(x + dx, y + dy, x + dx + ROOM[0], y + dy + ROOM[1]) for dx, dy in PLACES]
        best = int(np.argmin([sum(_overlap(box, other) for other in taken) for box in boxes]))
        taken.append(boxes[best])
        axes.annotate(str(numbers[label]), (cost, worth), PLACES[best], textcoords="offset points", fontsize=8)


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the area that two boxes (left, low, right, high) share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _labels(rows: pd.DataFrame) -> list[str]:
    """Return what methods are called, with their variant where the name does not say it."""
    pairs = zip(rows["method"], rows["variant"], strict=True)
    return [f"{method} ({variant})" if variant and variant not in method else method for method, variant in pairs]


def numbers_of(run: Runs, task: str | None = None) -> dict[str, int]:
    """Return the number of every method of a task, or of all tasks, in the order of the plan."""
    cells = run.cells[(run.cells["role"] == "report") & ((run.cells["task"] == task) if task else True)]
    return {label: number for number, label in enumerate(dict.fromkeys(_labels(cells)), 1)}


def _plain_log_ticks(axes: Axes, values: "pd.Series[float]") -> None:
    """Tick a logarithmic x axis with plain numbers: powers of ten alone where the axis has several."""
    positive = values[values > 0]
    decades = np.log10(positive.max() / positive.min()) if len(positive) else 0.0
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if decades > WIDE_DECADES else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
