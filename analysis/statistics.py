"""Two intervals and one pairing; every number of the table comes from here.

An evaluation is a table of episodes (rows) for each training seed. Two different questions can be
asked about its mean, and they have different answers:

* *For these trained policies*: how far would the mean move if the same policies were run on other
  episodes? `episode_interval`, a stratified bootstrap that resamples episodes within each seed.
* *For new training seeds*: how far would it move if the policies were trained again?
  `seed_interval`, Student's t on the per-seed means; with fewer than three seeds there is none.

Episodes of different seeds are never pooled: the estimate is the mean over seeds of per-seed means.
A gain is a difference between two methods on the same training seed and the same environment seed
(`paired_differences`); where a counterpart is missing there is no gain rather than an unpaired one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = [
    "LEVEL",
    "Evidence",
    "Interval",
    "UnpairedError",
    "bootstrap_means",
    "episode_interval",
    "mean_of_means",
    "paired_differences",
    "seed_interval",
]

Episodes = NDArray[np.float64]  # (n,) one value per episode, of one seed

LEVEL = 0.95
# 10 000 resamples put the ends of a 95 % interval within about 2 % of its width; the generator's
# seed is fixed so that the same episodes always give the same table.
RESAMPLES = 10_000
BOOTSTRAP_SEED = 20_260_301
MIN_SEEDS = 3  # with two seeds the t quantile is 12.7: an interval that says nothing


@dataclass(frozen=True)
class Interval:
    """A closed interval [low, high]."""

    low: float
    high: float


class UnpairedError(ValueError):
    """Two evaluations do not consist of the same episodes; the message says what is missing."""


def mean_of_means(strata: Sequence[Episodes], weights: Sequence[float] | None = None) -> float:
    """Return the weighted mean over strata of the mean within each stratum (equal weights if None)."""
    return float(np.dot(_weights(strata, weights), [np.mean(stratum) for stratum in strata]))


def bootstrap_means(
    strata: Sequence[Episodes],
    weights: Sequence[float] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> NDArray[np.float64]:
    """Return (resamples,) replicates of `mean_of_means`, episodes resampled within each stratum.

    Stratum i draws from its own generator (seed, i), so strata are independent of each other and a
    stratum's draws do not depend on how many come after it.
    """
    share = _weights(strata, weights)
    total = np.zeros(resamples)
    for i, stratum in enumerate(strata):
        values = np.asarray(stratum, dtype=np.float64)
        total += share[i] * values[_draws(seed, i, len(values), resamples)].mean(axis=1)
    return total


@lru_cache(maxsize=32)  # 1 MB each for ten episodes; all rows of a table draw alike
def _draws(seed: int, stratum: int, episodes: int, resamples: int) -> NDArray[np.int64]:
    """Return (resamples, episodes) which episodes of a stratum are drawn."""
    rows = np.random.default_rng([seed, stratum]).integers(episodes, size=(resamples, episodes))
    rows.flags.writeable = False
    return rows


def episode_interval(
    strata: Sequence[Episodes],
    weights: Sequence[float] | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> Interval | None:
    """Return the percentile interval for these trained policies; None if no stratum has 2 episodes.

    One stratum per training seed (or per task and seed, with weights). A stratum with one episode
    contributes no spread. The percentile bootstrap is a little narrow for few episodes: with ten
    episodes in each of three seeds it covers about 92 % where 95 % is written.

    Raises:
        ValueError: there are no strata, or one of them is empty.
    """
    if all(len(stratum) < 2 for stratum in strata):
        _weights(strata, weights)
        return None
    replicates = bootstrap_means(strata, weights, resamples=resamples, seed=seed)
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def seed_interval(seed_means: Sequence[float], *, level: float = LEVEL) -> Interval | None:
    """Return Student's t interval for the mean over new training seeds; None below three seeds."""
    n = len(seed_means)
    if n < MIN_SEEDS:
        return None
    values = np.asarray(seed_means, dtype=np.float64)
    half = stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return Interval(float(values.mean() - half), float(values.mean() + half))


def paired_differences(
    method: Mapping[int, Mapping[int, float]], base: Mapping[int, Mapping[int, float]]
) -> dict[int, Episodes]:
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
    """Values of episodes by task and training seed, and what they say about the mean over tasks.

    Every task weighs the same, and within a task every seed. A row of one task is the case of one.

    Args:
        tasks: for each task, training seed → (episodes,).
    """

    tasks: tuple[Mapping[int, Episodes], ...]

    def mean(self) -> float:
        """Return the mean over tasks of the mean over seeds of per-seed means."""
        return mean_of_means(*self._strata())

    def for_these_policies(self, level: float = LEVEL) -> Interval | None:
        """Return `episode_interval` over all tasks and seeds as strata."""
        return episode_interval(*self._strata(), level=level)

    def for_new_seeds(self, level: float = LEVEL) -> Interval | None:
        """Return `seed_interval` of the per-seed means over tasks; None if tasks differ in their seeds."""
        seeds = set(self.tasks[0])
        if any(set(task) != seeds for task in self.tasks):
            return None
        means = [float(np.mean([task[seed].mean() for task in self.tasks])) for seed in sorted(seeds)]
        return seed_interval(means, level=level)

    def _strata(self) -> tuple[list[Episodes], list[float]]:
        strata = [task[seed] for task in self.tasks for seed in sorted(task)]
        weights = [1 / (len(self.tasks) * len(task)) for task in self.tasks for _ in task]
        return strata, weights


def _weights(strata: Sequence[Episodes], weights: Sequence[float] | None) -> NDArray[np.float64]:
    if not strata or any(len(stratum) == 0 for stratum in strata):
        raise ValueError("an interval needs at least one stratum and an episode in each")
    if weights is None:
        return np.full(len(strata), 1 / len(strata))
    share = np.asarray(weights, dtype=np.float64)
    return share / share.sum()
