"""The directive ``config-fields``: a config class as a table of its fields.

Name, default, range, unit and the paper's value are read from the class itself, so that the page cannot differ.
"""

from importlib import import_module
from typing import Any, get_args, get_origin

from docutils import nodes
from docutils.statemachine import StringList
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

HEAD = ("field", "default", "range", "paper", "what it is")
UNKNOWN = "unknown"  # a table in which the paper gives no value at all has no column for it
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


class ConfigFields(SphinxDirective):
    """``{config-fields} package.module.Class``: what the class is for, and the table."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table, parsed from Markdown like the page around it."""
        module, _, name = self.arguments[0].rpartition(".")
        config = getattr(import_module(module), name)
        rows = [HEAD, *map(row_of, config.model_fields.items())]
        told = [at for at, head in enumerate(HEAD) if head != "paper" or any(row[at] != UNKNOWN for row in rows[1:])]
        rows.insert(1, (":---",) * len(HEAD))
        lines = [*described(config), "", *(f"| {' | '.join(row[at] for at in told)} |" for row in rows)]
        place = nodes.section()
        place.document = self.state.document
        self.state.nested_parse(StringList(lines, source=self.arguments[0]), self.content_offset, place)
        return place.children


def described(config: type[BaseModel]) -> list[str]:
    """Return where the class is and what it is for, without its arguments."""
    doc = (config.__doc__ or "").strip().split("\n\n")[0]
    return [f"`{config.__module__}.{config.__name__}`", "", " ".join(doc.split())]


def row_of(field: tuple[str, FieldInfo]) -> tuple[str, ...]:
    """Return a field's cells, in the order of `HEAD`."""
    name, info = field
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    unit, paper = extra.get("unit", ""), extra.get("paper", UNKNOWN)
    also = f" (`{info.alias}`)" if info.alias else ""
    meaning = f"{info.description or ''}{f' [{unit}]' if unit else ''}"
    return (
        f"`{name}`{also}",
        shown(default_of(info)) if not info.is_required() else "required",
        range_of(info),
        shown(paper, absent=UNKNOWN),
        meaning,
    )


def default_of(info: FieldInfo) -> Any:
    """Return the default, made where it is not a constant."""
    if info.default_factory is not None:
        return info.get_default(call_default_factory=True, validated_data={})
    return info.default


def range_of(info: FieldInfo) -> str:
    """Return the bounds of a number, or the words that are allowed."""
    words = [word for word in get_args(info.annotation) if isinstance(word, str)]
    if get_origin(info.annotation) is not None and words:
        return ", ".join(f"`{word}`" for word in words)
    bounds = []
    for limit in info.metadata:
        bounds += [f"{sign} {getattr(limit, name):g}" for name, sign in SIGNS.items() if name in dir(limit)]
    return ", ".join(bounds)


def shown(value: Any, absent: str = "–") -> str:
    """Return a value as code."""
    if value is None or value == "" or value == absent:
        return absent
    if isinstance(value, BaseModel):
        return "see there"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("config-fields", ConfigFields)
    return {"parallel_read_safe": True}
