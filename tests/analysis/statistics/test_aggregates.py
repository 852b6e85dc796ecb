"""Aggregates, profiles and probabilities of improvement: rliable's numbers on the same matrices (recorded)."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import analysis
from analysis.statistics import seed_interval
from mpcwdwm.errors import UserError
from tests.support import ROOT
from tests.support.simulated_episodes import episodes_of, runs_of

RECORDED = json.loads((ROOT / "tests" / "oracles" / "rliable.json").read_text())
MATRICES = RECORDED["matrices"]
RESAMPLES = 20_000
# Four standard errors of the share of draws below a quantile, of theirs and ours together.
ERROR = 4 * np.sqrt(0.025 * 0.975 * (1 / RESAMPLES + 1 / 10_000))


def assert_ends_agree(at_level, theirs):
    """Their ends lie between ours at a slightly higher and a slightly lower level, whatever the ends' distribution."""
    wide, narrow = at_level(0.95 + 2 * ERROR), at_level(0.95 - 2 * ERROR)
    theirs = np.reshape(theirs, (-1, 2))
    slack = 1e-9
    assert (wide["low"] - slack <= theirs[:, 0]).all()
    assert (theirs[:, 0] <= narrow["low"] + slack).all()
    assert (narrow["high"] - slack <= theirs[:, 1]).all()
    assert (theirs[:, 1] <= wide["high"] + slack).all()


@pytest.mark.parametrize("statistic", ["mean", "median", "iqm", "optimality_gap"])
@pytest.mark.parametrize("name", MATRICES)
def test_aggregates_are_rliables(name, statistic):
    theirs = MATRICES[name]["aggregates"][statistic]

    def at_level(level):
        frame = runs_of(MATRICES[name]["scores"])
        return analysis.aggregate(
            frame, statistic, "method", interval="bootstrap", level=level, resamples=RESAMPLES, seed=1
        )

    assert at_level(0.95)["estimate"].tolist() == pytest.approx(theirs["estimate"], abs=1e-6)
    assert_ends_agree(at_level, theirs["interval"])


@pytest.mark.parametrize("of", ["runs", "tasks"])
@pytest.mark.parametrize("name", MATRICES)
def test_performance_profiles_are_rliables(name, of):
    theirs = MATRICES[name]["profiles"][of]

    def at_level(level):
        return analysis.performance_profile(
            runs_of(MATRICES[name]["scores"]),
            RECORDED["profile_thresholds"],
            "method",
            of_tasks=of == "tasks",
            level=level,
            resamples=RESAMPLES,
        )

    assert at_level(0.95)["estimate"].tolist() == pytest.approx(theirs["estimate"], abs=1e-6)
    assert_ends_agree(at_level, theirs["interval"])


@pytest.mark.parametrize("recorded", RECORDED["probability_of_improvement"], ids=lambda pair: pair["of"])
def test_the_probability_of_improvement_is_rliables(recorded):
    ours, other = (MATRICES[recorded[which]]["scores"] for which in ("of", "vs"))
    frame = pd.concat([runs_of(ours, "a"), runs_of(other, "b")])

    def at_level(level):
        return analysis.probability_of_improvement(frame, "b", "method", level=level, resamples=RESAMPLES)

    assert at_level(0.95)["method"].tolist() == ["a"]
    assert at_level(0.95)["estimate"].tolist() == pytest.approx(recorded["estimate"], abs=1e-6)
    assert_ends_agree(at_level, recorded["interval"])


def test_the_sample_efficiency_curve_is_rliables():
    recorded = RECORDED["sample_efficiency"]
    curves = np.array(recorded["curves"])
    seed, task, step = np.indices(curves.shape)
    points = {
        "component": "rebrac",
        "task": [f"task {number}" for number in task.ravel()],
        "seed": seed.ravel(),
        "step": 100.0 * step.ravel(),
        "metric": "eval/normalized_score",
        "value": curves.ravel(),
    }
    frame = pd.DataFrame(points).iloc[::-1]  # later steps first

    def at_level(level):
        return analysis.sample_efficiency(frame, level=level, resamples=RESAMPLES)

    assert at_level(0.95)["step"].tolist() == [0.0, 100.0, 200.0, 300.0]
    assert at_level(0.95)["estimate"].tolist() == pytest.approx(recorded["estimate"], abs=1e-6)
    assert_ends_agree(at_level, recorded["interval"])


