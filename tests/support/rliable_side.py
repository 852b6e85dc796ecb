"""rliable's estimates and intervals on small matrices, written to the file that is named: `tests/oracles/rliable.json`.

rliable does not import beside pandas 3. It runs by an interpreter of its own:

    python -m venv rliable-env
    rliable-env/bin/pip install "pandas<2.2" "numpy<2" arch==5.6.0 scipy absl-py seaborn
    rliable-env/bin/pip install --no-deps rliable==1.2.0
    rliable-env/bin/python tests/support/rliable_side.py tests/oracles/rliable.json
"""

import json
import sys
from importlib.metadata import version

import numpy as np
from rliable import library, metrics

THRESHOLD = 100.0  # of the optimality gap, in points of D4RL
PROFILE = [0.0, 25.0, 50.0, 75.0, 90.0, 100.0]
RESAMPLES = 50_000
RNG = np.random.default_rng(2022)
MATRICES = {  # (runs, tasks): a task above 100, numbers of runs that a quarter does not divide, ties
    "five_runs_of_four_tasks": np.round(RNG.normal([40, 70, 95, 110], [5, 12, 3, 8], (5, 4)), 3),
    "ten_runs_of_three_tasks": np.round(RNG.normal([42, 74, 96], [9, 9, 5], (10, 3)), 3),
    "three_runs_of_one_task": np.round(RNG.normal(60, 10, (3, 1)), 3),
    "seven_runs_with_ties": RNG.integers(0, 5, (7, 3)) * 25.0,
}
CURVES = np.round(np.cumsum(RNG.normal(8, 4, (5, 3, 4)), axis=2), 3)  # (runs, tasks, steps)
STATISTICS = {
    "mean": metrics.aggregate_mean,
    "median": metrics.aggregate_median,
    "iqm": metrics.aggregate_iqm,
    "optimality_gap": lambda scores: metrics.aggregate_optimality_gap(scores, THRESHOLD),
}
PAIRS = [
    ("ten_runs_of_three_tasks", "seven_runs_with_ties"),
    ("seven_runs_with_ties", "ten_runs_of_three_tasks"),
    ("seven_runs_with_ties", "seven_runs_with_ties"),
]


def estimated(scores, function, resamples=RESAMPLES):
    """An estimate and its interval, both of as many values as the function returns."""
    np.random.seed(0)
    estimates, intervals = library.get_interval_estimates({"": scores}, function, reps=resamples)
    return {"estimate": estimates[""].tolist(), "interval": intervals[""].T.tolist()}


def profile(scores, of_runs):
    np.random.seed(0)
    estimates, intervals = library.create_performance_profile(
        {"": scores}, PROFILE, use_score_distribution=of_runs, reps=RESAMPLES
    )
    return {"estimate": estimates[""].tolist(), "interval": intervals[""].T.tolist()}


def of_matrix(scores):
    aggregates = {
        name: estimated(scores, lambda own, function=function: np.array([function(own)]))
        for name, function in STATISTICS.items()
    }
    profiles = {"runs": profile(scores, True), "tasks": profile(scores, False)}
    return {"scores": scores.tolist(), "aggregates": aggregates, "profiles": profiles}


def improvement(method, other):
    scores = [MATRICES[method], MATRICES[other]]
    found = estimated(scores, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), 10_000)
    return {"of": method, "vs": other, **found}


def iqm_of_steps(curves):
    return np.array([metrics.aggregate_iqm(curves[..., step]) for step in range(curves.shape[-1])])


recorded = {
    "versions": {name: version(name) for name in ("rliable", "arch", "numpy", "scipy")},
    "resamples": RESAMPLES,
    "threshold": THRESHOLD,
    "profile_thresholds": PROFILE,
    "matrices": {name: of_matrix(scores) for name, scores in MATRICES.items()},
    "probability_of_improvement": [improvement(*pair) for pair in PAIRS],
    "sample_efficiency": {"curves": CURVES.tolist(), **estimated(CURVES, iqm_of_steps)},
}
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump(recorded, file, separators=(",", ":"))
    file.write("\n")
