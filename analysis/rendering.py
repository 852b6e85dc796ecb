"""Tables of text, for a terminal and as Markdown, and the numbers in them."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

__all__ = [
    "DASH",
    "TableSection",
    "form_of",
    "interval_text",
    "number",
    "reason_missing",
    "seeds_text",
    "signed",
    "to_markdown",
    "to_text",
    "with_interval",
]

DASH = "–"


@dataclass(frozen=True)
class TableSection:
    """Tables below a heading.

    Attributes:
        heading: of the section.
        tables: each a list of rows, header → cell; the first column is aligned to the left.
        remarks: sentences below the tables, followed by an empty line; None: neither.
    """

    heading: str
    tables: Sequence[Sequence[dict[str, str]]]
    remarks: Sequence[str] | None = None


def to_text(sections: Sequence[TableSection], notes: Sequence[str], width: int = 100, *, fold: bool = True) -> str:
    """Return the sections and notes for a terminal of ``width`` columns, without colours.

    Args:
        sections: in order.
        notes: below all of them.
        width: of the terminal.
        fold: whether numbers that do not fit may be broken; otherwise only the first column is.
    """
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False, color_system=None, highlight=False)
    for section in sections:
        console.print(Text(section.heading, style="bold"))
        for rows in section.tables:
            table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
            for i, name in enumerate(rows[0]):
                table.add_column(name, justify="right" if i else "left", overflow="fold", no_wrap=i > 0 and not fold)
            for row in rows:
                table.add_row(*map(Text, row.values()))
            console.print(table)
        if section.remarks is not None:
            for line in [*(f"→ {remark}" for remark in section.remarks), ""]:
                console.print(Text(line))
    for note in notes:
        console.print(Text(f"· {note}"))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def to_markdown(title: str, sections: Sequence[TableSection], notes: Sequence[str]) -> str:
    """Return a Markdown page with the sections and a list of the notes."""
    parts = [f"# {title}"]
    for section in sections:
        parts.append(f"## {section.heading}")
        for rows in section.tables:
            aligned = ("left", *("right",) * (len(rows[0]) - 1))
            cells = [list(row.values()) for row in rows]
            parts.append(tabulate(cells, list(rows[0]), tablefmt="github", disable_numparse=True, colalign=aligned))
        parts += [f"**{remark}**" for remark in section.remarks or ()]
    parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def number(value: float, form: str = ".1f") -> str:
    """Return a formatted number with a real minus sign."""
    return f"{value:{form}}".replace("-", "−")


def signed(value: float) -> str:
    """Return a number with one decimal and its sign."""
    return number(value, "+.1f")


def interval_text(low: float | None, high: float | None, form: str = ".1f") -> str:
    """Return "[low, high]", or a dash where there is no interval."""
    return DASH if low is None or high is None else f"[{number(low, form)}, {number(high, form)}]"


def form_of(*values: float | None, sign: bool = False) -> str:
    """Return one format for numbers that stand together: one decimal, below 1 two digits of the largest."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    decimals = 1 - math.floor(math.log10(largest)) if 0 < largest < 1 else 1
    return f"{'+' if sign else ''}.{decimals}f"


def with_interval(mean: float, low: float | None, high: float | None, *, sign: bool = False) -> str:
    """Return "mean [low, high]", all in the form that `form_of` gives them.

    Args:
        mean: the estimate.
        low: where its interval begins; None: there is none, and a dash stands for it.
        high: where it ends.
        sign: whether a plus is written.
    """
    form = form_of(mean, low, high, sign=sign)
    return f"{number(mean, form)} {interval_text(low, high, form)}"


def seeds_text(seeds: Sequence[int]) -> str:
    """Return "seed 1" or "seeds 0, 1"."""
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def reason_missing(failure: str | None) -> str:
    """Return why there is no result: the failure, or that it is still to come."""
    return f"failed: {failure}" if failure else "no result yet"
