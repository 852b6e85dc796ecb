"""Recorded steps of an evaluation, against recursions by hand and what the episodes say of themselves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mpcwdwm.evaluation.evaluate import evaluate
from mpcwdwm.evaluation.rollout import Rollout
from mpcwdwm.evaluation.trace import Trace, real_returns
from mpcwdwm.planning import planner_config
from tests.support.planners import hopper_parts

MOVING = {"kind": "policy", "H": 2, "E": 1, "step_size": 0.1, "critic_from": "none"}


def traced(planner, **arguments):
    """The episodes and the steps of two seeds with three episodes, of which two are traced."""
    parts, found = hopper_parts(lambda obs, action: obs[..., 0] * 0 + 1.0 - action.square().sum(-1)), []
    config = planner and planner_config(planner)
    options = {"traced_episodes": 2, "on_trace": found.extend, **arguments}
    return evaluate(parts, config, seeds=(0, 1), episodes=3, env_seed=0, **options), found


def test_steps_are_those_of_the_first_episodes_of_every_member():
    episodes, steps = traced(MOVING)
    assert len(steps) == 2
    for member, own in enumerate(steps):
        assert sorted(set(own["episode"].tolist())) == [0, 1]
        for number in (0, 1):
            (episode,) = [one for one in episodes if (one["seed"], one["episode"]) == (member, number)]
            mine = own["episode"] == number
            assert own["step"][mine].tolist() == list(range(episode["length"]))
            assert own["reward"][mine].sum() == pytest.approx(episode["return"], rel=1e-5)
            assert own["imagined_return"][mine].mean() == pytest.approx(episode["imagined_return"], rel=1e-5)
            assert own["action_change"][mine].mean() == pytest.approx(episode["action_change"], rel=1e-5)
            assert (own["action_change"][mine] > 0).mean() == pytest.approx(episode["adapted_share"])
            assert own["fell_back"][mine].sum() == episode["fallbacks"]


def test_tracing_changes_no_episode_and_none_is_traced_unless_asked_for():
    plain, nothing = traced(MOVING, traced_episodes=0)
    episodes, _ = traced(MOVING)
    assert nothing == []
    timed = {"ms_per_step": 0.0}
    assert [{**one, **timed} for one in plain] == [{**one, **timed} for one in episodes]


def test_a_frozen_policy_imagines_nothing_and_moves_nothing():
    _, steps = traced(None)
    assert np.isnan(steps[0]["imagined_return"]).all()
    assert not steps[0]["action_change"].any()


def test_more_are_not_traced_than_are_played():
    _, steps = traced(None, traced_episodes=9)
    assert set(steps[1]["episode"].tolist()) == {0, 1, 2}


def test_the_real_return_is_discounted_in_the_critics_unit_to_the_end_of_the_episode():
    parts = hopper_parts(lambda obs, action: obs[..., 0])
    rewards = np.array([1.0, -2.0, 4.0])
    plain = real_returns(rewards, replace(parts, discount=0.5, reward_affine=None), 0)
    assert plain == pytest.approx([1 - 2 / 2 + 4 / 4, -2 + 4 / 2, 4])
    affine = torch.tensor([[1.0, 0.0], [10.0, -1.0]])
    scaled = real_returns(rewards, replace(parts, discount=0.5, reward_affine=affine), 1)
    assert scaled == pytest.approx([9 - 21 / 2 + 39 / 4, -21 + 39 / 2, 39])


def test_rows_of_members_are_not_mixed_and_steps_behind_an_end_are_dropped():
    trace, parts = Trace(1, 2), replace(hopper_parts(lambda obs, action: obs[..., 0]), discount=1.0)
    for step in range(3):  # members 0 and 1, two episodes each
        value = torch.tensor([0.0, 9.0, 10.0, 9.0]) + step
        trace.add(value, value / 10, torch.tensor([False, False, step == 1, False]))
    rollouts = [Rollout(0, 0.0, n, 0.0, (1.0,) * n) for n in (3, 1, 2, 3)]
    first, second = (trace.of(member, rollouts, parts) for member in (0, 1))
    assert first["imagined_return"].tolist() == [0, 1, 2]
    assert second["imagined_return"].tolist() == [10, 11]
    assert second["action_change"].tolist() == pytest.approx([1.0, 1.1])
    assert second["fell_back"].tolist() == [False, True]
    assert second["real_return"].tolist() == [2, 1]
