"""Sampling on the same world model: MPPI seeded by the policy, as TD-MPC2 (arXiv 2310.16828) plans.

Some candidate sequences come from the policy rolled through the model, the others from a Gaussian with a mean and a
standard deviation per step. The best, weighted by their imagined returns, make the next Gaussian.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from mpcwdwm.config import Flag, Int, Real, setting
from mpcwdwm.planning.ascent import kept_bytes
from mpcwdwm.planning.parts import Params
from mpcwdwm.planning.planner import AdaptingConfig, Planner
from mpcwdwm.planning.presets import MPPI, filled
from mpcwdwm.planning.returns import imagined_rollouts, sequence_returns

__all__ = ["Fit", "Mppi", "MppiConfig", "refit"]


class MppiConfig(AdaptingConfig):
    """Settings of the sampling planner; "paper" is TD-MPC2's."""

    kind: Literal["mppi"] = setting("mppi", "kind of planner", paper="none in MPCwDWM")
    preset: Literal["none", "best_of_n"] = setting(
        "none",
        "named values of the other fields, where they are not given; best_of_n: the best of N samples around the "
        "policy's action, by the critic (H = 0) or by H imagined steps",
        paper="none",
    )
    horizon: Int = setting(3, "imagined steps", unit="steps", paper=3, alias="H", ge=0, le=1000)
    rollouts: Int = setting(
        1, "rollouts of every candidate, all under the same noise", paper="1 (deterministic model)", alias="M", ge=1,
        le=10**6,
    )  # fmt: skip
    critic: Literal["min", "mean", "first"] = setting("min", "how the twin critics are reduced", paper="mean of two")
    updates: Int = setting(6, "iterations per real step", paper=6, alias="E", ge=0, le=1000)
    samples: Int = setting(512, "candidate sequences per iteration, the policy's included", paper=512, ge=1, le=10**6)
    policy_samples: Int = setting(24, "of these, rolled by the policy", paper=24, ge=0)
    policy_std: Real = setting(
        0.05, "std of the noise on all but the first of the policy's", unit="action", paper="its policy's own", ge=0
    )
    elites: Int = setting(64, "best candidates that make the next Gaussian", paper=64, ge=1)
    temperature: Real = setting(
        0.5, "elites weigh exp(temperature · return): larger is greedier", unit="per return", paper=0.5, ge=0
    )
    min_std: Real = setting(0.05, "least std of the Gaussian", unit="action", paper=0.05, ge=0)
    max_std: Real = setting(2.0, "its first and largest std", unit="action", paper=2, gt=0)
    last_action: Literal["policy", "planned"] = setting(
        "policy", "the action that the terminal critic gets: the policy's, or one more of the plan", paper="policy"
    )
    warm_start: Flag = setting(True, "begin with the last mean, shifted by a step; else with zeros", paper=True)
    execute: Literal["mean", "best"] = setting(
        "mean", "what acts: the last mean, or the best candidate", paper="an elite drawn by weight"
    )

    @property
    def length(self) -> int:
        """Actions in a sequence."""
        return self.horizon + (self.last_action == "planned")

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, given: Any) -> Any:
        return filled(cls, given, MPPI)

    @model_validator(mode="after")
    def _consistent(self) -> "MppiConfig":
        if not self.length:
            raise ValueError("horizon 0 leaves no action to plan; give a horizon of 1 or more, or last_action: planned")
        for name, number in (("elites", self.elites), ("policy_samples", self.policy_samples)):
            if number > self.samples:
                raise ValueError(f"{name} is {number}, more than the {self.samples} samples")
        if self.min_std > self.max_std:
            raise ValueError(f"min_std is {self.min_std}, above max_std, {self.max_std}")
        return self


@dataclass(frozen=True)
class Fit:
    """The result of an iteration, for every row."""

    mean: Tensor  # (N, L, act_dim)
    std: Tensor  # (N, L, act_dim), within its bounds
    best: Tensor  # (N, L, act_dim): the candidate with the highest return
    value: Tensor  # (N,): mean return of the elites, weighted as they were
    failed: Tensor  # (N,): no candidate had a finite return


def refit(plans: Tensor, returns: Tensor, config: MppiConfig) -> Fit:
    """Fit the Gaussian to the elites, without candidates whose return is not finite.

    Args:
        plans: (N, S, L, act_dim).
        returns: (N, S).
        config: number of elites, temperature, bounds of the std.
    """
    score, index = returns.where(returns.isfinite(), -torch.inf).topk(config.elites, dim=1)  # best first
    counts = score.isfinite()
    score = score.where(counts, score.new_zeros(()))
    weight = counts * torch.exp(config.temperature * (score - score[:, :1]))  # (N, elites)
    weight = weight / weight.sum(1, keepdim=True)
    elites = plans.gather(1, index[..., None, None].expand(-1, -1, *plans.shape[2:]))
    elites = elites.where(counts[..., None, None], elites.new_zeros(()))  # 0 · nan would be nan
    mean = (weight[..., None, None] * elites).sum(1)
    variance = (weight[..., None, None] * (elites - mean.unsqueeze(1)).square()).sum(1)
    std = variance.sqrt().clamp(config.min_std, config.max_std)
    return Fit(mean, std, elites[:, 0], (weight * score).sum(1), ~counts[:, 0])


