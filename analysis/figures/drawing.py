"""Style, layout, axes, legend, caption and files of all figures.

A plot function called without axes makes its own by `own_axes`, with pyplot, so that a notebook shows them. Figures of
several plots are made without pyplot and its global state. Both are made in the `styled` context. `rendered` turns a
figure into the bytes of files, the same for the same numbers and the same version of matplotlib.
"""

import io
import math
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib
from matplotlib import pyplot, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, LogLocator, NullLocator

__all__ = [
    "BAND",
    "GREY",
    "LEVEL_LINE",
    "LIGHT",
    "PANEL",
    "UNITS",
    "WIDEST",
    "Look",
    "Scale",
    "Value",
    "add_caption",
    "add_entries",
    "add_legend",
    "add_legend_below",
    "label_columns",
    "log_ticks",
    "looks",
    "own_axes",
    "plots",
    "rendered",
    "shown",
    "styled",
]

FORMATS = ("png", "svg")
DPI = 160  # dots per inch of a PNG
PANEL = (3.7, 2.7)  # inches, width and height of one plot
MARGIN = 0.6  # inches, height of legend and caption
LEGEND_BELOW = (-0.03, -0.2)  # of a plot: the legend's upper left corner, in shares of the axes
WIDEST = 4  # plots beside each other where they may wrap
PADS = (0.07, 0.06)  # inches, beside and above every plot
CHARACTER = 0.075  # inches, of a legend
HANDLE = 0.7  # inches, of a legend's entry beside its text
CAPTION_CHARACTERS = 16  # in an inch
# Okabe and Ito's palette, told apart by colour-blind readers too; its yellow is too light for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# Beside the colours, so that lines are told apart in grey. Seven colours, six markers and five dashes: 210 looks.
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
GREY, LIGHT = "#666666", "#c8c8c8"
LEVEL_LINE: Any = {"color": GREY, "linestyle": (0, (8, 4)), "linewidth": 1.4, "zorder": 3}  # a line across, on top
BAND = 0.16  # opacity of a range around a line
UNSET = "unset"  # tick of a field without a value
UNSET_GAP = 0.2  # share of the axis between a value left of it and the smallest value
TICK_GAP = 0.1  # of the axis between two ticks, so that their labels do not touch
LOGARITHMIC = "step_size"  # part of the names of fields that always have a logarithmic axis
WIDE_RANGE = 20.0  # largest over smallest value from which any field has
LONE_RANGE = 10.0  # of a logarithmic axis with one value
NARROWEST_RANGE = 6.0  # largest over smallest error on a logarithmic axis, so that two ticks are on it
UNITS = {"normalized": "normalized score", "return": "return"}  # of scores, by their name in the records
STYLE: Any = {  # matplotlib's own type for it differs from version to version
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that the figure is the same everywhere
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "svg.hashsalt": "mpcwdwm",  # instead of a random one in the names of the file's elements
}


class Look(NamedTuple):
    """How a line is told from the others, in colour and in grey."""

    color: str
    marker: str
    linestyle: Any  # as matplotlib takes it


@contextmanager
def styled() -> Iterator[None]:
    """Make and render figures in our style.

    A notebook's first figure loads its backend, which has figures shown from then on: that setting is kept.
    """
    with rc_context(STYLE):
        yield
        shows_figures = matplotlib.is_interactive()
    matplotlib.interactive(shows_figures)


def rendered(name: str, figure: Figure) -> dict[str, bytes]:
    """Return the figure's files, content by file name: NAME.png and NAME.svg, without a date."""
    files = {}
    for kind in FORMATS:
        content = io.BytesIO()
        with styled():
            figure.savefig(content, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)
        files[f"{name}.{kind}"] = content.getvalue()
    return files


def own_axes(ax: Axes | None, *, width: float = 1.5, height: float = 1.3) -> Axes:
    """Return the axes given, or those of a new figure of so many times the size of a panel."""
    if ax is not None:
        return ax
    size = (PANEL[0] * width, PANEL[1] * height)
    return pyplot.subplots(figsize=size, layout="constrained")[1]


def plots(count: int, columns: int, *, below: float = 0.0) -> tuple[Figure, list[Axes]]:
    """Return a figure and its plots, row by row.

    Args:
        count: how many plots.
        columns: plots beside each other.
        below: inches of height that every row needs for legends.
    """
    rows = math.ceil(count / columns)
    size = (PANEL[0] * columns, (PANEL[1] + below) * rows + MARGIN)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=PADS[0], h_pad=PADS[1]))
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in places[count:]:
        axes.remove()
    return figure, places[:count]


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """Return a look for every label, in the order of their first appearance."""
    unique = dict.fromkeys(labels)
    return {
        label: Look(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], LINES[i % len(LINES)])
        for i, label in enumerate(unique)
    }


def label_columns(labels: Collection[str], width: float) -> int:
    """Return in how many columns a legend of these labels fits a width in inches, its rows being about equal."""
    entry = HANDLE + CHARACTER * sum(map(len, labels)) / len(labels)
    fitting = max(1, min(len(labels), int(width / entry)))
    return math.ceil(len(labels) / math.ceil(len(labels) / fitting))


