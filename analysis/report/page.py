"""The page as HTML: one file that asks for no other, and runs and draws only what is its own.

Everything that comes from a sweep is escaped. The page's security policy names its one style sheet and its one script
by their hashes, so that nothing else is applied, run or fetched, whatever a name in a spec says.
"""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from analysis.rendering import DASH
from analysis.report.content import Page

__all__ = ["to_html"]

TEMPLATES = "templates"
TEN = 10.0  # times as long as predicted, from which on decimals say nothing
STYLE, SCRIPT = "report.css", "report.js"
PAGES = Environment(
    loader=PackageLoader("analysis.report", TEMPLATES),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
PAGES.filters["hours"] = lambda hours, digits: DASH if hours is None else f"{hours:.{digits}f}"
PAGES.filters["ratio"] = lambda ratio: DASH if ratio is None else f"{ratio:.2f}" if ratio < TEN else f"{ratio:.0f}"


def to_html(page: Page) -> str:
    """Return the page."""
    style, script = (_own(name) for name in (STYLE, SCRIPT))
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    return PAGES.get_template("report.html").render(page=page, style=style, script=script, policy=Markup(policy))


def _own(name: str) -> Markup:
    """Return one of our own files as it stands in the page."""
    return Markup((Path(__file__).parent / TEMPLATES / name).read_text(encoding="utf-8"))


def _hash(content: str) -> str:
    """Return the hash by which a policy names an element's content."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
