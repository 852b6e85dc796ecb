"""Tables as one HTML page that needs no other file; what cells and captions say is escaped."""

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis.rendering import Strong, TableSection

__all__ = ["to_html"]

PAGES = Environment(
    loader=PackageLoader("analysis.table", "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
PAGES.tests["strong"] = lambda cell: isinstance(cell, Strong)


def to_html(title: str, sections: Sequence[TableSection], notes: Sequence[str]) -> str:
    """Return the page: a section with its tables for each of ``sections``, then the notes."""
    return PAGES.get_template("tables.html").render(title=title, sections=sections, notes=notes)
