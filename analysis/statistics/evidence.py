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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.intervals import (
    LEVEL,
    Interval,
    Spread,
    difference_interval,
    least_p,
    proportion_interval,
    seed_spread,
)

__all__ = ["EpisodeValues", "Evidence", "UnpairedError", "are_successes", "paired_differences"]

EpisodeValues = NDArray[np.float64]  # (n,) one value per episode, of one seed

OUTCOMES = (0.0, 100.0)  # scores of an episode that fails or succeeds
FAR = 3.0  # interquartile ranges from the median: beyond them (Tukey's outer fence) an episode is a rare event


class UnpairedError(ValueError):
    """Two evaluations do not consist of the same episodes; the message names the missing one."""


def are_successes(scores: Mapping[int, Mapping[int, float]]) -> bool:
    """Return whether every episode (training seed → environment seed → score) has failed or succeeded."""
    return all(score in OUTCOMES for episodes in scores.values() for score in episodes.values())


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
        """Return the uncertainty of the mean over new training seeds and starting states; None as above.

        It is never less than over episodes of these policies: the means of three seeds may be alike by chance, often so
        where they are rates of success, which take few values.
        """
        seeds = set(self.tasks[0])
        if any(set(task) != seeds for task in self.tasks):
            return None
        means = seed_spread([float(np.mean([task[seed].mean() for task in self.tasks])) for seed in sorted(seeds)])
        if means is None:
            return None
        single = all(len(values) == 1 for task in self.tasks for values in task.values())
        rare = () if single else self._rare_events()
        episodes = tuple(part for task in self.tasks for part in self._over_episodes(task))
        starts = tuple(part for task in self.tasks for part in self._over_starts(task))
        return Spread((*means.parts, *starts, *rare), least=(*episodes, *rare))

    def p_value(self) -> float | None:
        """Return the p-value of a mean of 0 for new training seeds; None if the evidence bears no verdict.

        That takes three seeds, the same on every task, and two episodes of one of them. It is never below `least_p`.
        """
        if all(len(values) < 2 for task in self.tasks for values in task.values()):
            return None
        spread = self.over_new_seeds()
        if spread is None:
            return None
        return max(spread.p_value(self.mean()), self.least_p())

    def least_p(self) -> float:
        """Return the p-value below which there is none for so few seeds and episodes."""
        episodes = sum(len(values) for task in self.tasks for values in task.values())
        return least_p(len(self.tasks[0]), episodes)

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
