"""Sentences on simulated sweeps: false ones where nothing has an effect, and true ones where something has."""

import re

import numpy as np
import pytest

from analysis.table.under_training import mark_bases
from analysis.table.verdicts import verdicts
from tests.support.simulated_sweeps import TASK, Nature, judged_bases, planned, planned_on_tasks

NATURES = {
    "three seeds": Nature(),
    "seeds alike": Nature(seed_sd=0.0, start_sd=15.0),
    "five seeds that differ": Nature(seeds=5, seed_sd=20.0, rest_sd=2.0),
    "rare falls": Nature(seed_sd=1.0, rest_sd=2.0, falls=0.05),
    "rates of success": Nature(outcomes=True),
    "one training in five fails": Nature(seed_sd=0.5, rest_sd=0.5, broken=0.2),
    "two episodes": Nature(seeds=10, episodes=2, seed_sd=0.0, start_sd=20.0),
}
SWEEPS = {1: 200, 8: 60, 64: 15}


def claims_something(sentence):
    return re.search(r"[:;] (gain|harm) shown for", sentence) is not None


def rate(count, sweeps):
    """Return the largest count of false sweeps that a rate of 5 % gives with 99.9 %."""
    return count <= 0.05 * sweeps + 3.1 * np.sqrt(0.05 * 0.95 * sweeps)


@pytest.mark.parametrize("name", NATURES)
@pytest.mark.parametrize("cells", SWEEPS)
def test_where_nothing_has_an_effect_a_sweep_seldom_says_otherwise(name, cells):
    rng = np.random.default_rng([3, cells, list(NATURES).index(name)])
    false = 0
    for _ in range(SWEEPS[cells]):
        (sentence,) = verdicts({TASK: planned(rng, cells, NATURES[name])})
        false += claims_something(sentence)
    assert rate(false, SWEEPS[cells])


def test_the_sentences_of_several_tasks_and_of_their_average_are_one_family():
    rng = np.random.default_rng(15)
    sweeps = 40
    said = [verdicts(planned_on_tasks(rng, 4, Nature(seeds=5), tasks=3)) for _ in range(sweeps)]
    assert all(len(sentences) == 4 for sentences in said)
    assert rate(sum(any(map(claims_something, sentences)) for sentences in said), sweeps)


@pytest.mark.parametrize("bases", [1, 8])
def test_bases_that_do_not_move_and_equal_bc_are_seldom_marked(bases):
    rng = np.random.default_rng([4, bases])
    moving = below = 0
    sweeps = 20 if bases == 8 else 80
    for _ in range(sweeps):
        rows = _rows(*judged_bases(rng, bases, Nature()))
        moving += any(row.still_moving for row in rows)
        below += any(row.below_cloning for row in rows)
    assert rate(moving, sweeps)
    assert rate(below, sweeps)


def test_effects_are_found():
    rng = np.random.default_rng(5)
    nature = Nature(seeds=5, episodes=20, seed_sd=3.0)
    found = [verdicts({TASK: planned(rng, 8, nature, effects=(20.0, -20.0))})[0] for _ in range(25)]
    assert sum("gain shown for new training seeds in 1 of 8 cells: cell 0" in text for text in found) > 18
    assert sum("harm shown for new training seeds in 1 of 8 cells: cell 1" in text for text in found) > 18


def test_a_move_is_found_however_much_the_seeds_differ_and_a_low_base_is_no_moving_one():
    rng = np.random.default_rng(6)
    nature = Nature(seeds=5, seed_sd=20.0, rest_sd=5.0)
    rows = [_rows(*judged_bases(rng, 1, nature, rise=15.0))[1] for _ in range(25)]
    assert sum(row.still_moving for row in rows) > 18
    assert sum(row.below_cloning for row in rows) <= 6
    low = [_rows(*judged_bases(rng, 1, Nature(seeds=5, seed_sd=3.0), above=-20.0))[1] for _ in range(25)]
    assert sum(row.below_cloning for row in low) > 18
    assert sum(row.still_moving for row in low) <= 6


