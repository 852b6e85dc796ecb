"""Means over episodes and training seeds, their intervals, and paired differences.

An evaluation is a table of episodes (rows) for each training seed. Its mean has two intervals, which answer
different questions:

* *For these trained policies*: how far would the mean move if the same policies were run on other
  episodes? `Evidence.for_these_policies`, a stratified bootstrap that resamples episodes within each seed.
  Where every episode failed (0) or succeeded (100), the bootstrap of ten successes would be [100, 100]; the
  mean is then a proportion, and its interval is Wilson's, that of a gain Bonett and Price's.
* *For new training seeds*: how far would it move if the policies were trained again?
  `seed_interval`, Student's t on the per-seed means; with fewer than three seeds there is none.

Episodes of different seeds are never pooled: the estimate is the mean over seeds of per-seed means.
A gain is a difference between two methods on the same training seed and the same environment seed
(`paired_differences`); where a counterpart is missing there is no gain rather than an unpaired one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = [
    "LEVEL",
    "EpisodeValues",
    "Evidence",
    "Interval",
    "UnpairedError",
    "are_successes",
    "difference_interval",
    "paired_differences",
    "proportion_interval",
    "seed_interval",
]

EpisodeValues = NDArray[np.float64]  # (n,) one value per episode, of one seed

LEVEL = 0.95
# 10 000 resamples put the ends of a 95 % interval within about 2 % of its width; the generator's
# seed is fixed so that the same episodes always give the same table.
RESAMPLES = 10_000
BOOTSTRAP_SEED = 20_260_301
OUTCOMES = (0.0, 100.0)  # scores of an episode that fails or succeeds
MIN_SEEDS = 3  # with two seeds the t quantile is 12.7: an interval without information


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


def seed_interval(seed_means: Sequence[float]) -> Interval | None:
    """Return Student's t interval for the mean over new training seeds; None below three seeds."""
    n = len(seed_means)
    if n < MIN_SEEDS:
        return None
    values = np.asarray(seed_means, dtype=np.float64)
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return Interval(float(values.mean() - half), float(values.mean() + half))


def are_successes(scores: Mapping[int, Mapping[int, float]]) -> bool:
    """Return whether every episode (training seed → environment seed → score) has failed or succeeded."""
    return all(score in OUTCOMES for episodes in scores.values() for score in episodes.values())


def proportion_interval(share: float, n: float, level: float = LEVEL) -> Interval:
    """Return Wilson's score interval for the chance of success, from the share of successes among n episodes."""
    z = _quantile(level)
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
    half = _quantile(level) * np.sqrt((more + less - (more - less) ** 2) / (n + 2))
    return Interval(max(-1.0, float(more - less - half)), min(1.0, float(more - less + half)))


def _quantile(level: float) -> float:
    return float(stats.norm.ppf((1 + level) / 2))


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
    """

    tasks: tuple[Mapping[int, EpisodeValues], ...]
    of: Literal["scores", "successes", "differences"] = "scores"

    def mean(self) -> float:
        """Return the mean over tasks of the mean over seeds of per-seed means."""
        strata, weights = self._strata()
        return float(np.dot(weights, [np.mean(stratum) for stratum in strata]))

    def for_these_policies(self, level: float = LEVEL) -> Interval | None:
        """Return the interval over other episodes; None if no seed has two.

        A stratum is a seed of a task. Of successes and failures the interval is that of a proportion of all episodes
        together, a little wide where policies differ. Else it is the percentile bootstrap's. A stratum with a single
        episode contributes no spread there, and the interval is a little narrow for few episodes: with ten in each
        of three seeds it covers about 92 % where 95 % is written.
        """
        strata, weights = self._strata()
        if all(len(stratum) < 2 for stratum in strata):
            return None
        if self.of != "scores":
            return self._of_proportions(strata, weights, level)
        means = np.zeros(RESAMPLES)
        for i, (stratum, weight) in enumerate(zip(strata, weights, strict=True)):
            means += weight * stratum[_draws(i, len(stratum), RESAMPLES)].mean(axis=1)
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        return Interval(float(low), float(high))

    def _of_proportions(self, strata: Sequence[EpisodeValues], weights: NDArray[np.float64], level: float) -> Interval:
        """Return the interval of a proportion, or of a difference of two, times 100.

        The number of episodes is the effective one, 1 / Σ w² / n, which is their number where all weigh the same.
        """
        n = 1 / float(sum(w**2 / len(stratum) for stratum, w in zip(strata, weights, strict=True)))
        up, down = (float(np.dot(weights, [np.mean(sign * stratum > 0) for stratum in strata])) for sign in (1, -1))
        paired = self.of == "differences"
        found = difference_interval(up, down, n, level) if paired else proportion_interval(up, n, level)
        return Interval(100 * found.low, 100 * found.high)

    def for_new_seeds(self) -> Interval | None:
        """Return `seed_interval` of the per-seed means over tasks; None if tasks differ in their seeds."""
        seeds = set(self.tasks[0])
        if any(set(task) != seeds for task in self.tasks):
            return None
        return seed_interval([float(np.mean([task[seed].mean() for task in self.tasks])) for seed in sorted(seeds)])

    def _strata(self) -> tuple[list[EpisodeValues], NDArray[np.float64]]:
        """Return the episodes of every seed of every task, and their weights, which add up to 1."""
        strata = [task[seed] for task in self.tasks for seed in sorted(task)]
        if not strata or not all(map(len, strata)):
            raise ValueError("a mean needs at least one training seed, and an episode of each")
        weights = np.array([1 / (len(self.tasks) * len(task)) for task in self.tasks for _ in task])
        return strata, weights / weights.sum()


@lru_cache(maxsize=32)  # 1 MB each for ten episodes; all rows of a table draw alike
def _draws(stratum: int, episodes: int, resamples: int) -> NDArray[np.int64]:
    """Return (resamples, episodes) which episodes of a stratum are drawn, however many strata there are."""
    rows = np.random.default_rng([BOOTSTRAP_SEED, stratum]).integers(episodes, size=(resamples, episodes))
    rows.flags.writeable = False
    return rows
