"""Figures as SVG elements that may stand in an HTML page.

The page allows no style that is not its own, so what matplotlib writes as ``style="fill: none"`` becomes attributes,
which a style sheet may overrule: in the dark scheme black text turns light. Names within a figure get a prefix, because
several figures share the page.
"""

import re
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib.figure import Figure

from analysis.figures.drawing import rendered

__all__ = ["inline_svg"]

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
DROPPED = (f"{{{SVG}}}metadata", f"{{{SVG}}}style")
STROKES = {"stroke-linejoin": "round", "stroke-linecap": "butt"}  # of matplotlib's style sheet, which is dropped
REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline_svg(name: str, figure: Figure, described_by: str) -> Markup:
    """Return a figure as an ``<svg>`` element.

    Args:
        name: prefix of the names within it.
        figure: what to draw.
        described_by: id of the element of the page that says what the figure shows.
    """
    root = ElementTree.fromstring(rendered(name, figure)[f"{name}.svg"])
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in DROPPED]:
            parent.remove(child)
    for element in root.iter():
        for declaration in element.attrib.pop("style", "").split(";"):
            property_, _, value = declaration.partition(":")
            if value:
                element.set(property_.strip(), value.strip())
        for attribute, value in element.attrib.items():
            element.set(attribute, _prefixed(name, attribute, value))
    for attribute, value in {**STROKES, "role": "img", "aria-labelledby": described_by}.items():
        root.set(attribute, value)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _prefixed(name: str, attribute: str, value: str) -> str:
    """Return an attribute's value; where it names an element, with the figure's prefix."""
    if attribute == "id":
        return f"{name}-{value}"
    if attribute in ("href", f"{{{XLINK}}}href") and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return REFERENCE.sub(rf"url(#{name}-\1)", value)
