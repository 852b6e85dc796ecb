"""A file under a D4RL name is D4RL's if size and returns are those publicly known."""

import pytest

from mpcwdwm.data import TASKS, find_task
from mpcwdwm.data.recognised import Extent, unlike_the_original
from mpcwdwm.data.tasks import read_table


@pytest.mark.parametrize(
    ("name", "rows", "mean", "most"),
    [
        ("hopper-medium-v2", 999_906, 1422.056, 3222.3606),
        ("hopper-medium-v2", 1_000_000, 1421.9, 3222.3606),  # an unfinished episode follows
        ("walker2d-medium-expert-v2", 1_999_209, 3780.0, 5011.6934),
        ("antmaze-large-play-v2", 999_000, 0.1, 1.0),
        ("hopper-random-v2", 5, 0.0, 0.0),  # nothing is known of it
        ("hopper-medium-replay-mini-ppo-v0", 50_000, 0.0, 0.0),
    ],
)
def test_a_file_that_agrees_is_taken_for_the_original(name, rows, mean, most):
    assert unlike_the_original(find_task(name), Extent(rows, mean, most)) is None


@pytest.mark.parametrize(
    ("name", "found", "says"),
    [
        ("hopper-medium-v2", Extent(50_000, 1422.0, 3222.4), "50,000 transitions instead of 999,906"),
        ("hopper-medium-v2", Extent(1_500_000, 1422.0, 3222.4), "1,500,000 transitions instead of 999,906"),
        ("hopper-medium-v2", Extent(999_906, 1500.0, 3222.4), "mean episode return 1500.0 instead of 1422.1"),
        ("hopper-medium-v2", Extent(999_906, 1422.0, 3300.0), "max episode return 3300.0 instead of 3222.4"),
        ("antmaze-umaze-v2", Extent(200_000, 0.5, 1.0), "200,000 transitions instead of 1,000,000"),
    ],
)
def test_a_file_that_differs_says_in_what(name, found, says):
    assert unlike_the_original(find_task(name), found) == says


def test_rows_of_medium_expert_are_those_of_both_parts():
    known = {row["name"]: int(row["rows"]) for row in read_table("recognised.csv")}
    assert set(known) <= set(TASKS)
    for robot in ("halfcheetah", "hopper", "walker2d"):
        assert known[f"{robot}-medium-v2"] + known[f"{robot}-expert-v2"] == known[f"{robot}-medium-expert-v2"]