def _rows(groups, curves):
    return [group.row for group in mark_bases({TASK: groups}, curves)[0][TASK]]


# ---- one sentence -------------------------------------------------------------------------------

QUIET = Nature(seeds=5, seed_sd=0.5, rest_sd=0.5)


def test_the_cell_that_looks_best_does_not_hide_one_that_gains_for_every_seed():
    rng = np.random.default_rng(7)
    noisy = planned(rng, 1, Nature(seeds=5, seed_sd=20.0), effects=(12.0,))
    steady = planned(rng, 2, QUIET, effects=(0.0, 5.0))[1:]
    (sentence,) = verdicts({TASK: noisy + steady})
    assert sentence.startswith(f"{TASK}: gain shown for new training seeds in 1 of 2 cells: cell 1 +")
    assert "neither shown in 1 of 2 cells, among them the largest estimate cell 0 +" in sentence


def test_cells_beyond_the_third_are_counted():
    rng = np.random.default_rng(8)
    (sentence,) = verdicts({TASK: planned(rng, 6, QUIET, effects=(9.0,) * 5)})
    assert "in 5 of 6 cells" in sentence
    assert " and 2 more; neither shown in 1 of 6 cells" in sentence


def test_a_table_of_more_cells_than_its_seeds_can_show_says_what_it_takes():
    certain = Nature(seeds=3, episodes=10, seed_sd=0.0, rest_sd=0.1)
    few, many = (planned(np.random.default_rng(14), cells, certain, effects=(9.0,)) for cells in (6, 7))
    assert verdicts({TASK: few})[0].startswith(f"{TASK}: gain shown for new training seeds in 1 of 6 cells: cell 0 ")
    (sentence,) = verdicts({TASK: many})
    assert sentence.startswith(f"{TASK}: neither shown in 7 of 7 cells")
    assert sentence.endswith("; in a table of 7 cells it takes 4 training seeds to show anything")


def test_the_cells_of_all_tasks_count():
    few = Nature(seeds=3, episodes=4, seed_sd=0.5, rest_sd=0.5)
    cell = planned(np.random.default_rng(9), 1, few, effects=(4.0,))
    others = planned(np.random.default_rng(10), 40, few)
    assert verdicts({TASK: cell})[0].startswith(f"{TASK}: gain shown")
    assert verdicts({TASK: cell, "other": others})[0].startswith(f"{TASK}: neither gain nor harm shown")


@pytest.mark.parametrize(
    ("seeds", "episodes", "missing"),
    [
        (1, 2, "it takes 3 training seeds, and there is 1"),
        (2, 30, "it takes 3 training seeds, and there are 2"),
        (3, 1, "it takes two episodes of each training seed"),
    ],
)
def test_evidence_that_bears_no_verdict_gets_none_and_the_sentence_says_what_is_missing(seeds, episodes, missing):
    nature = Nature(seeds=seeds, episodes=episodes, seed_sd=0.1, rest_sd=0.1)
    rows = planned(np.random.default_rng(11), 2, nature, effects=(9.0, 9.0))
    assert verdicts({TASK: rows[:1]}) == [f"{TASK}: no verdict: {missing}"]
    (sentence,) = verdicts({TASK: rows + planned(np.random.default_rng(12), 1, QUIET, effects=(9.0,))})
    assert sentence.startswith(f"{TASK}: gain shown for new training seeds: cell 0 +")
    assert sentence.endswith(f"; no verdict on 2 cells: {missing}")


def test_a_base_that_differs_between_tasks_is_called_that_of_each_task():
    (sentence,) = verdicts({"average": planned(np.random.default_rng(13), 1, QUIET, effects=(9.0,), base=None)})
    assert sentence.endswith("] over the base of each task")
    assert "None" not in sentence


def test_rows_without_planners_have_no_sentence():
    assert verdicts({TASK: []}) == []
