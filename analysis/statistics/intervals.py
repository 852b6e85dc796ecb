"""Intervals of a mean from parts of its variance, Student's t over training seeds, and intervals of proportions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

__all__ = [
    "LEVEL",
    "MIN_SEEDS",
    "Interval",
    "Spread",
    "difference_interval",
    "least_p",
    "proportion_interval",
    "seed_interval",
    "seed_spread",
]

LEVEL = 0.95
MIN_SEEDS = 3  # with two seeds the t quantile is 12.7: an interval without information
LEAST_P = 1e-12  # smaller p-values are not told apart
# The chance that of two equal methods the one's training fails and the other's does not, where one in five fails.
ONE_FAILS = 0.2 * 0.8


class Interval(NamedTuple):
    """A closed interval [low, high]."""

    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Return half the distance between the ends."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Spread:
    """How uncertain a mean is: independent parts of its variance.

    Args:
        parts: (variance, degrees of freedom of its estimate; infinite where it is not estimated).
        least: parts of a variance that is certainly there; the half width is never less than theirs.
    """

    parts: tuple[tuple[float, float], ...]
    least: tuple[tuple[float, float], ...] = ()

    def half_width(self, level: float = LEVEL) -> float:
        """Return √Σ t(df)² v: of a single part it is Student's t, of several the squares of the half widths add up."""
        tail = (1 - level) / 2
        squares = [
            sum(_quantile(tail, df) ** 2 * variance for variance, df in parts) for parts in (self.parts, self.least)
        ]
        return float(np.sqrt(max(squares)))

    def interval(self, mean: float, level: float = LEVEL) -> Interval:
        """Return the interval about a mean."""
        half = self.half_width(level)
        return Interval(mean - half, mean + half)

    def p_value(self, mean: float) -> float:
        """Return 1 − the level at which the interval about the mean ends at 0 (two-sided)."""
        if mean == 0:
            return 1.0
        if self.half_width(1 - LEAST_P) <= abs(mean):
            return LEAST_P

        def beyond(log_p: float) -> float:
            return self.half_width(1 - float(np.exp(log_p))) - abs(mean)

        return float(np.exp(optimize.brentq(beyond, np.log(LEAST_P), 0.0)))

    def detectable(self, level: float = LEVEL, power: float = 0.8) -> float:
        """Return the size of an effect of which the interval excludes 0 with this chance, about."""
        return self.half_width(level) + self.half_width(2 * power - 1)


def _quantile(tail: float, freedom: float) -> float:
    return float(special.ndtri(tail) if np.isinf(freedom) else special.stdtrit(freedom, tail))


def least_p(seeds: int, pairs: int) -> float:
    """Return the p-value below which there is none for so few numbers, however alike they are.

    Student's t takes seeds that agree by chance for certain. Where one training in five fails, n differences of equal
    sign, alike and far from 0, come about with a chance of 2 · 0.16ⁿ between equal methods. Of k episodes with few
    values, all have the same sign with a chance of 2 / 2ᵏ or less.

    Args:
        seeds: n, training seeds.
        pairs: k, episodes of all seeds and tasks.
    """
    return min(1.0, max(2 * ONE_FAILS**seeds, 2.0 ** (1 - pairs)))


def seed_spread(seed_means: Sequence[float]) -> Spread | None:
    """Return the uncertainty of a mean over new training seeds; None below three seeds."""
    n = len(seed_means)
    if n < MIN_SEEDS:
        return None
    return Spread(((float(np.var(seed_means, ddof=1)) / n, n - 1),))


def seed_interval(seed_means: Sequence[float]) -> Interval | None:
    """Return Student's t interval for the mean over new training seeds; None below three seeds."""
    spread = seed_spread(seed_means)
    return spread.interval(float(np.mean(seed_means))) if spread else None


def proportion_interval(share: float, n: float, level: float = LEVEL) -> Interval:
    """Return Wilson's score interval for the chance of success, from the share of successes among n episodes."""
    z = stats.norm.isf((1 - level) / 2)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Interval(max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def difference_interval(gained: float, lost: float, n: float, level: float = LEVEL) -> Interval:
    """Return Bonett and Price's (2012) interval for a difference of paired proportions.

    It is Wald's after one more pair of each discordant kind, so that agreement in all episodes is not certainty.

    Args:
        gained: share of the n pairs in which only the method succeeds.
        lost: share in which only the base does.
        n: number of pairs.
        level: of the interval.
    """
    more, less = (gained * n + 1) / (n + 2), (lost * n + 1) / (n + 2)
    half = stats.norm.isf((1 - level) / 2) * np.sqrt((more + less - (more - less) ** 2) / (n + 2))
    return Interval(max(-1.0, float(more - less - half)), min(1.0, float(more - less + half)))
