"""The gate: act with the adapted policy only where the models' own errors cannot explain the promised gain.

What a plan promises is a *difference* of two imagined returns, between an action and the pretrained policy's, so an
error that both share does no harm. What counts is how the error grows with the distance of an action from the
policy's. That is measured on held-out episodes, whose actions lie at all distances from the policy: the
model's error is the imagined return along recorded actions minus the recorded one, the critic's is its temporal
difference error there. Both squared errors are regressed on the squared distance,

    e² ≈ c + κ² ‖a − π(s)‖²,   c, κ² ≥ 0,

with two standard errors added to κ², since few held-out steps know little. A gain Δ at a change of action D is
believed where Δ > gate · D · sqrt(κ_model² + κ_critic²).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mpcwdwm.errors import UserError
from mpcwdwm.imagination import unroll
from mpcwdwm.planning.parts import Parts, SharedValue
from mpcwdwm.planning.planner import LookaheadConfig
from mpcwdwm.planning.returns import reduced
from mpcwdwm.random import generator

__all__ = ["ErrorSlopes", "error_slopes", "slope"]

MARGIN = 2.0  # standard errors added to κ²: where few held-out steps know little, the gate is not to open
WINDOWS = 512  # held-out stretches on which the errors are measured, at most


@dataclass(frozen=True)
class ErrorSlopes:
    """κ: standard error of a difference in return, per distance of action; one per member (S,)."""

    model: Tensor
    critic: Tensor

    @property
    def total(self) -> Tensor:
        """Both, as independent errors add: (S,)."""
        return (self.model.square() + self.critic.square()).sqrt()


@torch.no_grad()
def error_slopes(parts: Parts, config: LookaheadConfig, seeds: tuple[int, ...]) -> ErrorSlopes:
    """Measure κ of world model with reward model, and of the critic, on held-out episodes.

    Args:
        parts: with their dataset; critics that learnt from the held-out episodes, too, look better than they are.
        config: horizon, reduction of the critics, termination.
        seeds: one per member; of the windows and of the model's noise.

    Raises:
        UserError: no dataset, or no held-out episode as long as the horizon.
    """
    if parts.dataset is None:
        raise UserError("gate: the models' errors are measured on held-out episodes: set parts.dataset")
    horizon, dataset = max(1, config.horizon), parts.dataset
    starts = torch.from_numpy(dataset.heldout_starts(horizon))
    if not len(starts):
        raise UserError(f"gate: no held-out episode of the dataset has {horizon} steps: give a shorter horizon")
    count = min(WINDOWS, len(starts))
    picked = torch.stack(
        [starts[torch.randperm(len(starts), generator=generator(seed, "gate"))[:count]] for seed in seeds]
    )  # (S, W)
    psi0 = parts.policy.initial(1)
    dtype = next(iter(psi0.values())).dtype

    def gathered(values: object, j: int) -> Tensor:  # (S, W, …)
        return torch.as_tensor(values)[picked + j].to(parts.device, dtype)

    obs = [gathered(dataset.obs, j) for j in range(horizon)]
    action = torch.stack([gathered(dataset.action, j) for j in range(horizon)])  # (H, S, W, act_dim)
    after = [gathered(dataset.next_obs, j) for j in range(horizon)]
    goes_on = [1 - gathered(dataset.terminal, j) for j in range(horizon)]
    affine = parts.reward_affine if parts.reward_affine is not None else obs[0].new_tensor([[1.0, 0.0]])
    reward = [gathered(dataset.reward, j) * affine[:, :1] + affine[:, 1:] for j in range(horizon)]  # (S, W)
    distance = [(action[j] - parts.policy(psi0, obs[j])).square().sum(-1) for j in range(horizon)]

    def value(state: Tensor) -> Tensor:
        if parts.critic is None:
            return torch.zeros_like(state[..., 0])
        return reduced(parts.critic(state, parts.policy(psi0, state)), config)

    none = torch.zeros(len(seeds), dtype=dtype, device=parts.device)
    of_model, of_critic = none, none
    if config.horizon:
        assert parts.world_model is not None
        assert parts.reward is not None
        noise = torch.stack(
            [
                torch.randn(horizon, count, *parts.world_model.noise_shape, generator=generator(seed, "gate/noise"))
                for seed in seeds
            ]
        ).to(parts.device, dtype)
        # every recorded sequence is a rollout of its own: rows are members, rollouts are windows
        model, ended = parts.world_model, parts.termination if config.terminate else None
        rolled = unroll(obs[0], horizon, lambda j, _: action[j], lambda j, s, a: model.sample(s, a, noise[:, j]), ended)
        states, alive, g = rolled.obs, rolled.alive, parts.discount
        imagined = sum(g**j * alive[j] * parts.reward(states[j], action[j]) for j in range(horizon))
        recorded = sum(g**j * reward[j] for j in range(horizon))
        error = imagined + g**horizon * (alive[-1] * value(states[-1]) - goes_on[-1] * value(after[-1])) - recorded
        of_model = slope(error, torch.stack(distance).mean(0), MARGIN)
    # a value of states says nothing of an action: what it gets wrong stands in the model's error, which ends with it
    if parts.critic is not None and not isinstance(parts.critic, SharedValue):
        q = reduced(parts.critic(obs[0], action[0]), config)
        of_critic = slope(reward[0] + parts.discount * goes_on[0] * value(after[0]) - q, distance[0], MARGIN)
    return ErrorSlopes(of_model, of_critic)


def slope(error: Tensor, distance: Tensor, margin: float = 0.0) -> Tensor:
    """Return κ of error² ≈ c + κ² distance, with c and κ² at least 0, by least squares.

    Args:
        error: (S, W).
        distance: squared, (S, W).
        margin: so many standard errors of κ² are added to it, robust to errors of unequal size.

    Returns:
        (S,); 0 where the errors do not grow with the distance.
    """
    y, x = error.square(), distance
    centred = x - x.mean(1, keepdim=True)
    free = (centred * y).sum(1) / centred.square().sum(1).clamp_min(torch.finfo(x.dtype).tiny)
    through_zero = (x * y).sum(1) / x.square().sum(1).clamp_min(torch.finfo(x.dtype).tiny)
    intercept = y.mean(1) - free * x.mean(1)
    fitted = torch.where(intercept < 0, through_zero, free)
    if margin:
        rest = y - intercept.unsqueeze(1) - free.unsqueeze(1) * x
        spread = centred.square().sum(1).clamp_min(torch.finfo(x.dtype).tiny)
        fitted = fitted + margin * (centred * rest).square().sum(1).sqrt() / spread
    return fitted.clamp_min(0).sqrt()
