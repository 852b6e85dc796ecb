"""Lengths of time as people say them."""

__all__ = ["duration"]


def duration(seconds: float) -> str:
    """Return a length of time as people say it: "8 s", "12 min", "3 h 05 min", "2 d 4 h"."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"
