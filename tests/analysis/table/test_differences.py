"""Differences of methods, and which may be the best, against scipy and on simulated sweeps."""

import numpy as np
import pytest
from scipy import stats

from analysis.statistics import seed_interval
from analysis.table.differences import difference, perhaps_best


def scores(table, first_seed=0, first_start=0):
    """Scores of one task from (seeds, episodes) values."""
    return {
        first_seed + i: {first_start + j: float(value) for j, value in enumerate(own)} for i, own in enumerate(table)
    }


def test_the_same_seeds_and_starts_are_paired():
    rng = np.random.default_rng(0)
    other = rng.normal(size=(4, 6)) * 20
    of_seeds = np.array([[1.0], [2.0], [4.0], [9.0]])  # the same for every start: starting states explain nothing
    found = difference([scores(other + of_seeds)], [scores(other)])
    assert (found.paired, found.n_seeds, found.n_episodes) == (True, 4, 24)
    assert found.mean == pytest.approx(4.0)
    assert found.spread.interval(found.mean) == pytest.approx(seed_interval([1, 2, 4, 9]))


def test_episodes_that_only_one_has_are_left_out_of_a_paired_difference():
    other = np.arange(12.0).reshape(3, 4)
    more = {**scores(other + 5.0), 7: {0: 1e6, 1: 1e6}}
    more[0] = {**more[0], 99: 1e6}
    found = difference([more], [scores(other)])
    assert (found.paired, found.mean, found.n_seeds, found.n_episodes) == (True, 5.0, 3, 12)


def test_other_seeds_are_not_paired_and_their_variances_add():
    own, others = np.array([[10.0], [14.0], [21.0]]), np.array([[3.0], [4.0], [8.0], [9.0]])
    found = difference([scores(own)], [scores(others, first_seed=100)])
    assert (found.paired, found.n_seeds, found.n_episodes) == (False, 3, 3)
    assert found.mean == pytest.approx(own.mean() - others.mean())
    halves = [stats.sem(v.ravel()) * stats.t.isf(0.025, len(v) - 1) for v in (own, others)]
    assert found.spread.interval(found.mean).half_width == pytest.approx(np.hypot(*halves))


def test_other_starting_states_of_the_same_seeds_are_not_paired():
    table = np.arange(12.0).reshape(3, 4)
    assert not difference([scores(table)], [scores(table, first_start=50)]).paired


def test_below_three_seeds_nothing_is_known_of_new_ones():
    two = scores(np.ones((2, 5)))
    assert difference([two], [scores(np.zeros((2, 5)))]).spread is None
    assert perhaps_best([[two], [scores(np.zeros((5, 5)))]]) == [None, None]


def test_a_difference_over_tasks_weighs_them_alike():
    one, many = scores(np.full((3, 2), 10.0)), scores(np.full((3, 50), 2.0))
    zero = scores(np.zeros((3, 2))), scores(np.zeros((3, 50)))
    assert difference([one, many], list(zero)).mean == pytest.approx(6.0)


def test_what_is_shown_to_be_worse_is_not_perhaps_the_best():
    rng = np.random.default_rng(1)
    base = rng.normal(size=(5, 8)) * 10
    noise = [rng.normal(size=(5, 8)) for _ in range(3)]
    methods = [[scores(base + noise[0])], None, [scores(base - 30 + noise[1])], [scores(base + 0.1 + noise[2])]]
    assert perhaps_best(methods) == [True, None, False, True]
    assert perhaps_best(methods[:2]) == [None, None]


def test_a_grid_of_hundreds_takes_no_minute_and_only_its_top_is_perhaps_the_best():
    rng = np.random.default_rng(3)
    base = 10 * rng.normal(size=(5, 4))
    methods = [[scores(base + (40 if i < 3 else 0) + rng.normal(size=(5, 4)))] for i in range(300)]
    assert [i for i, best in enumerate(perhaps_best(methods)) if best] == [0, 1, 2]


def test_two_methods_are_told_apart_where_students_one_sided_test_does():
    shifts = np.array([0.5, 1.0, 1.5, 2.0, 4.0]) - 1.8
    for add in np.linspace(0.0, 3.0, 31):
        values = shifts + add
        methods = [[scores(values[:, None] * np.ones(4))], [scores(np.zeros((5, 4)))]]
        better = stats.ttest_1samp(values, 0.0, alternative="greater").pvalue < 0.05
        worse = stats.ttest_1samp(values, 0.0, alternative="less").pvalue < 0.05
        assert perhaps_best(methods) == [not worse, not better]


@pytest.mark.parametrize("apart", [0.0, 4.0])
def test_the_truly_best_is_named_with_a_chance_of_95_percent(apart):
    """Rows of five methods, of which one is above the others, or all are equal."""
    rng = np.random.default_rng(2)
    rows, named, others = 100, 0, 0
    for _ in range(rows):
        tables = [(apart if i == 0 else 0.0) + 3 * rng.normal(size=(5, 1)) + rng.normal(size=(5, 3)) for i in range(5)]
        found = perhaps_best([[scores(table)] for table in tables])
        named += bool(found[0])
        others += sum(map(bool, found[1:]))
    assert named / rows > 0.95 - 2 * np.sqrt(0.05 * 0.95 / rows)
    if apart:
        assert others / rows < 3.5  # and it is not because all are
