"""Settings of components and planners as the YAML gives them: a value, or a list of values, which is an axis."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mpcwdwm.validation import Where, dotted, shortened
from sweeps.spec.document import Document

__all__ = ["Axis", "Settings", "read_settings"]


@dataclass(frozen=True)
class Axis:
    """The values of one field: one, or several where the YAML has a list."""

    values: tuple[Any, ...]
    at: Where  # where the field stands
    listed: bool  # whether it was written as a list

    def place(self, index: int) -> Where:
        """Return where the value with this index stands."""
        return (*self.at, index) if self.listed else self.at


Settings = Mapping[str, Axis]
"""Field name → its values; only what differs from the defaults."""


def read_settings(document: Document, at: Where, section: Any) -> Settings:
    """Return the settings of a component or planner, which stand at ``at``.

    Raises:
        UserError: it is no mapping, an axis is empty or has a value twice.
    """
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise document.error(at, f"{dotted(at)} should be a mapping of settings, not {shortened(section)}")
    settings = dict[str, Axis]()
    for name, given in section.items():
        here = (*at, name)
        values = tuple(given) if isinstance(given, list) else (given,)
        if not values:
            raise document.error(here, f"{dotted(here)} is an empty axis; give at least one value")
        seen = set[str]()
        for index, value in enumerate(values):
            # 1 and 1.0 are the same point of an axis, 1 and true are not
            whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53
            identity = repr(float(value) if whole else value)
            if identity in seen:
                raise document.error((*here, index), f"{dotted(here)} has the value {shortened(value)} twice")
            seen.add(identity)
        settings[name] = Axis(values, here, isinstance(given, list))
    return settings
