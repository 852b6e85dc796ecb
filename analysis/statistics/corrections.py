"""Corrections for the number of hypotheses that are looked at."""

from collections.abc import Sequence

from analysis.statistics.intervals import LEVEL

__all__ = ["holm", "holm_adjusted"]


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Return which hypotheses Holm's procedure rejects: any false one with a chance of 1 − level at most."""
    rejected = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > (1 - level) / (len(p_values) - place):
            break
        rejected[index] = True
    return rejected


def holm_adjusted(p_values: Sequence[float | None], hypotheses: int | None = None) -> list[float | None]:
    """Return Holm's adjusted p-values: the least 1 − level at which `holm` rejects each.

    Args:
        p_values: None where there is none; it takes no part.
        hypotheses: how many were looked at, if more than have a p-value here; the others count as not rejected.
    """
    there = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    k = max(hypotheses or 0, len(there))
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for place, (p, index) in enumerate(there):
        highest = max(highest, min(1.0, (k - place) * p))
        adjusted[index] = highest
    return adjusted
