"""Errors of a world model on held-out episodes, against a loop over the rows of the file."""

import math

import pytest
import torch

from mpcwdwm.components import component_config
from mpcwdwm.random import generator
from mpcwdwm.training.evaluators import heldout_evaluator
from mpcwdwm.training.loop import Training
from tests.support.parts import part_of

DOUBLE = torch.float64


def test_windows_lie_within_one_held_out_episode(dataset):
    data = part_of(dataset, 0, 10_000)
    starts = data.heldout_starts(5)
    assert len(starts) > 50
    for j in range(5):
        assert (data.episode[starts + j] == data.episode[starts]).all()
        assert data.heldout[starts + j].all()
        assert data.has_next_obs[starts + j].all()
    episodes = [length for length in data.lengths[data.heldout_episodes] if length >= 5]
    ends_without_next = int((~data.has_next_obs & data.heldout).sum())
    assert sum(length - 4 for length in episodes) - ends_without_next <= len(starts) <= sum(episodes)
    assert len(data.heldout_starts(20_000)) == 0


def test_the_open_loop_error_of_a_model_that_adds_its_action_is_known(dataset):
    """The model s' = s + a·1 along recorded actions, compared with a loop over the rows of the file."""
    data = part_of(dataset, 0, 10_000)
    config = component_config("world_model", {}, {"kind": "flow", "hidden_dim": 8, "batch_size": 16, "steps": 5})
    training = Training("world_model", config, data, [0], dtype=DOUBLE)
    training.part.sample = lambda obs, action, noise: obs + action.sum(-1, keepdim=True)
    (found,) = heldout_evaluator(training.part, training.datasets)(training.part)
    starts = data.heldout_starts(5)
    picked = starts[torch.randperm(len(starts), generator=generator(0, "heldout/windows"))[:1024]].tolist()
    std = training.part.normalizer.std[0, 0].numpy()
    total = still = 0.0
    for row in picked:
        moved = data.obs[row] + data.action[row : row + 5].sum(dtype=float)
        total += (((moved - data.next_obs[row + 4]) / std) ** 2).mean() / len(picked)
        still += (((data.obs[row] - data.next_obs[row + 4]) / std) ** 2).mean() / len(picked)
    assert found["heldout/rmse_5_steps"] == pytest.approx(math.sqrt(total), rel=1e-5)
    assert found["heldout/rmse_5_steps_no_change"] == pytest.approx(math.sqrt(still), rel=1e-5)


def test_the_open_loop_is_given_fresh_noise_at_every_step(dataset):
    data = part_of(dataset, 0, 10_000)
    config = component_config("world_model", {}, {"kind": "flow", "hidden_dim": 8, "batch_size": 16, "steps": 5})
    training, seen = Training("world_model", config, data, [0, 1]), []
    training.part.sample = lambda obs, action, noise: (seen.append(noise), obs)[1]
    heldout_evaluator(training.part, training.datasets)(training.part)
    _, *steps = seen  # the first is the one-step error's
    assert len(steps) == 5
    assert not torch.equal(steps[0], steps[1])
    assert not torch.equal(steps[0][0], steps[0][1])
