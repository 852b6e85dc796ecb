"""Statistics of sweeps: frames in, frames out, and the intervals of which they are made."""

from analysis.statistics.aggregates import aggregate, sample_efficiency
from analysis.statistics.corrections import holm, holm_adjusted
from analysis.statistics.evidence import EpisodeValues, Evidence, UnpairedError, are_successes, paired_differences
from analysis.statistics.gains import paired_gain, permutation_test
from analysis.statistics.intervals import (
    LEVEL,
    MIN_SEEDS,
    Interval,
    Spread,
    difference_interval,
    least_p,
    proportion_interval,
    seed_interval,
    seed_spread,
)
from analysis.statistics.profiles import performance_profile, probability_of_improvement
from analysis.statistics.tuning import tuning_effort

__all__ = [
    "LEVEL",
    "MIN_SEEDS",
    "EpisodeValues",
    "Evidence",
    "Interval",
    "Spread",
    "UnpairedError",
    "aggregate",
    "are_successes",
    "difference_interval",
    "holm",
    "holm_adjusted",
    "least_p",
    "paired_differences",
    "paired_gain",
    "performance_profile",
    "permutation_test",
    "probability_of_improvement",
    "proportion_interval",
    "sample_efficiency",
    "seed_interval",
    "seed_spread",
    "tuning_effort",
]
