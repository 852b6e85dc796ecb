"""Means over episodes and training seeds, their intervals, and paired differences.

An evaluation is a table of episodes (rows) for each training seed. Its mean has two intervals, which answer
different questions:

* *For these trained policies*: how far would the mean move if the same policies were run from other starting
  states? `Evidence.for_these_policies`: Student's t on the means per starting state, as all seeds share those. Of
  successes (100) and failures (0) it is Wilson's interval of a proportion, of their differences Bonett and Price's,
  for as many episodes as the shared starting states are worth.
* *For new training seeds*: how far would it move if the policies were trained again, and run from other starting
  states? `Evidence.for_new_seeds`. Values are crossed: x_ij = μ + seed_i + start_j + rest_ij. The squares of two half
  widths are added: Student's t on the per-seed means, and Student's t for the part of the variance that starting
  states explain. With fewer than three seeds there is none.

Both count *rare events*. An evaluation in which two of thirty episodes fell knows little of how often episodes fall.
Where an episode lies far from the others, the variance is that after two more episodes, one that much above and one
that much below the mean, as Agresti and Caffo (2000) do for proportions.

Episodes of different seeds are never pooled: the estimate is the mean over seeds of per-seed means.
A gain is a difference between two methods on the same training seed and the same environment seed
(`paired_differences`); where a counterpart is missing there is no gain rather than an unpaired one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

__all__ = [
    "LEVEL",
    "MIN_SEEDS",
    "EpisodeValues",
    "Evidence",
    "Interval",
    "Spread",
    "UnpairedError",
    "are_successes",
    "difference_interval",
    "holm",
    "paired_differences",
    "proportion_interval",
    "seed_interval",
    "seed_spread",
]

EpisodeValues = NDArray[np.float64]  # (n,) one value per episode, of one seed

LEVEL = 0.95
OUTCOMES = (0.0, 100.0)  # scores of an episode that fails or succeeds
MIN_SEEDS = 3  # with two seeds the t quantile is 12.7: an interval without information
FAR = 3.0  # interquartile ranges from the median: beyond them (Tukey's outer fence) an episode is a rare event
LEAST_P = 1e-12  # smaller p-values are not told apart


class Interval(NamedTuple):
    """A closed interval [low, high]."""

    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Return half the distance between the ends."""
        return (self.high - self.low) / 2


class UnpairedError(ValueError):
    """Two evaluations do not consist of the same episodes; the message names the missing one."""


@dataclass(frozen=True)
class Spread:
    """How uncertain a mean is: independent parts of its variance.

    Args:
        parts: (variance, degrees of freedom of its estimate; infinite where it is not estimated).
    """

    parts: tuple[tuple[float, float], ...]

    def half_width(self, level: float = LEVEL) -> float:
        """Return √Σ t(df)² v: of a single part it is Student's t, of several the squares of the half widths add up."""
        tail = (1 - level) / 2
        return float(np.sqrt(sum(_quantile(tail, freedom) ** 2 * variance for variance, freedom in self.parts)))

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


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Return which hypotheses Holm's procedure rejects: any false one with a chance of 1 − level at most."""
    rejected = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > (1 - level) / (len(p_values) - place):
            break
        rejected[index] = True
    return rejected


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


def are_successes(scores: Mapping[int, Mapping[int, float]]) -> bool:
    """Return whether every episode (training seed → environment seed → score) has failed or succeeded."""
    return all(score in OUTCOMES for episodes in scores.values() for score in episodes.values())


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


def paired_differences(
    method: Mapping[int, Mapping[int, float]], base: Mapping[int, Mapping[int, float]]
) -> dict[int, EpisodeValues]:
    """Return, per training seed, method minus base for each environment seed, in rising order.

    Args:
        method: training seed → environment seed → the method's value of that episode.
        base: the same for the method compared with; it may hold more than is needed.

    Raises:
        UnpairedError: an episode of ``method`` has no counterpart in ``base``.
    """
    differences = {}
    for seed, episodes in sorted(method.items()):
        if seed not in base:
            raise UnpairedError(f"training seed {seed} of the base was not evaluated")
        missing = sorted(set(episodes) - set(base[seed]))
        if missing:
            raise UnpairedError(f"the base of training seed {seed} lacks environment seed {missing[0]}")
        differences[seed] = np.array([episodes[e] - base[seed][e] for e in sorted(episodes)], dtype=np.float64)
    return differences


