"""Score against tuning effort: against choices that can be counted by hand."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.statistics.tuning import recommended
from mpcwdwm.errors import UserError
from tests.support.simulated_episodes import episodes_of


def sweep(scores, **labels):
    """A frame of one planner: step size → (seeds, episodes) scores."""
    parts = [
        episodes_of(own, f"mpc α={step}", name="mpc", role="report", step_size=step, **labels)
        for step, own in scores.items()
    ]
    return pd.concat(parts, ignore_index=True)


CERTAIN = {
    step: np.full((3, 4), level) + np.arange(3.0)[:, None] for step, level in ((0.1, 10.0), (1.0, 40.0), (10.0, 20.0))
}


def test_without_noise_the_best_is_found_once_all_were_tried():
    found = analysis.tuning_effort(sweep(CERTAIN), evaluations=[0, 1, 2, 3, 50], trials=20_000).set_index("evaluations")
    # seeds add 0, 1 and 2; two of three candidates hold the best with 2/3, and the second best with the rest
    assert found["estimate"].tolist() == pytest.approx([73 / 3, 73 / 3, 34 + 1 / 3, 41, 41], abs=0.35)
    assert found.loc[50, ["choice_low", "choice_high"]].tolist() == [41.0, 41.0]
    assert found.loc[0, ["choice_low", "choice_high"]].tolist() == [11.0, 41.0]
    assert found["candidates"].unique().tolist() == [3]
    half = 4.302653 / np.sqrt(3)  # Student's t of seeds 40, 41, 42
    assert found.loc[50, ["low", "high"]].tolist() == pytest.approx([41 - half, 41 + half])


def exact_choice(pools, evaluations, alpha):
    """The chance of each candidate after so many evaluations by UCB, by going through all that may happen."""
    chances = np.zeros(len(pools))

    def largest(values):
        return [arm for arm, value in enumerate(values) if value == max(values)]

    def visit(tries, sums, t, chance):
        means = [s / n if n else -np.inf for s, n in zip(sums, tries, strict=True)]
        if t > evaluations:
            for arm in largest(means):
                chances[arm] += chance / len(largest(means))
            return
        bonus = [np.sqrt(alpha * np.log(t) / n) if n else np.inf for n in tries]
        worth = [np.inf if not n else m + b for m, b, n in zip(means, bonus, tries, strict=True)]
        for arm, outcome in product(largest(worth), range(len(pools[0]))):
            now = [n + (i == arm) for i, n in enumerate(tries)]
            gained = [s + (i == arm) * pools[arm][outcome] for i, s in enumerate(sums)]
            visit(now, gained, t + 1, chance / len(largest(worth)) / len(pools[0]))

    visit([0] * len(pools), [0.0] * len(pools), 1, 1.0)
    return chances


@pytest.mark.parametrize("evaluations", [1, 2, 4, 6])
def test_the_bandits_choices_have_the_chances_of_all_that_may_happen(evaluations):
    pools = [np.array([0.0, 3.0]), np.array([1.0, 2.5]), np.array([0.5, 1.5])]
    trials = 40_000
    chosen = recommended(pools, evaluations, "ucb", 2.0, trials, np.random.default_rng(0))[:, -1]
    expected = exact_choice(pools, evaluations, 2.0)
    assert np.bincount(chosen, minlength=3) / trials == pytest.approx(expected, abs=4 * np.sqrt(0.25 / trials))


def test_tried_in_turn_every_candidate_has_as_many_evaluations():
    pools = [np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 0.0, 0.0, 1.0])]  # means 0.5 and 0.25
    chosen = recommended(pools, 2, "uniform", 2.0, 40_000, np.random.default_rng(0))[:, -1]
    better, equal = 0.5 * 0.75, 0.5 * 0.25 + 0.5 * 0.75
    assert (chosen == 0).mean() == pytest.approx(better + equal / 2, abs=0.01)


def test_tuning_seeds_choose_and_the_others_are_reported():
    rng = np.random.default_rng(1)
    opposed = {
        0.1: np.array([[50.0], [50.0], [0.0], [0.0], [3.0]]),
        1.0: np.array([[0.0], [0.0], [50.0], [50.0], [50.0]]),
    }
    frame = sweep({step: own + 0.01 * rng.normal(size=(5, 6)) for step, own in opposed.items()})
    found = analysis.tuning_effort(frame, evaluations=[2], tuning_seeds=[0, 1])
    assert found["estimate"].item() == pytest.approx(1.0, abs=0.1)  # what was best there is worst here
    assert found[["seeds", "tuned_on"]].values.tolist() == [[3, "seeds 0, 1"]]


def test_every_task_is_tuned_by_itself():
    high_is_best = {step: np.full((3, 2), step) for step in (1.0, 2.0)}
    low_is_best = {step: np.full((3, 2), -10 * step) for step in (1.0, 2.0)}
    frame = pd.concat([sweep(high_is_best, task="hop"), sweep(low_is_best, task="walk")])
    found = analysis.tuning_effort(frame, by="name", evaluations=[2])
    assert found["estimate"].item() == pytest.approx((2.0 - 10.0) / 2)
    assert found["tasks"].item() == 2


def test_a_sweeps_own_selection_is_a_row_with_the_episodes_it_took():
    candidates = sweep(CERTAIN).assign(role="select", seed=lambda rows: rows["seed"] + 100)
    chosen = sweep({1.0: 60 + np.arange(6.0).reshape(3, 2)})
    found = analysis.tuning_effort(pd.concat([candidates, chosen]), evaluations=[0, 3])
    assert found["rule"].tolist() == ["ucb", "ucb", "select"]
    own = found.iloc[-1]
    assert own[["evaluations", "candidates", "tuned_on"]].tolist() == [36, 3, "seeds 100, 101, 102"]
    assert own["estimate"] == pytest.approx(62.5)
    assert own["low"] < 62.5 < own["high"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "best"}, "no rule 'best'"),
        ({"evaluations": [-1]}, "numbers of episodes from 0"),
        ({"tuning_seeds": [0, 9]}, "seed 9 of tuning_seeds is not there"),
        ({"tuning_seeds": [0, 1, 2]}, "no seed is left to report"),
        ({"of": "stepsize"}, "did you mean 'step_size'"),
    ],
)
def test_what_cannot_be_tuned_is_said_in_a_line(options, message):
    with pytest.raises(UserError, match=message):
        analysis.tuning_effort(sweep(CERTAIN), **options)


def test_a_frame_without_candidates_is_said_in_a_line():
    with pytest.raises(UserError, match="no row has a value in step_size: nothing was tuned"):
        analysis.tuning_effort(sweep(CERTAIN).iloc[:0])
