"""Score or gain over one planner field, and over two as a heat map."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.figures.drawing import (
    LEVEL_LINE,
    LIGHT,
    UNITS,
    Look,
    Scale,
    add_legend_below,
    looks,
    own_axes,
    shown,
    styled,
)
from analysis.figures.families import (
    SHORT,
    Family,
    Point,
    Setting,
    families,
    field_of,
    points_of,
    settings_of,
    task_of,
    value_of,
    varying_fields,
)
from analysis.frames import Runs
from mpcwdwm.errors import UserError, did_you_mean

__all__ = ["Measure", "plot_ablation", "plot_heatmap"]

Measure = Literal["gain", "score"]

DODGE = 0.018  # share of the axis between families at the same value
DARK = 0.5  # of a colour map: text on darker cells is white
HEAT = "cividis"  # even in lightness, so that grey keeps its order


def plot_ablation(
    run: Runs, x: str = "H", *, y: Measure = "gain", task: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the gain or score over one field of the planners, a line for all cells that differ in nothing else.

    Points are means over training seeds, bars 95 % intervals over new ones (none below three seeds), thin grey lines
    single seeds. A cell that lacks seeds of others is hollow. Unset values and words such as "auto" stand at the left.

    Args:
        run: of `analysis.load`.
        x: "H", "M", "E", "step_size", or any field of a planner's config that has numbers.
        y: "gain", paired with the base policy, or "score"; then the base's mean is dashed.
        task: which; not needed if there is one.
        ax: where to draw; None: a figure of its own.

    Raises:
        UserError: nothing to draw: no such task or field, or no planner with two values of it.
    """
    task = task_of(run, task, "plot_ablation")
    cells, field = settings_of(run, task, y), field_of(x)
    found = families(run, cells, field, y)
    if not found:
        known = [SHORT.get(name, name) for name in varying_fields(cells)]
        raise UserError(
            f"plot_ablation: no planner has two values of '{x}' with a {y} on {task}{did_you_mean(x, known)}; "
            f"what varies is {', '.join(known) or 'nothing'}"
        )
    with styled():
        axes = own_axes(ax)
        scale = Scale.of(field, [point.value for family in found for point in family.points])
        scale.apply(axes)
        unit = UNITS[str(cells[0].rows["score_unit"].iloc[0])]
        bases = {family.base for family in found}
        _draw_level(axes, run, task, y, bases)
        by_label = looks(family.label for family in found)
        for i, family in enumerate(found):
            _draw_family(axes, family, scale, DODGE * (i - (len(found) - 1) / 2), by_label[family.label])
        over = f"gain over {bases.pop() if len(bases) == 1 else 'the base'}, "
        axes.set_title(task)
        axes.set_xlabel(_axis_name(field))
        axes.set_ylabel((over if y == "gain" else "") + unit)
        if len(found) > 1 or y == "score":
            add_legend_below(axes)
    return axes


