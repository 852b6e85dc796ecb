"""The gate: act with the adapted policy only where the promised gain exceeds the models' errors.

A gain is the difference of two imagined returns, so errors that both share cancel, and only their growth with the
distance of an action from the policy's counts. It is measured on held-out episodes: the model's error is the imagined
return along recorded actions minus the recorded one, the critic's is its temporal difference error. Both squared
errors are regressed on the squared distance,

    e² ≈ c + κ² ‖a − π(s)‖²,   c, κ² ≥ 0,

and two standard errors are added to κ². A gain Δ at a change of action D is accepted where
Δ > gate · D · sqrt(κ_model² + κ_critic²).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mpcwdwm.errors import UserError
from mpcwdwm.imagination import unroll
from mpcwdwm.planning.parts import Parts, SharedValue
from mpcwdwm.planning.planner import LookaheadConfig
from mpcwdwm.planning.returns import discounted_sum, ended_by, reduced
from mpcwdwm.random import generator

__all__ = ["ErrorSlopes", "error_slopes", "slope"]

MARGIN = 2.0  # standard errors added to κ²: on few held-out steps the gate stays closed
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
        parts: with their dataset; the errors of critics that learnt from the held-out episodes are too small.
        config: horizon, reduction of the critics, termination.
        seeds: one per member, of the windows and of the model's noise.

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

    of_model = of_critic = torch.zeros(len(seeds), dtype=dtype, device=parts.device)
    if config.horizon:
        model = parts.world_model
        assert model is not None
        assert parts.reward is not None
        shape = (horizon, count, *model.noise_shape)
        drawn = [torch.randn(shape, generator=generator(seed, "gate/noise")) for seed in seeds]
        noise, ended = torch.stack(drawn).to(parts.device, dtype), ended_by(parts) if config.terminate else None
        # every recorded sequence is a rollout of its own: rows are members, rollouts are windows
        rolled = unroll(obs[0], horizon, lambda j, _: action[j], lambda j, s, a: model.sample(s, a, noise[:, j]), ended)
        imagined = discounted_sum(parts, rolled, map(parts.reward, rolled.obs[:-1], action))
        recorded, g = sum(parts.discount**j * reward[j] for j in range(horizon)), parts.discount**horizon
        error = imagined + g * (rolled.alive[-1] * value(rolled.obs[-1]) - goes_on[-1] * value(after[-1])) - recorded
        of_model = slope(error, torch.stack(distance).mean(0), MARGIN)
    # a value of states does not depend on the action; its error is part of the model's, which ends with it
    if parts.critic is not None and not isinstance(parts.critic, SharedValue):
        q = reduced(parts.critic(obs[0], action[0]), config)
        of_critic = slope(reward[0] + parts.discount * goes_on[0] * value(after[0]) - q, distance[0], MARGIN)
    return ErrorSlopes(of_model, of_critic)


def slope(error: Tensor, distance: Tensor, margin: float) -> Tensor:
    """Return κ of error² ≈ c + κ² distance, with c and κ² at least 0, by least squares.

    Args:
        error: (S, W).
        distance: squared, (S, W).
        margin: standard errors of κ² that are added to it, heteroscedasticity-robust.

    Returns:
        (S,); 0 where the errors do not grow with the distance.
    """
    y, x = error.square(), distance
    centred = x - x.mean(1, keepdim=True)
    tiny = torch.finfo(x.dtype).tiny
    spread = centred.square().sum(1).clamp_min(tiny)
    free = (centred * y).sum(1) / spread
    through_zero = (x * y).sum(1) / x.square().sum(1).clamp_min(tiny)
    intercept = y.mean(1) - free * x.mean(1)
    fitted = torch.where(intercept < 0, through_zero, free)
    rest = y - intercept.unsqueeze(1) - free.unsqueeze(1) * x
    fitted = fitted + margin * (centred * rest).square().sum(1).sqrt() / spread
    return fitted.clamp_min(0).sqrt()
