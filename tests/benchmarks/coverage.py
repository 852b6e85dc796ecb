"""How often the intervals of `analysis`' statistics hold the true value, on simulated sweeps.

    python tests/benchmarks/coverage.py                # five minutes on one core
    python tests/benchmarks/coverage.py --sweeps 100   # one minute

Scores are normal: levels of tasks lie 10 apart; training seeds have a standard deviation of 5, starting states that
seeds share of 5, the rest of 10. Lines are ``STATISTIC INTERVAL seeds×episodes×tasks value``, in %, of 95 % intervals.
The true value is that of infinitely many seeds with as many episodes each, from other starting states.

* ``aggregate`` of every statistic with every interval; over episodes, the true value is that of these policies.
* ``performance_profile`` 3 above the first task's mean, ``probability_of_improvement`` over a method that is 5 worse.
* ``paired_gain`` of eight cells: sweeps in which all eight intervals hold their true gains, 0.
* ``paired_gain false`` and ``permutation_test false``: sweeps in which one of eight cells is called shown, where none
  has an effect.
"""

import argparse
import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd

import analysis

SEED_SD, START_SD, REST_SD = 5.0, 5.0, 10.0
LEVEL, APART = 50.0, 10.0  # of the first task, of the next
WORSE = 5.0
CELLS = 8
RESAMPLES = 1000
THRESHOLD = 60.0  # of the optimality gap
RESAMPLED = ("bootstrap", "hierarchical")
INTERVALS = {
    "mean": ("new_seeds", "episodes", *RESAMPLED),
    "median": RESAMPLED,
    "iqm": RESAMPLED,
    "optimality_gap": RESAMPLED,
}


@dataclass(frozen=True)
class Sweep:
    """The size of a simulated sweep."""

    seeds: int
    episodes: int
    tasks: int

    def __str__(self):
        return f"{self.seeds}×{self.episodes}×{self.tasks}"

    def draw(self, rng, count, methods=1):
        """Return (count, methods, tasks, seeds, episodes) scores; the second is `policies`, their expected scores."""
        shape = (count, methods, self.tasks, self.seeds, self.episodes)
        level = LEVEL + APART * np.arange(self.tasks)[:, None, None]
        policies = level + SEED_SD * rng.normal(size=(*shape[:-1], 1))
        starts = START_SD * rng.normal(size=(count, 1, self.tasks, 1, self.episodes))
        return policies + starts + REST_SD * rng.normal(size=shape), policies[..., 0]


def frame_of(scores, shift=()):
    """Return the episodes of all sweeps: "sweep" numbers them, "method" the methods; ``shift`` is added to methods."""
    methods = scores.shape[1]
    index = np.indices(scores.shape).reshape(5, -1)
    names = ("sweep", "method", "task", "seed", "env_seed")
    columns = {name: index[i] if i > 2 else index[i].astype(str) for i, name in enumerate(names)}
    moved = scores + np.resize(np.array([*shift, *np.zeros(methods)])[:methods], (1, methods, 1, 1, 1))
    return pd.DataFrame({**columns, "score": moved.ravel()})


def report(name, held):
    """Print a share."""
    print(f"{name} {100 * np.mean(held):.1f}")
    sys.stdout.flush()


def holds(found, truth):
    return ((found["low"] <= truth) & (truth <= found["high"])).to_numpy()


def true_runs(rng, sweep):
    """Return (tasks, many) scores of runs, each with starting states of its own: what new seeds and starts give."""
    spread = np.sqrt(SEED_SD**2 + (START_SD**2 + REST_SD**2) / sweep.episodes)
    return LEVEL + APART * np.arange(sweep.tasks)[:, None] + spread * rng.normal(size=(sweep.tasks, 200_000))


def aggregates(rng, sweep, count):
    """Print the coverage of every statistic's intervals."""
    scores, policies = sweep.draw(rng, count)
    frame, runs = frame_of(scores), true_runs(rng, sweep)
    pooled = np.sort(runs.ravel())
    quarter = len(pooled) // 4
    truth = {
        "mean": runs.mean(),
        "median": np.median(runs.mean(1)),
        "iqm": pooled[quarter:-quarter].mean(),
        "optimality_gap": THRESHOLD - np.minimum(runs, THRESHOLD).mean(),
    }
    for statistic, intervals in INTERVALS.items():
        for interval in intervals:
            found = analysis.aggregate(
                frame, statistic, "sweep", interval=interval, threshold=THRESHOLD, resamples=RESAMPLES
            )
            true = policies.mean((1, 2, 3)) if interval == "episodes" else truth[statistic]
            report(f"{statistic} {interval} {sweep}", holds(found, true))
    threshold = float(runs[0].mean() + 3)
    for interval in RESAMPLED:
        profile = analysis.performance_profile(frame, [threshold], "sweep", interval=interval, resamples=RESAMPLES)
        report(f"profile {interval} {sweep}", holds(profile, np.mean(runs > threshold)))


def comparisons(rng, sweep, count):
    """Print the coverage of the probability of improvement, and of the intervals and tests of several cells."""
    scores, _ = sweep.draw(rng, count, methods=2)
    frame = frame_of(scores, shift=(WORSE,))
    true = np.mean([np.mean(own + WORSE > rng.permutation(own)) for own in true_runs(rng, sweep)])
    for interval in RESAMPLED:
        found = (
            analysis.probability_of_improvement(own, "1", "method", interval=interval, resamples=RESAMPLES)
            for _, own in frame.groupby("sweep")
        )
        report(f"probability_of_improvement {interval} {sweep}", [holds(each, true) for each in found])
    grids = frame_of(sweep.draw(rng, count // 4, methods=CELLS + 1)[0])
    held, by_test, by_signs = [], [], []
    for _, own in grids.groupby("sweep"):
        found = analysis.paired_gain(own, str(CELLS), "method")
        held.append(holds(found, 0.0).all())
        by_test.append(found["is_shown"].any())
        by_signs.append(analysis.permutation_test(own, str(CELLS), "method")["is_shown"].any())
    report(f"paired_gain new_seeds, all of {CELLS} {sweep}", held)
    report(f"paired_gain false {sweep}", by_test)
    report(f"permutation_test false {sweep}", by_signs)


def main() -> None:
    """Print all lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=1000, help="simulated sweeps of each size")
    sweeps = parser.parse_args().sweeps
    for seeds, episodes, tasks in ((3, 10, 1), (5, 10, 1), (10, 10, 1), (3, 10, 4), (5, 10, 4), (10, 10, 4)):
        rng = np.random.default_rng([seeds, episodes, tasks])
        aggregates(rng, Sweep(seeds, episodes, tasks), sweeps)
        if tasks == 1:
            comparisons(rng, Sweep(seeds, episodes, tasks), sweeps)


if __name__ == "__main__":
    main()
