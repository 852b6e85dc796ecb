"""What the texts of small files say: whoever wrote them may have been stopped, and a disk may have changed them."""

import json
from typing import Any

__all__ = ["failure_in", "parsed"]


def parsed(text: str | None) -> dict[str, Any] | None:
    """Return the object that a text describes as JSON; None if it describes none."""
    try:
        found = json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def failure_in(text: str | None) -> dict[str, Any] | None:
    """Return the failure that `Store.record_failure` wrote; None if the text is none of its own."""
    found = parsed(text) or {}
    whole = all(isinstance(found.get(name), str) for name in ("key", "error", "log"))
    return found if whole and isinstance(found.get("tries", 0), int) else None
