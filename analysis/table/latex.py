r"""Tables in LaTeX, to be \input into a paper: booktabs' lines, a caption and a label for each table.

pandas writes the tabular, with what a cell or a caption says escaped here. A table that is wider than the line is
scaled down to it; one with more rows than a page holds is a longtable.
"""

import re
import textwrap
import unicodedata
from collections.abc import Sequence

import pandas as pd

from analysis.rendering import Strong, TableSection

__all__ = ["in_latex", "to_latex"]

LONGEST = 40  # rows that fit on a page with their caption
HEADER_WIDTH = 14  # characters; longer headers are broken at spaces
END_OF_HEAD = r"\endlastfoot"  # of a longtable
SPELLED = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "⚠": "!",
    "–": "--",
    "§": r"\S{}",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "·": r"$\cdot$",
    "²": "$^2$",
    "Δ": r"$\Delta$",
    "Σ": r"$\Sigma$",
}
GREEK = {  # small letters but omicron and final sigma, which LaTeX does not have; Unicode spells λ "lamda"
    letter: rf"$\{unicodedata.name(letter).split()[-1].lower().replace('lamda', 'lambda')}$"
    for letter in "αβγδεζηθικλμνξπρστυφχψω"
}
ESCAPES = str.maketrans({**SPELLED, **GREEK})


def in_latex(text: str) -> str:
    """Return a text as LaTeX sets it; letters other than Greek ones stay, and need an engine that knows them."""
    escaped = text.translate(ESCAPES)
    return f"{{[}}{escaped[1:]}" if escaped.startswith("[") else escaped  # \\ would take it for its own argument


def to_latex(title: str, sections: Sequence[TableSection], notes: Sequence[str]) -> str:
    r"""Return a file for \input: a table environment for each table, the notes as comments at the end.

    Args:
        title: of the whole; labels are "tab:TITLE-comparison" and so on, by headings.
        sections: in order; heading, caption and remarks make the caption.
        notes: below all of them.
    """
    tables = [(section, rows) for section in sections for rows in section.tables]
    packages = ["booktabs", "graphicx"] + ["longtable"] * any(len(rows) > LONGEST for _, rows in tables)
    parts = [f"% needs \\usepackage{{{','.join(packages)}}}"]
    for section, rows in tables:
        said = [f"{section.heading}.", section.caption, *(f"{remark}." for remark in section.remarks or ())]
        caption = in_latex(" ".join(part for part in said if part))
        parts.append(_table(rows, caption, f"tab:{_slug(title)}-{_slug(section.heading.lower())}", section))
    parts.append("\n".join(f"% note: {line}" for note in notes for line in note.splitlines()))
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(rows: Sequence[dict[str, str]], caption: str, label: str, section: TableSection) -> str:
    ruled = sorted(section.ruled)
    frame = pd.DataFrame([{_header(name): in_latex(cell) for name, cell in row.items()} for row in rows])
    bold = pd.DataFrame(
        [["font-weight: bold" if isinstance(cell, Strong) else "" for cell in row.values()] for row in rows],
        index=frame.index,
        columns=frame.columns,
    )
    style = frame.style.hide(axis="index").apply(lambda _: bold, axis=None)
    columns = "l" * section.texts + "r" * (frame.shape[1] - section.texts)
    if len(rows) > LONGEST:
        text = style.to_latex(
            environment="longtable", column_format=columns, hrules=True, caption=caption, label=label, convert_css=True
        )
        return f"\\setlength{{\\LTcapwidth}}{{\\linewidth}}\n{_with_rules(text, END_OF_HEAD, ruled)}"
    tabular = _with_rules(style.to_latex(column_format=columns, hrules=True, convert_css=True), r"\midrule", ruled)
    return "\n".join(
        [
            r"\begin{table}[tbp]",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{{label}}}",
            r"\medskip",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            f"{tabular}}}",
            r"\end{table}",
        ]
    )


def _header(name: str) -> str:
    """Return a header, in several lines if it is long."""
    lines = textwrap.wrap(name, HEADER_WIDTH, break_long_words=False, break_on_hyphens=False)
    broken = r" \\ ".join(map(in_latex, lines))
    return rf"\shortstack[r]{{{broken}}}" if len(lines) > 1 else in_latex(name)


def _slug(heading: str) -> str:
    return re.sub(r"[^\w.]+", "-", heading.partition(" (")[0]).strip("-")


def _with_rules(tabular: str, head_ends: str, ruled: Sequence[int]) -> str:
    """Return a tabular with a line above some of its rows, counted from 0 behind the line ``head_ends``."""
    lines = tabular.rstrip().split("\n")
    first = lines.index(head_ends) + 1
    for row in reversed(ruled):
        lines.insert(first + row, r"\midrule")
    return "\n".join(lines)
