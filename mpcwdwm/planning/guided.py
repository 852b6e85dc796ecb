"""Diffuser's planner (Janner et al., arXiv 2205.09991): trajectories sampled from a diffusion model, guided by a value.

At every denoising step the noisy plans move along the gradient of the value, then one step of the reverse diffusion
follows (Algorithm 1). The best of the finished plans, by value, acts with its first action.
"""

from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor

from mpcwdwm.components.registry import PolicyName
from mpcwdwm.config import Flag, Int, Real, setting
from mpcwdwm.errors import UserError
from mpcwdwm.planning.parts import Params, TrajectoryModel
from mpcwdwm.planning.planner import Planner, PlannerConfig

__all__ = ["GuidedConfig", "GuidedSampling"]


class GuidedConfig(PlannerConfig):
    """Settings of the planner; "paper" is the authors' for locomotion. The horizon is that of the component."""

    kind: Literal["diffuser"] = setting("diffuser", "kind of planner", paper="diffuser")
    base: PolicyName = setting("bc", "component that acts where no plan is finite, and beside which gain is shown")
    rollouts: Int = setting(
        64, "plans sampled, of which the best acts", unit="plans", paper=64, alias="M", ge=1, le=10**5
    )
    guide_steps: Int = setting(2, "steps along the value's gradient per denoising step", paper=2, ge=0, le=100)
    scale: Real = setting(
        0.1,
        "size of such a step; depends on the unit of rewards",
        unit="per return",
        paper="0.1; halfcheetah: 1e-3; hopper-medium-expert: 1e-4",
        ge=0,
    )
    guide_by: Literal["variance", "std", "none"] = setting(
        "variance",
        "what of the step's posterior multiplies the gradient: its variance makes `scale` the same tilt of the "
        "distribution at every number of denoising steps",
        paper="variance (Algorithm 1; the authors' code calls it std)",
    )
    unguided: Int = setting(
        2, "last denoising steps without guidance", unit="steps", paper="2; halfcheetah, hopper-medium-expert: 4", ge=0
    )
    warm_start: Flag = setting(False, "begin with the last plan, moved on by a row and noised", paper=False)
    warm_steps: Int = setting(5, "denoising steps from the last plan", unit="steps", paper="unknown", ge=1, le=1000)

    @property
    def needs(self) -> tuple[str, ...]:
        """The trained diffusion model."""
        return ("diffuser",)

    @model_validator(mode="after")
    def _guided_somewhere(self) -> "GuidedConfig":
        if self.warm_start and self.unguided >= self.warm_steps and self.guide_steps and self.scale:
            raise ValueError(f"unguided {self.unguided} leaves none of warm_steps {self.warm_steps} guided: lower it")
        return self


class GuidedSampling(Planner):
    """The planner: keeps the executed plan from step to step, if it starts from it."""

    config_class = GuidedConfig
    config: GuidedConfig

    @property
    def model(self) -> TrajectoryModel:
        """The trajectory model.

        Raises:
            UserError: the parts have none.
        """
        if self.parts.trajectories is None:
            raise UserError("kind diffuser needs a trajectory model: set parts.trajectories (component 'diffuser')")
        return self.parts.trajectories

    def noise_shapes(self) -> list[tuple[int, ...]]:
        """The first noisy plans, and the noise of every denoising step but the last."""
        return [(self.config.rollouts, len(self.model.alpha_bars), *self.model.window)]

    def initial(self) -> Params:
        """Return plans that are the data's mean: replaced by whole ones before the first step."""
        return {"plan": self.obs.new_zeros(self.rows, *self.model.window)} if self.config.warm_start else {}

    def reset(self) -> None:
        """Begin new episodes, with plans made anew."""
        super().reset()
        self._cold = True

    def draw_noise(self) -> list[Tensor]:
        """Draw the noise of a real step; at an episode's first, also make the plan that a warm start needs."""
        noises = super().draw_noise()
        if self._cold and self.kept:
            best, value = self.best(self.sample(noises[0][:, :, 0], len(self.model.alpha_bars)))
            self.keep({"plan": best.where(value.isfinite().view(-1, 1, 1), 0.0)})
        self._cold = False
        return noises

    @torch.no_grad()
    def plan(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sample plans, and act with the first action of the best."""
        c, noise = self.config, self.noises[0]
        begin, steps = noise[:, :, 0], len(self.model.alpha_bars)
        if c.warm_start:
            steps = min(c.warm_steps, steps)
            alpha_bar = self.model.alpha_bars[steps - 1]
            before = torch.cat([self.kept["plan"][:, 1:], self.kept["plan"][:, -1:]], 1).unsqueeze(1)
            begin = alpha_bar**0.5 * before + (1 - alpha_bar) ** 0.5 * begin
        best, value = self.best(self.sample(begin, steps))
        failed = ~value.isfinite()
        if c.warm_start:
            self.keep({"plan": best.where(~failed.view(-1, 1, 1), 0.0)})
        return self.model.action(best.unsqueeze(1)).squeeze(1).clamp(-1, 1), value, failed

    def best(self, x: Tensor) -> tuple[Tensor, Tensor]:  # (N, M, H, ·) → (N, H, ·), (N,)
        """Return the plan of the highest value, and that value; nan or infinite where no plan's is finite."""
        value = self.model.value(x, 0)
        value, index = value.where(value.isfinite(), -torch.inf).max(1)
        return x.gather(1, index.view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])).squeeze(1), value

    @torch.no_grad()
    def sample(self, x: Tensor, steps: int) -> Tensor:
        """Return clean plans (N, M, H, ·) from noisy ones at step `steps` − 1.

        Each step: x ← x + scale σ_t² ∇V(x, t), `guide_steps` times; then x_{t−1} ~ N(μ(x, x̂_0(x)), σ_t²).
        """
        c, noise = self.config, self.noises[0]
        alpha_bar = [1.0, *self.model.alpha_bars]  # of "step −1" first
        obs = self.obs.unsqueeze(1).expand(-1, x.shape[1], -1)
        x = self.model.condition(x, obs)
        for t in reversed(range(steps)):
            before, now = alpha_bar[t], alpha_bar[t + 1]
            alpha = now / before
            variance = (1 - alpha) * (1 - before) / (1 - now)
            if t >= c.unguided:
                factor = {"variance": variance, "std": variance**0.5, "none": 1.0}[c.guide_by]
                for _ in range(c.guide_steps):
                    x = self.model.condition(x + c.scale * factor * self.ascent(x, t), obs)
            clean = self.model.denoise(x, t)
            x = (before**0.5 * (1 - alpha) * clean + alpha**0.5 * (1 - before) * x) / (1 - now)
            if t > 0:
                x = x + variance**0.5 * noise[:, :, t]
            x = self.model.condition(x, obs)
        return x

    def ascent(self, x: Tensor, t: int) -> Tensor:
        """Return ∇_x V(x, t)."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.model.value(leaf, t).sum(), leaf)
        return gradient
