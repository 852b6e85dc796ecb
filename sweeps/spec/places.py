"""Where in the YAML a setting belongs that stands in the wrong section."""

from functools import cache

from mpcwdwm.validation import dotted, meanings
from sweeps.spec.schema import SECTIONS, OverrideSection, TaskSection
from sweeps.spec.source_fields import declared, registered

__all__ = ["elsewhere"]

SHOWN = 3  # places at most: a hint stays a line


def elsewhere(name: str) -> str:
    """Return ``" (components.rebrac and components.iql have 'discount')"``, "" if no section has such a setting."""
    for ours in meanings(name):
        if places := [place for place, fields in _fields().items() if ours in fields][:SHOWN]:
            return f" ({' and '.join(places)} {'have' if len(places) > 1 else 'has'} '{ours}')"
    return ""


@cache
def _fields() -> dict[str, set[str]]:
    """Place → the settings that it may have; the planners' last, because every planner is named by its user."""
    found = {dotted(at) or "the top": set(section.model_fields) for at, section in SECTIONS.items()}
    found["components"] = set(registered("COMPONENTS"))
    found["an entry of tasks"] = set(TaskSection.model_fields)
    found["an entry of overrides"] = set(OverrideSection.model_fields)
    found |= {f"components.{name}": set(declared(place)) for name, place in registered("COMPONENTS").items()}
    found["a planner"] = set().union(*(declared(place) for place in registered("PLANNERS").values()))
    return found
