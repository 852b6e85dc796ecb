"""Axes and grids: from what the YAML says of a part to its resolved configs on one task.

Every field of a component or planner may be a list, which makes it an axis. `read_settings` reads
one section, `merged` lays the overrides of a task on top, `expand` forms the grid: the product of
the axes in the order in which they are written, the first varying slowest.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from mpcwdwm.config import Config
from sweeps.spec.document import Document, Where, dotted, shortened

__all__ = ["Axis", "Choice", "Settings", "aliases", "expand", "label", "merged", "read_settings"]

MAX_CHOICES = 10_000  # points of one grid on one task; more is a mistake in the YAML


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


C = TypeVar("C", bound=Config, covariant=True)


@dataclass(frozen=True)
class Choice(Generic[C]):
    """One point of a grid: a resolved config and what it is called by."""

    config: C
    axes: dict[str, Any]  # field → value, for the fields that vary anywhere in the sweep


def aliases(config_class: type[Config]) -> dict[str, str]:
    """Return the short name of each field that has one: {"horizon": "H"}."""
    return {name: field.alias for name, field in config_class.model_fields.items() if field.alias}


def read_settings(document: Document, at: Where) -> dict[str, Axis]:
    """Read the mapping at `at` as axes; an empty axis or a doubled value is an error."""
    section = document.get(at)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise document.error(at, f"{dotted(at)} should be a mapping of settings, not {shortened(section)}")
    settings: dict[str, Axis] = {}
    for name, given in section.items():
        here = (*at, name)
        values = tuple(given) if isinstance(given, list) else (given,)
        if not values:
            raise document.error(here, f"{dotted(here)} is an empty axis; give at least one value")
        seen: dict[str, int] = {}
        for index, value in enumerate(values):
            if isinstance(value, (dict, list)):
                raise document.error(here, f"{dotted(here)} should be a value or a list of values")
            first = seen.setdefault(_identity(value), index)
            if first != index:
                message = f"{dotted(here)} has the value {shortened(value)} twice"
                raise document.error((*here, index), message)
        settings[name] = Axis(values, here, isinstance(given, list))
    return settings


def _identity(value: Any) -> str:
    """Return what two equal values share: 1 and 1.0 are the same point of an axis, 1 and true are not."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**53:
        return repr(float(value))
    return repr(value)


def merged(layers: Iterable[Settings]) -> dict[str, Axis]:
    """Lay settings on one another: the last that names a field gives all its values."""
    return {name: axis for layer in layers for name, axis in layer.items()}


def expand(
    document: Document,
    settings: Settings,
    build: Callable[[dict[str, Any]], C],
    *,
    owner: Where,
    known: Iterable[str],
    varying: Iterable[str] = (),
) -> list[Choice[C]]:
    """Return every point of the grid in order, each a validated config.

    Args:
        document: for the lines in error messages.
        settings: the axes.
        build: overrides → resolved config; raises pydantic's ValidationError.
        owner: where the section stands.
        known: the field names there are, for did-you-mean.
        varying: the fields by which points are told apart.
    """
    size = math.prod(len(axis.values) for axis in settings.values())
    if size > MAX_CHOICES:
        raise document.error(owner, f"the grid of {dotted(owner)} has {size} points, at most {MAX_CHOICES} work")
    choices = []
    for indices in itertools.product(*(range(len(axis.values)) for axis in settings.values())):
        at = dict(zip(settings, indices, strict=True))
        try:
            config = build({name: axis.values[at[name]] for name, axis in settings.items()})
        except ValidationError as error:
            raise document.translated(error, _locator(settings, at, owner), lambda _: known) from None
        # another task's kind may have an axis that this one's lacks
        choices.append(Choice(config, {name: getattr(config, name) for name in varying if hasattr(config, name)}))
    return choices


def _locator(settings: Settings, at: dict[str, int], owner: Where) -> Callable[[Where], Where]:
    """Return the way from pydantic's location of an error to the value that caused it."""

    def locate(location: Where) -> Where:
        if location and location[0] in settings:
            name = str(location[0])
            return settings[name].place(at[name])
        return (*owner, *location)

    return locate


def label(axes: Mapping[str, Any], short: Mapping[str, str], prefix: str = "") -> str:
    """Write axes as they appear in a table: "H=3 step_size=1e-05"; `short` holds the short names."""
    return " ".join(f"{prefix}{short.get(name, name)}={value}" for name, value in axes.items())
