"""The returns of imagined rollouts of a policy or of planned sequences of actions."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from mpcwdwm.imagination import Choose, Ended, Imagined, Left, ending, unroll
from mpcwdwm.planning.evaluations import counted_once
from mpcwdwm.planning.parts import Params, Parts
from mpcwdwm.planning.planner import LookaheadConfig

__all__ = ["discounted_sum", "ended_by", "imagined_rollouts", "reduced", "returns_of", "sequence_returns"]


def imagined_rollouts(
    parts: Parts, obs: Tensor, noise: Tensor, choose: Choose, *, terminate: bool = True, left: Left | None = None
) -> Imagined:
    """Return B rollouts of H steps for each of N rows, with H + 1 actions.

    Args:
        parts: world model, and what ends a rollout.
        obs: the real observation, (N, obs_dim).
        noise: (N, H, B, *noise_shape).
        choose: gives ã_j; all rollouts begin at one state, for which it is called once, (N, 1, obs_dim).
        terminate: whether rollouts end by the known rule and at the goal.
        left: which states halt a rollout; None: none does.
    """
    n, horizon, b = noise.shape[:3]

    def action(j: int, state: Tensor) -> Tensor:
        return choose(j, state) if j else counted_once(lambda: choose(0, state[:, :1])).expand(n, b, -1)

    def transition(j: int, state: Tensor, action: Tensor) -> Tensor:
        assert parts.world_model is not None
        return parts.world_model.sample(state, action, noise[:, j])

    start = obs.unsqueeze(1).expand(n, b, -1)
    rolled = unroll(start, horizon, action, transition, ended_by(parts) if terminate else None, left)
    rolled.action.append(action(horizon, rolled.obs[-1]))
    return rolled


def ended_by(parts: Parts) -> Ended | None:
    """Return what ends an imagined rollout: the rule, or a predicted reward that only a reached goal earns."""
    reward, goal, affine = parts.reward, parts.goal_reward, parts.reward_affine
    if reward is None or goal is None:
        return ending(parts.termination)

    @torch.no_grad()
    def reached(obs: Tensor, action: Tensor) -> Tensor:  # (N, B, …) → (N, B)
        bound = obs.new_full((parts.members, 1), goal)
        if affine is not None:  # in the critic's unit, as the reward is
            bound = bound * affine[:, :1] + affine[:, 1:]
        return reward(obs, action) > bound.repeat_interleave(len(obs) // parts.members, 0)

    return ending(parts.termination, reached)


def discounted_sum(parts: Parts, imagined: Imagined, terms: Iterable[Tensor], start: int = 0) -> Tensor:
    """Return Σ_j γ^j x_j of terms x_start, x_start+1, … (N, B), without those behind a termination: (N, B)."""
    total = torch.zeros_like(imagined.alive[0])
    for j, term in enumerate(terms, start):
        total = total + parts.discount**j * imagined.alive[j] * term
    return total


def returns_of(parts: Parts, imagined: Imagined, config: LookaheadConfig) -> Tensor:
    """Return Σ_{j<H} γ^j r(s̃_j, ã_j) + γ^H Q(s̃_H, ã_H) of every rollout, without terms behind a termination.

    Without a critic the sum ends with the last reward.

    Returns:
        (N, B), in the critic's unit.
    """

    def terms() -> Iterable[Tensor]:
        for obs, action in list(zip(imagined.obs, imagined.action, strict=True))[:-1]:
            assert parts.reward is not None
            yield parts.reward(obs, action)
        if parts.critic is not None:
            yield reduced(parts.critic(imagined.obs[-1], imagined.action[-1]), config)

    return discounted_sum(parts, imagined, terms())


def reduced(q: Tensor, config: LookaheadConfig) -> Tensor:  # (N, C, B) → (N, B)
    """Return one value of the twins', as the config reduces them."""
    if config.critic == "min":
        return q.amin(1)
    return q.mean(1) if config.critic == "mean" else q[:, 0]


def sequence_returns(
    parts: Parts,
    psi0: Params,
    plans: Tensor,
    obs: Tensor,
    noise: Tensor,
    config: LookaheadConfig,
    worth: Callable[[Imagined], Tensor] | None = None,
) -> Tensor:
    """Return the mean imagined return of sequences of actions, each under every rollout's noise.

    Behind its end a sequence goes on with the pretrained policy. So with H actions the terminal critic gets the
    policy's action, and with H + 1 the last of the sequence.

    Args:
        parts: what to imagine with.
        psi0: the pretrained policy's parameters, one set per row.
        plans: S sequences of L actions for each row, (N, S, L, act_dim).
        obs: the real observation, (N, obs_dim).
        noise: (N, H, M, *noise_shape), the same for all sequences of a row.
        config: reduction of the critics, termination.
        worth: what a rollout is worth, (N, B); None: its return.

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

    imagined = imagined_rollouts(parts, obs, shared, choose, terminate=config.terminate)
    worths = returns_of(parts, imagined, config) if worth is None else worth(imagined)
    return worths.unflatten(1, (s, m)).mean(2)