def add_legend(figure: Figure, by_label: Mapping[str, Look], level: str | None = None) -> None:
    """Put one legend for all plots above them, and for a dashed line of style `LEVEL_LINE`."""
    lines = [Line2D([], [], **look._asdict(), label=label) for label, look in by_label.items()]
    add_entries(figure, lines + ([Line2D([], [], **LEVEL_LINE, label=level)] if level else []))


def add_entries(figure: Figure, entries: Sequence[Line2D]) -> None:
    """Put one legend of these lines for all plots above them."""
    columns = label_columns([str(line.get_label()) for line in entries], figure.get_figwidth())
    figure.legend(handles=entries, loc="outside upper left", ncols=columns)


def add_legend_below(axes: Axes, entries: Sequence[Line2D] | None = None) -> None:
    """Put the legend of one plot below it, of these lines or of all that is drawn, in as many columns as fit."""
    handles = axes.get_legend_handles_labels()[0] if entries is None else entries
    if handles:
        columns = label_columns([str(handle.get_label()) for handle in handles], axes.bbox.width / axes.figure.dpi)
        anchor = {"bbox_to_anchor": LEGEND_BELOW, "borderaxespad": 0.0}
        axes.legend(handles=handles, loc="upper left", **anchor, ncols=columns, fontsize=8)


def add_caption(figure: Figure, text: str) -> None:
    """Write a caption below the plots."""
    wrapped = textwrap.fill(text, int(CAPTION_CHARACTERS * figure.get_figwidth()))
    figure.supxlabel(wrapped, x=0.01, ha="left", fontsize=8, color=GREY)


def log_ticks(panels: Sequence[Axes]) -> None:
    """Give the logarithmic y axes of panels the same ends, and ticks at 1, 2, 5 of every decade as plain numbers.

    The axes show all that is drawn in any of the panels, and enough for two ticks.
    """
    ends = [axes.get_ylim() for axes in panels]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    widen = max(1.0, math.sqrt(NARROWEST_RANGE * low / high))
    for axes in panels:
        axes.set_ylim(low / widen, high * widen)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


Value = float | str | None
"""Of a field: a number, a word such as "auto", or None where it is unset."""


def shown(value: Value) -> str:
    """Return a field's value as ticks and labels show it."""
    if value is None:
        return UNSET
    return value if isinstance(value, str) else f"{value:g}"


@dataclass(frozen=True)
class Scale:
    """The x axis of a field; what it cannot show (unset, a word, or 0 if it is logarithmic) is drawn left of it.

    Attributes:
        values: on the axis, rising.
        left: the others, from left to right; None: unset.
        log: whether the axis is logarithmic.
    """

    values: tuple[float, ...]
    left: tuple[Value, ...]
    log: bool

    @classmethod
    def of(cls, field: str, values: Collection[Value]) -> "Scale":
        """Return the scale for a field's values, one of them a number: logarithmic for step sizes and wide ranges."""
        numbers = sorted({value for value in values if isinstance(value, (int, float))})
        positive = [value for value in numbers if value > 0]
        wide = bool(positive) and positive[-1] >= WIDE_RANGE * positive[0]
        log = bool(positive) and numbers[0] >= 0 and (LOGARITHMIC in field or wide)
        left: list[Value] = [None] if None in values else []
        left += sorted({value for value in values if isinstance(value, str)})
        left += [0.0] if log and 0 in numbers else []
        return cls(tuple(positive if log else numbers), tuple(left), log)

    def place(self, value: Value, aside: float = 0.0) -> float:
        """Return where a value is drawn, moved by a share of the axis."""
        if isinstance(value, str) or value not in self.values:
            aside -= UNSET_GAP * (len(self.left) - self.left.index(value))
            value = self.values[0]
        assert value is not None
        low, high = self.values[0], self.values[-1]
        if self.log:
            return value * (high / low if high > low else LONE_RANGE) ** aside
        return value + aside * (high - low or 1.0)

    def ticked(self) -> list[float]:
        """Return the values that get a tick: both ends, and between them those not too near to another."""
        along = [math.log(value) if self.log else value for value in self.values]
        gap = TICK_GAP * (along[-1] - along[0])
        kept = [0]
        for place in range(1, len(along)):
            if along[place] - along[kept[-1]] >= gap and (place == len(along) - 1 or along[-1] - along[place] >= gap):
                kept.append(place)
        if kept[-1] != len(along) - 1:
            kept.append(len(along) - 1)
        return [self.values[place] for place in kept]

    def apply(self, axes: Axes) -> None:
        """Give the x axis this scale, with ticks at the values."""
        if self.log:
            axes.set_xscale("log")
        ticks = [*self.left, *self.ticked()]
        axes.xaxis.set_major_locator(FixedLocator([self.place(value) for value in ticks]))
        axes.xaxis.set_major_formatter(FixedFormatter([shown(tick) for tick in ticks]))
        axes.xaxis.set_minor_locator(NullLocator())
