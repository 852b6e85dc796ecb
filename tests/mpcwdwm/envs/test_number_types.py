"""Environments whose observations are float64 or bytes: policies see them as float32; and ones that give no number."""

import gymnasium
import numpy as np
import pytest
import torch

from mpcwdwm.errors import UserError
from mpcwdwm.evaluation.rollout import rollout


class Counting(gymnasium.Env):
    """Observation: the number of steps, three times; the episode ends after four."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.observation_space = gymnasium.spaces.Box(0, 255, (3,), dtype)
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(3, self.dtype), {}

    def step(self, action):
        self.steps += 1
        return np.full(3, self.steps, self.dtype), 1.0, self.steps == 4, False, {}


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_policies_see_float32(dtype):
    env_id = f"Counting{np.dtype(dtype).name}-v0"
    gymnasium.register(env_id, entry_point=lambda: Counting(dtype), max_episode_steps=10)
    seen = []

    def act(obs, alive):
        seen.append(obs.clone())
        return torch.zeros(len(obs), 2)

    try:
        found = rollout(env_id, act, [0, 1], max_steps=10)
    finally:
        del gymnasium.registry[env_id]
    assert [episode.length for episode in found] == [4, 4]
    assert {obs.dtype for obs in seen} == {torch.float32}
    assert [obs[0, 0].item() for obs in seen] == [0, 1, 2, 3]


class Diverging(Counting):
    """Something is not a number in its third step."""

    def __init__(self, what):
        super().__init__(np.float32)
        self.what = what

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        obs[2] = np.nan if self.what == "reset" else 0
        return obs, info

    def step(self, action):
        obs, reward, ended, cut, info = super().step(action)
        if self.steps == 3:
            obs[1] = np.nan if "observation" in self.what else obs[1]
            reward = np.nan if self.what == "reward" else reward
            ended = self.what == "last observation"
        return obs, reward, ended, cut, info


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("observation", "step 3: entry 1 of the observation is nan"),
        ("reward", "step 3: the reward is nan"),
        ("reset", "reset: entry 2 of the observation is nan"),
        ("last observation", None),  # nobody acts on it
    ],
)
def test_what_is_not_a_number_is_said_before_a_policy_acts_on_it(what, says):
    gymnasium.register("Diverging-v0", entry_point=lambda: Diverging(what), max_episode_steps=10)
    seen = []

    def act(obs, alive):
        seen.append(obs.clone())
        return torch.zeros(len(obs), 2)

    try:
        if says is None:
            assert [episode.length for episode in rollout("Diverging-v0", act, [0, 1], max_steps=10)] == [3, 3]
        else:
            with pytest.raises(UserError, match=says):
                rollout("Diverging-v0", act, [0, 1], max_steps=10)
    finally:
        del gymnasium.registry["Diverging-v0"]
    assert all(obs.isfinite().all() for obs in seen)
