"""Imagination: rolling actions through the world model, and what the rollouts are worth.

Whoever chooses the actions, a policy or a planned sequence, the model, the rewards, the terminal
critic and the rule that ends a rollout are the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mpcwdwm.planning.parts import Params, Parts
from mpcwdwm.planning.planner import LookaheadConfig

__all__ = ["Choose", "Imagined", "reduced", "returns_of", "sequence_returns", "unroll"]

Choose = Callable[[int, Tensor], Tensor]
"""(step j, imagined states (N, B, obs_dim)) → actions (N, B, act_dim); B is 1 at step 0."""


@dataclass(frozen=True)
class Imagined:
    """B rollouts of H steps for each of N rows."""

    obs: list[Tensor]  # H + 1 of (N, B, obs_dim)
    action: list[Tensor]  # H + 1 of (N, B, act_dim)
    alive: list[Tensor]  # H + 1 of (N, B): 1 until the rollout has terminated


def unroll(parts: Parts, obs: Tensor, noise: Tensor, choose: Choose, *, terminate: bool = True) -> Imagined:
    """Roll actions through the world model: s̃_0 = s, s̃_{j+1} = f(s̃_j, ã_j, ε_j).

    Args:
        parts: world model and termination rule.
        obs: the real observation, (N, obs_dim).
        noise: (N, H, B, *noise_shape).
        choose: gives ã_j; all rollouts are one before the first transition, and it may answer for one.
        terminate: whether rollouts end by the known rule.
    """
    n, horizon, b = noise.shape[:3]
    state = obs.unsqueeze(1)  # (N, 1, obs_dim)
    states, actions = [state.expand(n, b, -1)], [choose(0, state).expand(n, b, -1)]
    alive = [obs.new_ones(n, b)]
    for j in range(horizon):
        assert parts.world_model is not None
        state = parts.world_model.sample(states[j], actions[j], noise[:, j])
        ended = parts.termination(state) if terminate and parts.termination else None
        alive.append(alive[j] if ended is None else alive[j] * ~ended)
        states.append(state)
        actions.append(choose(j + 1, state))
    return Imagined(states, actions, alive)


def returns_of(parts: Parts, imagined: Imagined, config: LookaheadConfig) -> Tensor:
    """Return Σ_{j<H} γ^j r(s̃_j, ã_j) + γ^H Q(s̃_H, ã_H) of every rollout, terms behind a termination dropped.

    Without a critic the sum ends with the last reward.

    Returns:
        (N, B), in the critic's unit.
    """
    horizon = len(imagined.obs) - 1
    total = torch.zeros_like(imagined.alive[0])
    for j in range(horizon):
        assert parts.reward is not None
        reward = parts.reward(imagined.obs[j], imagined.action[j])  # (N, B)
        total = total + parts.discount**j * imagined.alive[j] * reward
    if parts.critic is not None:
        value = reduced(parts.critic(imagined.obs[-1], imagined.action[-1]), config)
        total = total + parts.discount**horizon * imagined.alive[-1] * value
    return total


def reduced(q: Tensor, config: LookaheadConfig) -> Tensor:  # (N, C, B) → (N, B)
    """Return one value of the twins', as the config reduces them."""
    if config.critic == "min":
        return q.amin(1)
    return q.mean(1) if config.critic == "mean" else q[:, 0]


def sequence_returns(
    parts: Parts, psi0: Params, plans: Tensor, obs: Tensor, noise: Tensor, config: LookaheadConfig
) -> Tensor:
    """Return the mean imagined return of sequences of actions, each under every rollout's noise.

    Behind its end a sequence goes on with the pretrained policy: with H actions, that is the action the
    terminal critic judges; with H + 1, it judges the last of the sequence.

    Args:
        parts: what to imagine with.
        psi0: the pretrained policy's parameters, one set per row.
        plans: S sequences of L actions for each row, (N, S, L, act_dim).
        obs: the real observation, (N, obs_dim).
        noise: (N, H, M, *noise_shape), the same for all sequences of a row.
        config: reduction of the critics, termination.

    Returns:
        (N, S), in the critic's unit.
    """
    n, s, length = plans.shape[:3]
    horizon, m = noise.shape[1:3]
    actions = plans.unsqueeze(2).expand(n, s, m, length, -1).reshape(n, s * m, length, -1)
    own = noise.shape[3:]
    shared = noise.unsqueeze(2).expand(n, horizon, s, m, *own).reshape(n, horizon, s * m, *own)

    def choose(j: int, state: Tensor) -> Tensor:
        return actions[:, :, j] if j < length else parts.policy(psi0, state)

    imagined = unroll(parts, obs, shared, choose, terminate=config.terminate)
    return returns_of(parts, imagined, config).unflatten(1, (s, m)).mean(2)
