"""The worst recorded reward: what a state outside the data is worth, against loops over all stretches."""

import dataclasses

import numpy as np
import pytest

from tests.support.recorded_episodes import dataset_of, worst_by_hand

GAMMA = 0.97
LENGTHS, ENDS = (30, 12, 25, 9), "toto"


@pytest.mark.parametrize("steps", [1, 2, 10, 26])
def test_it_is_the_lowest_mean_of_so_many_rewards_in_a_row_of_one_episode(steps):
    data = dataset_of(LENGTHS, ENDS)
    assert data.worst_reward(steps, GAMMA) == pytest.approx(worst_by_hand(data, steps, GAMMA), rel=1e-12)
    kept = np.isin(data.episode, [0, 1, 3])
    found = data.worst_reward(steps, GAMMA, kept.nonzero()[0])
    assert found == pytest.approx(worst_by_hand(data, steps, GAMMA, kept), rel=1e-12)


def test_where_no_episode_is_as_long_the_longest_counts():
    data = dataset_of(LENGTHS, ENDS)
    assert data.worst_reward(500, GAMMA) == data.worst_reward(30, GAMMA)
    assert data.worst_reward(500, GAMMA, (data.episode >= 2).nonzero()[0]) != data.worst_reward(500, GAMMA)


@pytest.mark.parametrize("reward", [-1.0, 0.0, 2.5])
def test_of_a_constant_it_is_that_constant(reward):
    data = dataset_of(LENGTHS, ENDS)
    data = dataclasses.replace(data, reward=np.full_like(data.reward, reward))
    assert data.worst_reward(20, GAMMA) == pytest.approx(reward, abs=1e-12)


def test_it_follows_the_unit_of_rewards_and_a_rare_crash_is_no_state_that_lasts():
    data = dataset_of(LENGTHS, ENDS)
    other = dataclasses.replace(data, reward=data.reward * np.float32(2**-20))
    assert other.worst_reward(10, GAMMA) == data.worst_reward(10, GAMMA) * 2**-20
    crash = np.ones_like(data.reward)
    crash[29] = -100
    crashed = dataclasses.replace(data, reward=crash)
    assert crashed.worst_reward(1, GAMMA) == -100
    late = 101 * GAMMA**19 * (1 - GAMMA) / (1 - GAMMA**20)  # below the ones, at the end of 20 steps
    assert crashed.worst_reward(20, GAMMA) == pytest.approx(1 - late)
    assert 1 - late > -3
