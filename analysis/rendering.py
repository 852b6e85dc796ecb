"""Tables of text, for a terminal and as Markdown, and the numbers in them.

One rule gives numbers that stand together (an estimate and the ends of its interval) their form, `form_of`: all have
equally many decimals, namely one, or, where all are below 1, as many as show two digits of the largest.
"""

import io
import math
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

__all__ = [
    "DASH",
    "Strong",
    "TableSection",
    "form_of",
    "in_pieces",
    "interval_text",
    "number",
    "reason_missing",
    "seeds_text",
    "signed",
    "to_markdown",
    "to_text",
    "with_half_width",
    "with_interval",
]

DASH = "–"
GAP = 2  # columns of a terminal between those of a table
HEADER_WIDTH = 12  # a header is broken at spaces if it is longer and wider than what stands below


class Strong(str):
    """Text of a cell that is set in bold; in a terminal it stands between asterisks."""


@dataclass(frozen=True)
class TableSection:
    """Tables below a heading.

    Attributes:
        heading: of the section.
        tables: each a list of rows, header → cell.
        remarks: sentences below the tables, followed by an empty line; None: neither.
        caption: what the numbers are, below the tables.
        ruled: the rows, counted from 0, above which there is a line, as above averages.
        texts: how many columns, from the first, are text and not numbers.
    """

    heading: str
    tables: Sequence[Sequence[dict[str, str]]]
    remarks: Sequence[str] | None = None
    caption: str = ""
    ruled: Collection[int] = ()
    texts: int = 1


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
        for lines in section.tables:
            table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
            for i, name in enumerate(lines[0]):
                table.add_column(
                    name, justify="left" if i < section.texts else "right", overflow="fold", no_wrap=i > 0 and not fold
                )
            for i, row in enumerate(lines):
                if i in section.ruled:
                    table.add_section()
                table.add_row(*(Text(f"*{cell}*" if isinstance(cell, Strong) else cell) for cell in row.values()))
            console.print(table)
        if section.caption:
            console.print(Text(f"{section.caption}\n"))
        if section.remarks is not None:
            for line in [*(f"→ {remark}" for remark in section.remarks), ""]:
                console.print(Text(line))
    strong = any(
        isinstance(cell, Strong) for part in sections for rows in part.tables for row in rows for cell in row.values()
    )
    for note in [*(["between asterisks: bold"] if strong else []), *notes]:
        console.print(Text(f"· {note}"))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def in_pieces(section: TableSection, width: int) -> TableSection:
    """Return the section with tables that are too wide for a terminal cut into several, below each other.

    Every piece begins with the first column; headers are broken at spaces.
    """
    pieces: list[list[dict[str, str]]] = []
    for rows in section.tables:
        first, *names = rows[0]
        widths = {name: max(len(row[name]) for row in rows) + 2 for name in rows[0]}
        headers = {name: "\n".join(textwrap.wrap(name, max(widths[name], HEADER_WIDTH))) for name in names}
        widths |= {name: max(widths[name], *map(len, headers[name].split("\n"))) for name in names}
        held: list[list[str]] = [[]]
        for name in names:
            if held[-1] and sum(widths[other] + GAP for other in (first, *held[-1], name)) > width:
                held.append([])
            held[-1].append(name)
        pieces += [[{first: row[first], **{headers[name]: row[name] for name in own}} for row in rows] for own in held]
    return replace(section, tables=pieces)


def to_markdown(title: str, sections: Sequence[TableSection], notes: Sequence[str]) -> str:
    """Return a Markdown page with the sections and a list of the notes."""
    parts = [f"# {title}"]
    for section in sections:
        parts.append(f"## {section.heading}")
        for rows in section.tables:
            aligned = ["left" if i < section.texts else "right" for i in range(len(rows[0]))]
            head, *cells = ([_in_markdown(cell) for cell in row] for row in (rows[0], *(row.values() for row in rows)))
            parts.append(tabulate(cells, head, tablefmt="pipe", disable_numparse=True, colalign=aligned))
        parts += [section.caption] if section.caption else []
        parts += [f"**{remark}**" for remark in section.remarks or ()]
    parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def _in_markdown(cell: str) -> str:
    text = cell.replace("|", r"\|")
    return f"**{text}**" if isinstance(cell, Strong) else text


def number(value: float, form: str | None = None) -> str:
    """Return a number with a real minus sign, in a form or, by default, in the one that `form_of` gives it."""
    return f"{value:{form_of(value) if form is None else form}}".replace("-", "−")


def signed(value: float) -> str:
    """Return a number with its sign."""
    return number(value, form_of(value, sign=True))


def interval_text(low: float | None, high: float | None, form: str | None = None, *, sign: bool = False) -> str:
    """Return "[low, high]" in one form, by default that of `form_of`; a dash where there is no interval."""
    form = form_of(low, high, sign=sign) if form is None else form
    return DASH if low is None or high is None else f"[{number(low, form)}, {number(high, form)}]"


def form_of(*values: float | None, sign: bool = False) -> str:
    """Return one format for numbers that stand together: one decimal, below 1 two digits of the largest.

    Args:
        *values: the numbers; None and what is not finite do not count.
        sign: whether a plus is written.
    """
    largest = max((abs(value) for value in values if value is not None and math.isfinite(value)), default=0.0)
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


def with_half_width(mean: float, half: float | None, *, sign: bool = False) -> str:
    """Return "mean ± half" in the form that `form_of` gives both; the mean alone where half is None."""
    form = form_of(mean, half)
    return number(mean, f"{'+' if sign else ''}{form}") + ("" if half is None else f" ± {number(half, form)}")


def seeds_text(seeds: Sequence[int]) -> str:
    """Return "seed 1" or "seeds 0, 1"."""
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def reason_missing(failure: str | None) -> str:
    """Return why there is no result: the failure, or that it is still to come."""
    return f"failed: {failure}" if failure else "no result yet"
