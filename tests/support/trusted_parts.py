"""The random parts with all that the terms of the objective need, and the objective written out by hand."""

import dataclasses

import torch
from torch import nn

from mpcwdwm.planning import Parts, imagine
from tests.support.random_parts import ACT, DOUBLE, OBS, keep_member, make_parts, random
from tests.support.recorded_episodes import random_episodes

ALL = {"objective": "advantage", "anchor": 0.7, "uncertainty": 0.3, "critic_penalty": 0.4}


class Disagreeing:
    """A world model with an opinion on how far it can be trusted."""

    def __init__(self, model):
        self.model, self.noise_shape, self.sample = model, model.noise_shape, model.sample

    def disagreement(self, obs, action):
        return (obs.square().sum(-1) + 1).sqrt() * (action[..., 0] - 0.3).square()


class Behavior(nn.Module):
    """A cloned policy, tanh(W s)."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, obs):
        return torch.tanh(obs @ self.weight)


def trusted_parts(seeds=(0, 1)) -> Parts:
    """The parts of `make_parts`, with everything that the options need."""
    parts, weight = make_parts(seeds), random(OBS, ACT, purpose="test/behavior")
    parts.behavior = Behavior(weight)
    parts.world_model = Disagreeing(parts.world_model)
    parts.dataset = random_episodes()
    return parts


def ending(parts, psi, obs, noise, config):
    """Let some of the rollouts end at each of their steps: the boundary lies in a gap between their states."""
    reached = torch.stack(imagine(parts, psi, obs, noise, config).obs[1:])[..., 0].flatten().sort().values
    middle = len(reached) * 2 // 3
    boundary = float(reached[middle - 1 : middle + 1].mean())
    parts.termination = lambda state: state[..., 0] > boundary
    alive = torch.stack(imagine(parts, psi, obs, noise, config).alive)
    assert 0 < alive[-1].mean() < alive[1].mean() < 1


def by_hand(parts, psi, still, obs, noise, config):
    """The objective (N,), where the gradient stops at the states to which `still` leads."""
    total, g = torch.zeros(len(obs), dtype=DOUBLE), parts.discount

    def rolled(policy, m):
        state, alive, found = obs.unsqueeze(1), torch.ones(len(obs), dtype=DOUBLE), []
        for j in range(config.horizon + 1):
            action = parts.policy(policy, state)
            found.append((state, action, alive))
            if j < config.horizon:
                state = parts.world_model.sample(state, action, noise[:, j, m : m + 1])
                if parts.termination is not None:
                    alive = alive * (state[:, 0, 0] <= parts.termination.__closure__[0].cell_contents)
        return found

    for m in range(config.rollouts):
        ours, theirs, one = rolled(psi, m), rolled(still, m), 0.0
        q0 = parts.critic(theirs[0][0], theirs[0][1])[:, :, 0].min(1).values.abs()
        for j, ((state, action, alive), (there, _, counted)) in enumerate(zip(ours, theirs, strict=True)):
            twins, last = parts.critic(state, action)[:, :, 0], j == config.horizon
            worth = twins.min(1).values if last else parts.reward(state, action)[:, 0]
            if config.objective == "advantage":
                one = one - g**j * counted * parts.critic(there, parts.policy(psi, there))[:, :, 0].min(1).values
            away = (parts.policy(psi, there) - parts.behavior(there)).square().sum((1, 2))
            one = one - config.anchor * q0 * g**j * counted * away
            if config.disagreement == "critics":
                spread = (twins[:, 0] - twins[:, 1]).abs() / 2 / (config.horizon + 1)
            else:
                spread = 0.0 if last else parts.world_model.disagreement(state, action)[:, 0]
            one = one + g**j * alive * (worth - config.uncertainty * spread)
            if j > 0:
                off = (action - parts.behavior(state)).square().sum((1, 2))
                one = one - config.critic_penalty * g**j * alive * off
        total = total + one / config.rollouts
    return total


def only(member) -> Parts:
    """One of the two members of `trusted_parts`."""
    parts = trusted_parts((5, 8))
    for part in (parts.world_model.model, parts.reward, parts.critic):
        keep_member(part.part, member)
        part.members = 1
    parts.reward.scale, parts.reward.shift = parts.reward.scale[:1], parts.reward.shift[:1]
    keep_member(parts.policy.actor, member)
    return dataclasses.replace(parts, members=1)