def test_a_run_is_the_mean_over_its_episodes():
    episodes = np.arange(12.0).reshape(3, 4) ** 2
    frame = episodes_of(episodes)
    own = analysis.aggregate(frame, "iqm")
    assert own["interval"].item() == "hierarchical"
    assert own["estimate"].item() == pytest.approx(stats.trim_mean(episodes.mean(1), 0.25))
    assert own[["seeds", "episodes"]].values.tolist() == [[3, 12]]


def test_the_interval_of_a_mean_of_cells_is_students_t():
    scores = [[61.0], [64.5], [58.0], [70.0]]
    found = analysis.aggregate(runs_of(scores))
    assert (found["low"].item(), found["high"].item()) == pytest.approx(seed_interval(np.ravel(scores)))
    assert found["interval"].item() == "new_seeds"


def test_hierarchical_resampling_has_the_variance_of_both_levels():
    rng = np.random.default_rng(5)
    seeds, episodes = 12, 6
    scores = rng.normal(size=(seeds, 1)) * 5 + rng.normal(size=(seeds, episodes)) * 10
    own_starts = episodes_of(scores)
    own_starts["env_seed"] += 100 * own_starts["seed"]  # no starting state in common
    found = analysis.aggregate(own_starts, interval="hierarchical", level=0.6827, resamples=40_000)
    between = scores.mean(1).var() / seeds
    within = scores.var(1).mean() / episodes / seeds
    assert (found["high"] - found["low"]).item() / 2 == pytest.approx(np.sqrt(between + within), rel=0.03)
    crossed = analysis.aggregate(episodes_of(scores), interval="hierarchical", level=0.6827, resamples=40_000)
    rest = scores - scores.mean(1, keepdims=True)
    # starting states drawn for all seeds at once: their means vary, and what is left varies over drawn seeds
    shared = rest.mean(0).var() / episodes + (rest - rest.mean(0)).var() / seeds / episodes
    assert (crossed["high"] - crossed["low"]).item() / 2 == pytest.approx(np.sqrt(between + shared), rel=0.03)


def test_a_success_rate_has_wilsons_interval_over_episodes():
    rates = episodes_of(np.repeat([[100.0, 0.0]], 10, axis=1).reshape(1, 20))
    found = analysis.aggregate(rates, interval="episodes")
    theirs = stats.binomtest(10, 20).proportion_ci(method="wilson")
    assert (found["low"].item(), found["high"].item()) == pytest.approx((100 * theirs.low, 100 * theirs.high))


def test_the_same_seed_gives_the_same_interval_whatever_else_the_frame_holds():
    a, b = (runs_of(np.random.default_rng(n).normal(50, 5, (5, 2)), name) for n, name in enumerate("ab"))
    alone = analysis.aggregate(b, "iqm", "method", seed=3)
    beside = analysis.aggregate(pd.concat([a, b]), "iqm", "method", seed=3).iloc[1:].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, beside)
    assert not analysis.aggregate(b, "iqm", "method", seed=4)["low"].equals(alone["low"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: analysis.aggregate(f, "iq"), "did you mean 'iqm'"),
        (lambda f: analysis.aggregate(f, "iqm", interval="episodes"), "one of the mean"),
        (lambda f: analysis.aggregate(f, interval="t"), "no interval 't'"),
        (lambda f: analysis.aggregate(f, by="metod"), "did you mean 'method'"),
        (lambda f: analysis.aggregate(f, value="gain"), "no column 'gain'"),
        (lambda f: analysis.probability_of_improvement(f, "mcp"), "did you mean 'mpc'"),
        (lambda f: analysis.probability_of_improvement(f, "mpc"), "nothing else is there to compare"),
        (lambda f: analysis.aggregate(f, level=95), "between 0 and 1"),
        (lambda f: analysis.aggregate(f, "iqm", resamples=0), "one draw at least"),
        (lambda f: analysis.aggregate(f.assign(score="high")), "does not hold numbers"),
        (lambda f: analysis.aggregate(f.assign(seed=np.nan)), "3 rows have no seed"),
        (lambda f: analysis.sample_efficiency(f), "no column 'metric'"),
        (
            lambda f: analysis.sample_efficiency(pd.DataFrame({"metric": ["loss"], "step": 1, "value": 2.0})),
            "no curve of",
        ),
    ],
)
def test_what_is_not_there_is_said_in_a_line(call, message):
    with pytest.raises(UserError, match=message):
        call(runs_of([[1.0], [2.0], [3.0]]))
