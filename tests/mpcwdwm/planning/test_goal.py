"""A predicted reward that only a reached goal earns ends an imagined rollout, and is counted once."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from mpcwdwm.components.component import Context
from mpcwdwm.planning import AdaptiveMpc, ModulePolicy, MpcConfig, Parts
from mpcwdwm.planning.objectives import objective
from tests.support.imagined_episodes import Given, rows, training_of

DOUBLE = torch.float64
GOAL, RADIUS, GAMMA, H = 3.0, 0.5, 0.9, 6
AFFINE = [(100.0, 0.0), (1.0, -1.0)]  # ReBRAC's and IQL's AntMaze rewards: scale, shift


class Walk:
    """s' = s + a."""

    noise_shape = (1,)

    def sample(self, obs, action, noise):
        return obs + action


def raw_reward(obs, action):
    """1 where the step ends at the goal, as in AntMaze, and a little elsewhere, as a model predicts it."""
    after = (obs + action)[..., 0]
    return torch.where((after - GOAL).abs() <= RADIUS, 0.8, 0.1 * torch.tanh(after))


def walker(speed):
    policy = nn.Linear(1, 1, dtype=DOUBLE)
    policy.weight.data[:], policy.bias.data[:] = 0.0, speed
    return policy


def parts(speeds=(0.7, 0.4), **fields):
    affine = torch.tensor(AFFINE, dtype=DOUBLE)

    def reward(obs, action):
        own = affine.repeat_interleave(len(obs) // 2, 0)
        return raw_reward(obs, action) * own[:, :1] + own[:, 1:]

    return Parts(
        ModulePolicy(*map(walker, speeds)),
        critic=lambda obs, action: obs.square().sum(-1).unsqueeze(1),
        world_model=Walk(),
        reward=reward,
        reward_affine=affine,
        discount=GAMMA,
        members=2,
        **{"goal_reward": 0.5, **fields},
    )


def by_hand(start, speed, affine, *, ends):
    """Return the return of a walk, and whether it reached the goal: in the episode that ends there, or does not."""
    total, state, (scale, shift) = 0.0, start, affine
    for j in range(H):
        state = state + speed
        there = abs(state - GOAL) <= RADIUS
        raw = 0.8 if there else 0.1 * np.tanh(state)
        total += GAMMA**j * (scale * raw + shift)
        if there and ends:
            return total, True
    return total + GAMMA**H * state**2, False


def imagined_return(made, starts, **config):
    """Return the imagined return of the two policies, each from two starts."""
    obs, noise = torch.tensor(starts, dtype=DOUBLE).unsqueeze(1), torch.zeros(4, H, 2, 1, dtype=DOUBLE)
    return objective(made, made.policy.initial(2), obs, noise, MpcConfig(H=H, **config)).tolist()


STARTS = [1.0, -20.0, 0.2, 1.2]  # the goal is reached at the third step, never, at the last, at the fourth


@pytest.mark.parametrize("ends", [True, False])
def test_a_reached_goal_is_counted_once_unless_rollouts_are_endless(ends):
    members = [(0.7, AFFINE[0])] * 2 + [(0.4, AFFINE[1])] * 2
    walks = [by_hand(start, *member, ends=ends) for start, member in zip(STARTS, members, strict=True)]
    expected, reached = zip(*walks, strict=True)
    assert reached == ((True, False, True, True) if ends else (False,) * 4)
    assert imagined_return(parts(), STARTS, terminate=ends) == pytest.approx(list(expected))
    assert imagined_return(parts(goal_reward=0.5 if ends else None), STARTS) == pytest.approx(list(expected))


def test_a_rule_of_states_and_the_goal_both_end_a_rollout():
    ruled = parts(termination=lambda obs: obs[..., 0] < -10)
    first, second = imagined_return(ruled, STARTS)[:2]
    assert first == pytest.approx(by_hand(STARTS[0], 0.7, AFFINE[0], ends=True)[0])
    assert second == pytest.approx(100 * 0.1 * np.tanh(STARTS[1] + 0.7))  # it ends at its first step


def test_the_ascent_does_not_follow_what_lies_behind_the_goal():
    made = dataclasses.replace(parts(), critic=lambda obs, action: 1e3 * obs.sum(-1).unsqueeze(1))
    config = MpcConfig(H=H, M=2, E=1, step_size=1e-3)
    starts = torch.tensor(STARTS, dtype=DOUBLE).unsqueeze(1)
    moved = {
        ends: AdaptiveMpc(made, config.model_copy(update={"terminate": ends}), seeds=(0, 1), episodes=2).act(starts)[0]
        for ends in (True, False)
    }
    speeds = torch.tensor([0.7, 0.7, 0.4, 0.4], dtype=DOUBLE).unsqueeze(1)
    # at the goal the reward is flat: only the small rewards of the steps before move the policy
    assert ((moved[True] - speeds).abs().squeeze(1) > 1).tolist() == [False, True, False, False]
    assert ((moved[False] - speeds).abs() > 1).all()


def test_an_imagined_episode_of_the_value_ends_at_the_goal():
    functions = {
        "actor": lambda obs: 0 * obs + 0.25,
        "sample": lambda obs, action, noise: obs + action,
        "reward": lambda obs, action: ((obs + action)[..., 0] > 1.0).to(obs.dtype),
    }
    data = rows()
    part = training_of(functions, data=data, exploration=0.0, episodes=50, length=8, halt=1e6).part
    names = {"rebrac": "actor", "world_model": "sample", "reward": "reward"}
    bases = {name: Given((0, 1), **{function: functions[function]}) for name, function in names.items()}
    used = [torch.from_numpy(np.flatnonzero(~data.heldout))] * 2
    episodes = part.imagine(bases, Context([data] * 2, used, goal_reward=0.5))
    alive, start = episodes.alive > 0, episodes.obs[:, :, 0, 0]
    for member in range(2):
        for e in range(50):
            steps, state = 0, float(start[member, e])
            while steps < 8 and not (steps and state > 1.0):
                state, steps = state + 0.25, steps + 1
            assert alive[member, e].tolist() == [j < steps or not state > 1.0 for j in range(9)]
            rewards = episodes.reward[member, e] * episodes.alive[member, e, :-1]
            assert float(rewards.sum()) == (1.0 if state > 1.0 else 0.0)
