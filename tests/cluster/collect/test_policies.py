"""Policies as arrays, and the episodes they play and record."""

from itertools import pairwise

import gymnasium
import numpy as np
import pytest

from cluster.collect.policies import LOG_STD_RANGE, Policy, Recorder, Rolling, episode_returns
from cluster.collect.rows import Rows, concatenated
from mpcwdwm.data import audit, custom_task, dataset_path, read_dataset
from mpcwdwm.data.writing import write_arrays
from mpcwdwm.envs.factory import make_env
from tests.support.stand_in_trainer import ENV_ID, LIMIT, constant_policy


def random_policy(obs: int, act: int, *, squashed: bool = False) -> Policy:
    random = np.random.default_rng(0)
    sizes = [obs, 16, 16, 2 * act if squashed else act]
    pairs = list(pairwise(sizes))
    return Policy(
        weights=tuple(random.normal(0, 0.3, (out, into)).astype(np.float32) for into, out in pairs),
        biases=tuple(random.normal(0, 0.3, out).astype(np.float32) for _, out in pairs),
        log_std=None if squashed else np.full(act, -1, np.float32),
        obs_mean=random.normal(size=obs),
        obs_std=random.uniform(1, 2, obs),
    )


# Policies


@pytest.mark.parametrize("squashed", [False, True])
def test_a_policy_survives_being_stored(squashed: bool) -> None:
    policy = random_policy(11, 3, squashed=squashed)
    again = Policy.from_tensors(policy.to_tensors())
    obs = np.random.default_rng(1).normal(size=11)
    for one, other in zip(policy.distribution(obs), again.distribution(obs), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(policy.act(obs, np.random.default_rng(2)), again.act(obs, np.random.default_rng(2)))


def test_a_shift_and_scale_of_observation_and_statistics_together_change_nothing() -> None:
    policy = random_policy(11, 3)
    obs = np.random.default_rng(1).normal(size=11)
    moved = Policy(policy.weights, policy.biases, policy.log_std, 2 * policy.obs_mean + 3, 2 * policy.obs_std)
    np.testing.assert_allclose(moved.distribution(2 * obs + 3)[0], policy.distribution(obs)[0], atol=1e-5)


def test_actions_are_drawn_clipped_or_squashed() -> None:
    noise = np.random.default_rng(0)
    obs = np.zeros(1)
    clipped = np.array([constant_policy(0.5, log_std=-1.0).act(obs, noise) for _ in range(4000)])
    inner = clipped[np.abs(clipped) < 1]
    assert (clipped == 1).mean() == pytest.approx(0.087, abs=0.02)  # Φ((0.5 − 1)/e⁻¹)
    assert np.median(inner) < np.median(clipped) + 1e-6
    assert np.percentile(clipped, [16, 50]) == pytest.approx([0.5 - np.exp(-1), 0.5], abs=0.03)
    output = np.float32([0.5, 9.0])  # mean, and a log standard deviation beyond its range
    policy = Policy((np.zeros((2, 1), np.float32),), (output,), None, np.zeros(1), np.ones(1))
    assert policy.distribution(obs)[1] == pytest.approx(np.exp(LOG_STD_RANGE[1]))
    squashed = np.arctanh(np.array([policy.act(obs, noise) for _ in range(4000)]).clip(-1 + 1e-7, 1 - 1e-7))
    assert np.median(squashed) == pytest.approx(0.5, abs=0.4)
    assert np.percentile(squashed, 69.1) - np.median(squashed) == pytest.approx(0.5 * np.exp(2), rel=0.15)


# What is recorded


def test_a_time_limit_is_a_timeout_and_a_fall_on_it_is_terminal() -> None:
    class Falls(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        action_space = gymnasium.spaces.Box(-1, 1, (1,))
        episode = 0

        def reset(self, *, seed=None, options=None):
            self.step_count, self.episode = 0, self.episode + 1
            return np.array([self.episode, 0], dtype=np.float32), {}

        def step(self, action):
            self.step_count += 1
            fallen = self.episode % 2 == 0 and self.step_count == 5  # every other episode, with the limit
            obs = np.array([self.episode, self.step_count], dtype=np.float32)
            return obs, 1.0, fallen, False, {}

    episodes: list[Rows] = []
    recorder = Recorder(gymnasium.wrappers.TimeLimit(Falls(), 5), episodes)
    for steps in (5, 5, 5, 2):
        recorder.reset()
        for _ in range(steps):
            recorder.step([2.0])
    recorder.cut()
    recorder.cut()  # of nothing
    arrays, infos = concatenated(episodes)
    assert infos == {}  # no simulator state to keep
    assert (arrays.action == 1).all()  # as the environment was given it
    assert arrays.timeout is not None
    assert arrays.next_obs is not None
    np.testing.assert_array_equal(np.flatnonzero(arrays.timeout), [4, 14, 16])
    np.testing.assert_array_equal(np.flatnonzero(arrays.terminal), [9])
    np.testing.assert_array_equal(arrays.next_obs[4], [1, 5])  # the state reached, not the one after the reset
    np.testing.assert_array_equal(arrays.obs[5], [2, 0])


def test_a_recorded_state_and_action_give_the_recorded_step_again() -> None:
    arrays, infos = Rolling("Hopper-v4", random_policy(11, 3))(150, seed=1)
    assert arrays.next_obs is not None
    env = make_env("Hopper-v4")
    for row in (0, 17, 99, 149):
        env.reset()
        env.unwrapped.set_state(infos["qpos"][row], infos["qvel"][row])
        next_obs, reward, terminal, _, _ = env.step(arrays.action[row])
        np.testing.assert_allclose(next_obs, arrays.next_obs[row], atol=1e-5)
        assert reward == pytest.approx(arrays.reward[row], abs=1e-5)
        assert terminal == arrays.terminal[row]
    env.close()


# Rolling


def test_a_piece_holds_whole_episodes_and_follows_from_its_seed(tmp_path) -> None:
    rolling = Rolling("Hopper-v4", random_policy(11, 3))
    arrays, infos = rolling(300, seed=5)
    assert 300 <= len(arrays.obs) < 400  # Hopper falls soon
    assert arrays.marked_ends[-1]
    assert arrays.timeout is not None
    assert not arrays.timeout.any()
    np.testing.assert_array_equal(arrays.obs, rolling(300, seed=5)[0].obs)
    assert not np.isin(rolling(300, seed=6)[0].obs, arrays.obs).any()
    write_arrays(tmp_path / "mine.hdf5", arrays, infos=infos)
    task = custom_task("mine", tmp_path / "mine.hdf5", "Hopper-v4")
    found = audit(read_dataset(dataset_path(task)), task).faults
    assert [one for one in found if "standard deviation" not in one.what] == []  # rows this few hardly move


def test_an_episode_without_end_is_cut() -> None:
    gymnasium.register("Endless-v0", "tests.support.stand_in_trainer:Steady")
    arrays, _ = Rolling("Endless-v0", constant_policy(0.0))(25, seed=0)
    assert len(arrays.obs) == 50
    assert arrays.timeout is not None
    np.testing.assert_array_equal(np.flatnonzero(arrays.timeout), [49])


def test_returns_are_those_of_whole_episodes() -> None:
    returns = episode_returns(ENV_ID, constant_policy(0.5), 7, seed=0)
    assert len(returns) == 7
    np.testing.assert_allclose(returns, LIMIT * 0.5, atol=0.2)
    assert len(set(returns)) == 7