class Mppi(Planner):
    """The planner: keeps the mean of the Gaussian from step to step."""

    config_class = MppiConfig
    config: MppiConfig

    def noise_shapes(self) -> list[tuple[int, ...]]:
        """The model's noise, the policy's, and that of the Gaussian candidates of every iteration."""
        c = self.config
        size = (c.length, self.act_dim)
        drawn = (c.updates, c.samples - c.policy_samples, *size)
        return [*super().noise_shapes(), (c.policy_samples, *size), drawn]

    def initial(self) -> Params:
        """Return a mean of zero."""
        return {"mean": self.obs.new_zeros(self.rows, self.config.length, self.act_dim)}

    @torch.no_grad()
    def plan(self) -> tuple[Tensor, Tensor, Tensor]:
        """Iterate, and act with the first action of the mean or of the best candidate."""
        c = self.config
        *models, policy_noise, drawn = self.noises
        seeds = self.policy_plans(models[0], policy_noise)
        mean = self.kept["mean"]
        std = torch.full_like(mean, c.max_std)
        action, value = self.pretrained_action(), self.obs.new_full((self.rows,), float("nan"))
        failed = torch.zeros_like(value, dtype=torch.bool)
        for e in range(c.updates):
            gaussian = (mean.unsqueeze(1) + std.unsqueeze(1) * drawn[:, e]).clamp(-1, 1)
            plans = torch.cat([seeds, gaussian], 1)
            fit = refit(plans, self.returns(plans, models[e % len(models)]), c)
            failed, value = failed | fit.failed, fit.value
            mean, std = fit.mean, fit.std
            action = (mean if c.execute == "mean" else fit.best)[:, 0]
        if c.warm_start and c.updates:
            shifted = torch.cat([mean[:, 1:], torch.zeros_like(mean[:, :1])], 1)
            self.keep({"mean": torch.where(failed.view(-1, 1, 1), 0.0, shifted)})
        return action, value, failed

    def policy_plans(self, noise: Tensor, exploration: Tensor) -> Tensor:
        """Return the policy's sequences (N, P, L, act_dim): the first as it would act, the others with noise.

        Args:
            noise: the model's, (N, H, M, *noise_shape); its rollouts are used in turn.
            exploration: standard normal, (N, P, L, act_dim).
        """
        c = self.config
        if not c.policy_samples:
            return exploration  # (N, 0, L, act_dim)
        number = torch.arange(c.policy_samples, device=noise.device)
        turns = noise[:, : c.length - 1].index_select(2, number % c.rollouts)
        exploring = (number > 0).to(noise.dtype).view(1, -1, 1) * c.policy_std

        def choose(j: int, state: Tensor) -> Tensor:
            return (self.parts.policy(self.psi0, state) + exploring * exploration[:, :, j]).clamp(-1, 1)

        rolled = imagined_rollouts(self.parts, self.obs, turns, choose, terminate=False)
        return torch.stack(rolled.action, 2)

    def returns(self, plans: Tensor, noise: Tensor) -> Tensor:
        """Return the mean imagined return of every candidate, (N, S), in passes that fit into memory."""
        total = noise.new_zeros(plans.shape[:2])
        for part in noise.split(self._rollouts, 2):
            passes = [
                sequence_returns(self.parts, self.psi0, some, self.obs, part, self.config)
                for some in plans.split(self._samples, 1)
            ]
            total = total + torch.cat(passes, 1) * (part.shape[2] / noise.shape[2])
        return total

    def prepare(self) -> None:
        """Decide how many candidates and rollouts one pass has.

        Measured is what autograd would keep of one more candidate's first transition and its critic: more than
        is alive at a time without gradients. The states, actions and noise of all H steps come on top.
        """
        c, noise = self.config, self.noises[0][:, :1, :1]
        two, three = (
            kept_bytes(partial(sequence_returns, self.parts, self.psi0, plans, self.obs, noise, c))
            for plans in (self.obs.new_zeros(self.rows, n, 1, self.act_dim).requires_grad_() for n in (2, 3))
        )
        carried = self.noises[0][:, :, 0].numel() + (c.horizon + 1) * self.rows * (self.obs.shape[1] + self.act_dim)
        pairs = max(1, int(c.memory_gb * 1e9 / (max(1, three - two) + carried * self.obs.element_size())))
        self._rollouts = min(c.rollouts, pairs)
        self._samples = max(1, pairs // self._rollouts)
