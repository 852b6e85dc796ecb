"""Bootstrap over training seeds, stratified by task, and over seeds and episodes; the statistics of whole matrices.

Definitions are those of Agarwal et al. (2021), "Deep reinforcement learning at the edge of the statistical precipice":
a run is a training seed on a task, its score the mean over its episodes. Here several tasks may have different numbers
of seeds, so a matrix is a list of its columns.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.intervals import LEVEL, Interval
from mpcwdwm.errors import UserError, did_you_mean

__all__ = [
    "RESAMPLES",
    "Resampling",
    "RunScores",
    "aggregator",
    "generator",
    "interquartile_mean",
    "mean_of_tasks",
    "median_of_tasks",
    "optimality_gap",
    "percentile_interval",
    "resampled",
    "resampled_with_episodes",
]

RunScores = Sequence[NDArray[np.float64]]  # (…, seeds) of each task
Resampling = Literal["bootstrap", "hierarchical"]  # over training seeds; over seeds, then episodes
RESAMPLES = 5000  # the ends of a 95 % interval are then at the levels 2.5 ± 0.2 % and 97.5 ± 0.2 %
TRIM = 0.25  # share of the runs that the interquartile mean leaves out at each end


def generator(seed: int, purpose: str) -> np.random.Generator:
    """Return the generator that belongs to a seed and a purpose."""
    return np.random.default_rng([seed, *purpose.encode()])


# ---- statistics -------------------------------------------------------------------------------------


def mean_of_tasks(runs: RunScores) -> NDArray[np.float64]:
    """Return (…) the mean over tasks of the mean over seeds."""
    return np.mean([own.mean(-1) for own in runs], axis=0)


def median_of_tasks(runs: RunScores) -> NDArray[np.float64]:
    """Return (…) the median over tasks of the mean over seeds."""
    return np.median([own.mean(-1) for own in runs], axis=0)


def interquartile_mean(runs: RunScores) -> NDArray[np.float64]:
    """Return (…) the mean of the middle half of all runs of all tasks: a quarter, rounded down, is cut at each end."""
    pooled = np.sort(np.concatenate(runs, axis=-1), axis=-1)
    cut = int(TRIM * pooled.shape[-1])
    return pooled[..., cut : pooled.shape[-1] - cut].mean(-1)


def optimality_gap(runs: RunScores, threshold: float) -> NDArray[np.float64]:
    """Return (…) by how much runs fall short of a threshold on average; what is above counts as reaching it."""
    return threshold - np.minimum(np.concatenate(runs, axis=-1), threshold).mean(-1)


def aggregator(statistic: str, threshold: float) -> Callable[[RunScores], NDArray[np.float64]]:
    """Return the function that computes a statistic; the threshold is the optimality gap's."""
    functions: Mapping[str, Callable[[RunScores], NDArray[np.float64]]] = {
        "mean": mean_of_tasks,
        "median": median_of_tasks,
        "iqm": interquartile_mean,
        "optimality_gap": lambda runs: optimality_gap(runs, threshold),
    }
    if statistic not in functions:
        raise UserError(
            f"no statistic '{statistic}'{did_you_mean(statistic, functions)}; there are {', '.join(functions)}"
        )
    return functions[statistic]


# ---- resampling -------------------------------------------------------------------------------------


def resampled(runs: RunScores, rng: np.random.Generator, resamples: int = RESAMPLES) -> list[NDArray[np.float64]]:
    """Return (resamples, seeds) of each task: as many of its runs as there are, drawn with replacement."""
    return [own[rng.integers(len(own), size=(resamples, len(own)))] for own in runs]


def resampled_with_episodes(
    tasks: Sequence[Mapping[int, NDArray[np.float64]]],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    *,
    starts_shared: bool,
) -> list[NDArray[np.float64]]:
    """Return (resamples, seeds) of each task: means of runs drawn with replacement, over episodes drawn so, too.

    Args:
        tasks: training seed → (episodes,) of each task.
        rng: the generator.
        resamples: how many.
        starts_shared: whether the i-th episodes of a task's seeds begin in the same state; then these states are drawn
            once for all seeds (Owen 2007), otherwise every drawn run has episodes of its own.
    """
    drawn = []
    for task in tasks:
        episodes = list(task.values())
        seeds = rng.integers(len(episodes), size=(resamples, len(episodes)))
        means = np.empty(seeds.shape)
        counts = {len(own) for own in episodes}
        if starts_shared and len(counts) == 1:
            table, n = np.stack(episodes), counts.pop()
            weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n  # (resamples, episodes)
            means = np.take_along_axis(weights @ table.T, seeds, axis=1)
        else:
            for seed, own in enumerate(episodes):
                chosen = seeds == seed
                picks = rng.integers(len(own), size=(int(chosen.sum()), len(own)))
                means[chosen] = own[picks].mean(1)
        drawn.append(means)
    return drawn


def percentile_interval(draws: NDArray[np.float64], level: float = LEVEL) -> Interval:
    """Return the interval that leaves out (1 − level) / 2 of the draws at each end."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