@dataclass(frozen=True)
class Evidence:
    """Values of episodes by task and training seed, for the mean over tasks and its intervals.

    Every task weighs the same, and within a task every seed. A row of one task has one element.

    Args:
        tasks: for each task, training seed → (episodes,).
        of: what the values are: scores in general; successes, each 0 or 100; differences of two successes.
        starts_shared: whether the i-th episodes of a task's seeds begin in the same state.
    """

    tasks: tuple[Mapping[int, EpisodeValues], ...]
    of: Literal["scores", "successes", "differences"] = "scores"
    starts_shared: bool = True

    def mean(self) -> float:
        """Return the mean over tasks of the mean over seeds of per-seed means."""
        if not self.tasks or not all(task and all(map(len, task.values())) for task in self.tasks):
            raise ValueError("a mean needs at least one training seed, and an episode of each")
        return float(np.mean([np.mean([values.mean() for values in task.values()]) for task in self.tasks]))

    def for_these_policies(self, level: float = LEVEL) -> Interval | None:
        """Return the interval over other episodes; None if no seed has two."""
        mean = self.mean()
        if all(len(values) < 2 for task in self.tasks for values in task.values()):
            return None
        parts = [part for task in self.tasks for part in self._over_episodes(task)]
        if self.of == "scores":
            return Spread((*parts, *self._rare_events())).interval(mean, level)
        told = all(len(task) > 1 and self._crossed(task) is not None for task in self.tasks)
        return self._of_proportions(sum(variance for variance, _ in parts) if told else 0.0, level)

    def for_new_seeds(self, level: float = LEVEL) -> Interval | None:
        """Return the interval over new training seeds; None below three, or if tasks differ in their seeds."""
        spread = self.over_new_seeds()
        return spread.interval(self.mean(), level) if spread else None

    def over_new_seeds(self) -> Spread | None:
        """Return the uncertainty of the mean over new training seeds and starting states; None as above."""
        seeds = set(self.tasks[0])
        if any(set(task) != seeds for task in self.tasks):
            return None
        means = seed_spread([float(np.mean([task[seed].mean() for task in self.tasks])) for seed in sorted(seeds)])
        if means is None:
            return None
        single = all(len(values) == 1 for task in self.tasks for values in task.values())
        rare = () if single else self._rare_events()
        return Spread((*means.parts, *(part for task in self.tasks for part in self._over_starts(task)), *rare))

    # ---- parts of the variance -----------------------------------------------------------------------

    def _over_episodes(self, task: Mapping[int, EpisodeValues]) -> list[tuple[float, float]]:
        """Return the variance of one task's share in the mean over other episodes of its policies."""
        table = self._crossed(task)
        if table is not None:
            return [(table.mean(0).var(ddof=1) / table.shape[1] / len(self.tasks) ** 2, table.shape[1] - 1)]
        weight = 1 / (len(task) * len(self.tasks))
        several = [values for values in task.values() if len(values) > 1]
        return [(weight**2 * values.var(ddof=1) / len(values), len(values) - 1) for values in several]

    def _over_starts(self, task: Mapping[int, EpisodeValues]) -> list[tuple[float, float]]:
        """Return the variance of one task's share in the mean that the shared starting states explain.

        Of I seeds and J starts: (MS_start − MS_rest) / (I J), the mean squares of the two-way analysis of variance.
        """
        table = self._crossed(task)
        if table is None:
            return []
        seeds, starts = table.shape
        of_starts = table.mean(0) - table.mean()
        rest = table - table.mean(1, keepdims=True) - of_starts
        mean_square = seeds * float(np.square(of_starts).sum()) / (starts - 1)
        mean_square -= float(np.square(rest).sum()) / ((seeds - 1) * (starts - 1))
        return [(max(0.0, mean_square) / (seeds * starts) / len(self.tasks) ** 2, starts - 1)]

    def _rare_events(self) -> tuple[tuple[float, float], ...]:
        """Return what two more episodes, far above and far below, add to the variance: 2 (R / (n + 2))² per task."""
        added = 0.0
        for task in self.tasks:
            away = np.concatenate([values - np.median(values) for values in task.values()])
            low, middle, high = np.quantile(away, [0.25, 0.5, 0.75])
            distance = np.abs(away - middle)
            reach = float(np.where(distance > FAR * (high - low), distance, 0.0).max())
            reach = reach if self.of == "scores" else OUTCOMES[1] - OUTCOMES[0]
            added += 2 * (reach / (len(away) + 2)) ** 2
        return ((added / len(self.tasks) ** 2, np.inf),)

    def _crossed(self, task: Mapping[int, EpisodeValues]) -> NDArray[np.float64] | None:
        """Return (seeds, starts) the values of one task; None if its seeds have no starting states in common."""
        counts = {len(values) for values in task.values()}
        if not self.starts_shared or len(counts) > 1 or counts == {1}:
            return None
        return np.stack([task[seed] for seed in sorted(task)])

    def _of_proportions(self, variance: float, level: float) -> Interval:
        """Return the interval of a proportion, or of a difference of two, times 100.

        Args:
            variance: of the mean, as the means per starting state show it; 0 where they cannot.
            level: of the interval.

        The number of episodes is the effective one: 1 / Σ w² / n, their number where all weigh the same, divided by
        how much larger the variance is than that of as many independent episodes (Kish's design effect).
        """
        strata = [(values, 1 / (len(self.tasks) * len(task))) for task in self.tasks for values in task.values()]
        n = 1 / sum(weight**2 / len(values) for values, weight in strata)
        up, down = (float(sum(w * np.mean(sign * values > 0) for values, w in strata)) for sign in (1, -1))
        independent = OUTCOMES[1] ** 2 * (up + down - (up - down) ** 2) / n
        n /= max(1.0, variance / independent) if independent > 0 else 1.0
        paired = self.of == "differences"
        found = difference_interval(up, down, n, level) if paired else proportion_interval(up, n, level)
        return Interval(100 * found.low, 100 * found.high)
