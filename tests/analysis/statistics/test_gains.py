"""Paired gains of frames: against the evidence they are made of, and Holm's and Bonferroni's corrections by hand."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.statistics import Evidence, holm, holm_adjusted
from mpcwdwm.errors import UserError
from tests.support.simulated_episodes import episodes_of

RNG = np.random.default_rng(3)
BASE = RNG.normal(50, 10, (4, 6))
GAINS = {"weak": RNG.normal(0, 3, (4, 6)), "strong": RNG.normal(15, 3, (4, 6))}
FRAME = pd.concat([episodes_of(BASE, "rebrac"), *(episodes_of(BASE + gain, name) for name, gain in GAINS.items())])


def evidence(name):
    return Evidence((dict(enumerate(GAINS[name])),))


def test_both_intervals_are_the_tables_at_the_level_of_all_cells():
    found = analysis.paired_gain(FRAME, vs="rebrac").set_index("method")
    assert list(found.index) == ["weak", "strong"]
    assert found["looked_at"].tolist() == [2, 2]
    for name in GAINS:
        row = found.loc[name]
        assert row["estimate"] == pytest.approx(GAINS[name].mean())
        assert (row["low"], row["high"]) == pytest.approx(evidence(name).for_new_seeds(0.975))
        assert (row["episodes_low"], row["episodes_high"]) == pytest.approx(evidence(name).for_these_policies(0.975))


def test_p_values_are_corrected_by_holms_procedure_for_all_that_were_looked_at():
    found = analysis.paired_gain(FRAME, vs="rebrac").set_index("method")
    p_values = [evidence(name).p_value() for name in GAINS]
    assert found["p"].tolist() == pytest.approx(p_values)
    assert found["p_corrected"].tolist() == pytest.approx([p_values[0], 2 * p_values[1]])
    assert found["is_shown"].tolist() == [False, True] == holm(p_values)
    alone = analysis.paired_gain(FRAME[FRAME["method"] != "weak"], vs="rebrac", looked_at=1000)
    assert alone["p_corrected"].item() == min(1.0, 1000 * p_values[1])
    assert (alone["low"].item(), alone["high"].item()) == pytest.approx(
        evidence("strong").for_new_seeds(1 - 0.05 / 1000)
    )


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_adjusted_p_values_are_below_what_holms_procedure_rejects_at(level):
    for _ in range(50):
        p_values = list(RNG.uniform(0, 0.1, 6))
        assert [p <= 1 - level for p in holm_adjusted(p_values)] == holm(p_values, level)
    assert holm_adjusted([0.01, None, 0.04], hypotheses=4) == pytest.approx([0.04, None, 0.12])


def test_the_base_of_each_cell_is_what_the_column_gain_is_paired_with():
    frame = FRAME.assign(gain=FRAME["score"] - np.tile(BASE.ravel(), 3), kind="policy")
    frame.loc[frame["method"] == "rebrac", "kind"] = "none"
    own, named = analysis.paired_gain(frame), analysis.paired_gain(FRAME, vs="rebrac")
    assert own["vs"].tolist() == ["base", "base"]
    pd.testing.assert_frame_equal(own.drop(columns=["vs", "kind"]), named.drop(columns="vs"))


def test_a_cell_without_a_counterpart_for_an_episode_has_no_gain_and_says_so():
    short = FRAME[~((FRAME["method"] == "rebrac") & (FRAME["seed"] == 2) & (FRAME["env_seed"] == 5))]
    found = analysis.paired_gain(short, vs="rebrac")
    assert found["lacking"].tolist() == ["seed 2", "seed 2"]
    assert found["seeds"].tolist() == [3, 3]
    with pytest.raises(UserError, match=r"task hop, method weak lacks seed 2"):
        analysis.paired_gain(short, vs="rebrac", strict=True)


@pytest.mark.parametrize(("seeds", "episodes"), [(1, 2), (2, 30), (4, 1)])
def test_evidence_that_bears_no_verdict_has_no_p_value_and_shows_nothing(seeds, episodes):
    frame = pd.concat([episodes_of(np.zeros((seeds, episodes)), "a"), episodes_of(np.ones((seeds, episodes)), "b")])
    found = analysis.paired_gain(frame, vs="a")
    assert found["estimate"].item() == 1.0
    assert np.isnan(found["p"].item())
    assert not found["is_shown"].item()
    assert np.isnan(found["low"].item()) == (seeds < 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: analysis.paired_gain(f), "name what to compare with"),
        (lambda f: analysis.paired_gain(f, vs={"method": "weak", "task": "walker"}), "no row has method weak"),
        (lambda f: analysis.paired_gain(f, vs={"task": "hop"}), "nothing else is there to compare"),
        (
            lambda f: analysis.paired_gain(f.assign(H=f["method"] == "weak"), vs={"H": False}),
            "several cells of one seed",
        ),
        (lambda f: analysis.paired_gain(f, vs="rebrac", looked_at=1), "less than the 2 cells"),
        (lambda f: analysis.paired_gain(f.drop(columns="env_seed"), vs="rebrac"), "frame of episodes"),
        (lambda f: analysis.permutation_test(f, vs="rebrac", of="seed"), "no of='seed'; there are seeds, episodes"),
        (lambda f: analysis.permutation_test(f, vs="rebrac", level=2), "level=2 must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_paired_is_said_in_a_line(call, message):
    with pytest.raises(UserError, match=message):
        call(FRAME)


def all_signs(parts):
    """The p-value of a mean of 0 by every pattern of signs."""
    signs = np.array(list(product([-1, 1], repeat=len(parts))))
    means = np.abs(signs @ parts)
    return (means >= np.abs(np.sum(parts)) - 1e-12).mean()


def test_the_permutation_test_goes_through_all_signs_of_seeds():
    found = analysis.permutation_test(FRAME, vs="rebrac").set_index("method")
    for name, gain in GAINS.items():
        assert found.loc[name, "p"] == pytest.approx(all_signs(gain.mean(1) / 4))
    assert found["least_p"].tolist() == [1 / 8, 1 / 8]  # of four seeds
    assert found["p_corrected"].min() == pytest.approx(2 * found["p"].min())
    assert not found["is_shown"].any()


def test_the_permutation_test_of_episodes_changes_the_signs_of_starting_states():
    found = analysis.permutation_test(FRAME, vs="rebrac", of="episodes").set_index("method")
    for name, gain in GAINS.items():
        assert found.loc[name, "p"] == pytest.approx(all_signs(gain.mean(0) / 6))
    own_starts = FRAME.assign(env_seed=FRAME["env_seed"] + 100 * FRAME["seed"])
    alone = analysis.permutation_test(own_starts, vs="rebrac", of="episodes").set_index("method")
    assert alone.loc["strong", "p"] < 0.001  # 24 episodes, by a draw of sign patterns


def test_one_sign_shows_nothing():
    found = analysis.permutation_test(FRAME[FRAME["seed"] == 0], vs="rebrac")
    assert found[["p", "least_p"]].to_numpy().tolist() == [[1.0, 1.0]] * 2


def test_seeds_of_several_tasks_change_their_signs_by_themselves():
    two = pd.concat([FRAME, FRAME.assign(task="walk", score=FRAME["score"] ** 1.01)])
    differences = two.pivot_table(index=["task", "seed"], columns="method", values="score")
    parts = (differences["weak"] - differences["rebrac"]).to_numpy() / 8
    found = analysis.permutation_test(two, vs="rebrac", by="method").set_index("method")
    assert found.loc["weak", "p"] == pytest.approx(all_signs(parts))
    assert found.loc["weak", "least_p"] == pytest.approx(2**-7)