def plot_heatmap(
    run: Runs,
    x: str = "H",
    y: str = "E",
    *,
    value: Measure = "gain",
    task: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the gain or score over two fields of one planner, whose other settings are the same, as a heat map.

    Every cell shows its mean over training seeds and below it the 95 % interval over new ones.

    Args:
        run: of `analysis.load`; `where=` there picks a planner, and the values of other fields that vary.
        x: as for `plot_ablation`.
        y: likewise.
        value: "gain" or "score".
        task: which; not needed if there is one.
        ax: where to draw; None: a figure of its own.

    Raises:
        UserError: no such task, no cell has both fields, or cells differ in other settings, too.
    """
    task = task_of(run, task, "plot_heatmap")
    fields = [field_of(x), field_of(y)]
    cells = [cell for cell in settings_of(run, task, value) if all(field in cell.settings for field in fields)]
    others = {name for cell in cells for name in cell.settings} - set(fields)
    differ = sorted(name for name in others if len({cell.settings.get(name) for cell in cells}) > 1)
    if not cells or differ:
        why = (
            f"cells differ in {', '.join(differ)}, too: pick one with load(…, where=…)"
            if differ
            else "no cell has both"
        )
        raise UserError(f"plot_heatmap: {x} and {y} on {task}: {why}")
    points = points_of(run, cells, value)
    across, up = (_values(cells, field) for field in fields)
    means = np.full((len(up), len(across)), np.nan)
    for cell, point in zip(cells, points, strict=True):
        means[up.index(cell.settings[fields[1]]), across.index(cell.settings[fields[0]])] = point.mean
    with styled():
        axes = own_axes(ax)
        lowest, highest = float(np.nanmin(means)), float(np.nanmax(means))
        image = axes.imshow(means, cmap=HEAT, aspect="auto", origin="lower")
        for cell, point in zip(cells, points, strict=True):
            at = across.index(cell.settings[fields[0]]), up.index(cell.settings[fields[1]])
            is_dark = point.mean < lowest + DARK * (highest - lowest)
            colour = "white" if is_dark else "black"
            axes.text(*at, _cell_text(point, value), ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(len(across)), [shown(value_of(text)) for text in across])
        axes.set_yticks(range(len(up)), [shown(value_of(text)) for text in up])
        axes.grid(visible=False)
        axes.set_title(task)
        axes.set_xlabel(_axis_name(fields[0]))
        axes.set_ylabel(_axis_name(fields[1]))
        unit, base = UNITS[str(cells[0].rows["score_unit"].iloc[0])], cells[0].rows["base"].iloc[0]
        said = f"gain over {base}, {unit}" if value == "gain" else unit
        axes.figure.colorbar(image, ax=axes, label=said)
    return axes


# ---- pieces -------------------------------------------------------------------------------------


def _draw_level(axes: Axes, run: Runs, task: str, y: Measure, bases: set[str]) -> None:
    """Draw what to compare with: no gain, or the mean score of each base policy."""
    if y == "gain":
        axes.axhline(0, color="black", linewidth=0.8, label="_zero")
        return
    cells = run.cells
    for base in sorted(bases):
        own = cells[(cells["task"] == task) & (cells["kind"] == "none") & (cells["name"] == base)]
        if own["score"].notna().any():
            axes.axhline(own["score"].mean(), **LEVEL_LINE, label=f"{base}, not adapted")


def _draw_family(axes: Axes, family: Family, scale: Scale, aside: float, look: Look) -> None:
    on_axis = [point for point in family.points if point.value in scale.values]
    lone = [[point] for point in family.points if point.value not in scale.values]  # no line leads to it
    for points in [on_axis, *lone]:
        at = [scale.place(point.value, aside) for point in points]
        _draw_seeds(axes, at, points)
        label = family.label if points is on_axis else f"_{family.label}"
        means = [point.mean for point in points]
        axes.errorbar(at, means, _bars(points), **look._asdict(), label=label, elinewidth=1.1)
        short = [(x, point.mean) for x, point in zip(at, points, strict=True) if point.lacking]
        if short:
            x, y = zip(*short, strict=True)
            hollow = axes.plot(x, y, color=look.color, marker=look.marker, label=f"_lacking {family.label}")[0]
            hollow.set(linestyle="", markerfacecolor="white", zorder=4)


def _draw_seeds(axes: Axes, at: Sequence[float], points: Sequence[Point]) -> None:
    """Draw every training seed's value as a thin line behind the mean's."""
    for seed in sorted({seed for point in points for seed in point.by_seed}):
        own = [(x, point.by_seed[seed]) for x, point in zip(at, points, strict=True) if seed in point.by_seed]
        x, y = zip(*own, strict=True)
        axes.plot(x, y, color=LIGHT, linewidth=0.8, marker="_", zorder=1, label=f"_seed {seed}")


def _bars(points: Sequence[Point]) -> NDArray[np.float64]:
    """Return how far the intervals reach below and above the means, (2, n); nan where there is none."""
    return np.array([(point.mean - point.low, point.high - point.mean) for point in points]).reshape(-1, 2).T


def _values(cells: Sequence[Setting], field: str) -> list[str]:
    """Return a field's values as they are recorded, unset and words first, numbers rising."""

    def place(text: str) -> tuple[bool, float]:
        value = value_of(text)
        return isinstance(value, float), value if isinstance(value, float) else 0.0

    return sorted(dict.fromkeys(cell.settings[field] for cell in cells), key=place)


def _cell_text(point: Point, value: Measure) -> str:
    sign = "+" if value == "gain" else ""
    text = f"{point.mean:{sign}.1f}"
    if not math.isnan(point.low):
        text += f"\n[{point.low:{sign}.1f}, {point.high:{sign}.1f}]"
    return text.replace("-", "−")


def _axis_name(field: str) -> str:
    return f"{SHORT[field]} ({field})" if field in SHORT else field.replace("_", " ")
