"""The diffusion world model: a conditional DDPM on the next observation, few steps, differentiable.

It is trained by noise prediction. With the noise held fixed, a sample is a deterministic, differentiable function of
(s, a): autograd through the loop gives the paper's Jacobian recursions (`docs/algorithm.md`). The schedule ends with
ᾱ below 0.01 whatever its number of steps, because sampling starts from a standard normal.

With few steps the two usual variances of ancestral sampling leave samples narrower than the data. `variance: learnt` is
the optimal one (Analytic-DPM, arXiv 2201.06503): the posterior's, and what the denoiser does not know of x. That is
measured in training, for every step of the schedule and every dimension.
"""

import math
from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from mpcwdwm.components.component import Batch
from mpcwdwm.components.world_models.world_model import WorldModel, WorldModelConfig
from mpcwdwm.config import Int, setting
from mpcwdwm.nn.networks import Mlp
from mpcwdwm.random import Integers, Normal

__all__ = ["DiffusionConfig", "DiffusionModel", "alpha_bars"]

BETA_RANGE = (0.1, 10.0)  # variance-preserving schedule: ᾱ_K = exp(−(0.1 + 10) / 2) = 0.0064 for every K
REMEMBERED_ROWS = 2000  # rows of a step over which its squared error is averaged: to 3 %
STEP_FEATURES = 16  # sinusoidal features of k/K


class DiffusionConfig(WorldModelConfig):
    """Hyper-parameters of the diffusion world model. The paper's K and schedule are unknown."""

    kind: Literal["diffusion"] = setting("diffusion", "kind of world model", paper="diffusion")
    denoising_steps: Int = setting(5, "K, denoising steps of a sample", unit="steps", ge=1, le=1000)
    training_steps: Int | None = setting(
        None, "steps of the schedule in training, of which a sample takes K; unset: K", unit="steps", ge=1, le=1000
    )
    sampler: Literal["ddpm", "ddim"] = setting(
        "ddpm", "ancestral sampling with K noises held fixed, or DDIM from one noise", paper="ddpm"
    )
    variance: Literal["learnt", "posterior", "beta"] = setting(
        "learnt",
        "σ_k² of ancestral sampling: DDPM's posterior β̃_k or β_k, or the one with which samples of Gaussian data have "
        "its spread for every K (Analytic-DPM); both others make few steps too narrow",
        paper="unknown",
    )

    @model_validator(mode="after")
    def _samples_take_steps_of_the_schedule(self) -> Self:
        if self.training_steps is not None and self.training_steps < self.denoising_steps:
            raise ValueError(f"training_steps {self.training_steps} is below denoising_steps {self.denoising_steps}")
        return self


def alpha_bars(steps: int) -> Tensor:
    """Return ᾱ_0 = 1, …, ᾱ_K of the variance-preserving schedule, shape (K + 1,), float64."""
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    low, high = BETA_RANGE
    return torch.exp(-low * t - 0.5 * (high - low) * t.square())


class DiffusionModel(WorldModel):
    """S stacked conditional diffusion models p(s' | s, a)."""

    config_class = DiffusionConfig
    config: DiffusionConfig

    def build(self, dtype: torch.dtype) -> None:
        """Make the network, and what it and a sample need of the schedule."""
        config = self.config
        self.build_net(2 * self.obs_dim + self.act_dim + STEP_FEATURES, self.obs_dim, dtype)
        self.steps = config.training_steps or config.denoising_steps  # T
        self.alpha_bar: Tensor
        self.step_features: Tensor
        self.register_buffer("alpha_bar", alpha_bars(self.steps).to(dtype), persistent=False)
        self.register_buffer("step_features", _step_features(self.steps).to(dtype), persistent=False)
        self.learns_variance = config.variance == "learnt" and config.sampler == "ddpm"
        if self.learns_variance:
            self.misfit: Tensor  # (S, T, obs_dim): E (ε − ε_θ)² of a dimension at steps 1 … T
            self.register_buffer("misfit", torch.ones(*self.stack, self.steps, self.obs_dim, dtype=dtype))
        # The steps of the schedule that a sample visits, 0 = τ_0 < … < τ_K = T, and ᾱ there.
        self.visited = tuple(round(i * self.steps / config.denoising_steps) for i in range(config.denoising_steps + 1))
        self.schedule: tuple[float, ...] = tuple(alpha_bars(self.steps)[list(self.visited)].tolist())

    # -------------------------------------------------------------------------------- training

    def noise(self, batch_size: int) -> Mapping[str, Normal | Integers]:
        """A diffusion step and a normal vector per row."""
        return {"k": Integers(self.steps, (batch_size,)), "epsilon": Normal((batch_size, self.obs_dim))}

    def predict_noise(self, u: Tensor, k: Tensor | int, condition: Tensor, *, net: Mlp | None = None) -> Tensor:
        """Return ε_θ(u, k, (s, a)).

        Args:
            u: (S, B, obs_dim).
            k: step of the schedule, 1..T.
            condition: (S, B, obs_dim + act_dim).
            net: by default the one that samples.
        """
        features = self.step_features[k].expand(*u.shape[:-1], STEP_FEATURES)
        return (net or self.sampling_net)(torch.cat([u, condition, features], -1))

    def loss(self, batch: Batch, noise: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """‖ε − ε_θ(√ᾱ_k x + √(1 − ᾱ_k) ε, k, (s, a))‖², k uniform."""
        k, epsilon = noise["k"] + 1, noise["epsilon"]
        alpha_bar = self.alpha_bar[k].unsqueeze(-1)
        u = alpha_bar.sqrt() * self.target(batch.obs, batch.next_obs) + (1 - alpha_bar).sqrt() * epsilon
        predicted = self.predict_noise(u, k, self.condition(batch.obs, batch.action), net=self.net)
        error = (predicted - epsilon).square()  # (S, B, obs_dim)
        if self.learns_variance:
            self._remember(noise["k"], error.detach())
        return error.mean((-2, -1)), {}

    def _remember(self, k: Tensor, error: Tensor) -> None:  # (S, B) from 0, (S, B, obs_dim)
        """Move every step's average squared error towards that of its rows, by their number."""
        steps = torch.arange(self.steps, device=k.device).unsqueeze(-1)
        of_step = (k.unsqueeze(-2) == steps).to(error.dtype)  # (S, T, B); a product, so that its order is fixed
        count = of_step.sum(-1, keepdim=True)
        mean = of_step @ error / count.clamp_min(1)
        self.misfit.lerp_(mean, 1 - (1 - 1 / REMEMBERED_ROWS) ** count)

    # -------------------------------------------------------------------------------- sampling

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Shape of a transition's noise bundle: (K, obs_dim), u_K, z_K, …, z_2; with a learnt variance also z_1."""
        return (self.config.denoising_steps + self.learns_variance, self.obs_dim)

    def sample(self, obs: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """Return s' (S, B, obs_dim) from noise (S, B, *noise_shape); DDIM uses the first of the K only."""
        condition = self.condition(obs, action)
        u = noise[..., 0, :]
        for k in range(self.config.denoising_steps, 0, -1):
            epsilon = self.predict_noise(u, self.visited[k], condition)
            last = k == 1 and not self.learns_variance  # σ_1 = 0
            z = None if last else noise[..., self.config.denoising_steps - k + 1, :]
            u = self.ddim_step(u, epsilon, k) if self.config.sampler == "ddim" else self.ddpm_step(u, epsilon, k, z)
        return self.next_obs(obs, u)

    def ddpm_step(self, u: Tensor, epsilon: Tensor, k: int, z: Tensor | None) -> Tensor:
        """u_{k−1} = (u − (1 − α_k) / √(1 − ᾱ_k) · ε) / √α_k + σ_k z, between two visited steps.

        The learnt σ_k² is β̃_k + (√ᾱ_{k−1} (1 − α_k) / (1 − ᾱ_k))² Var[x | u_k], with the variance (1 − ᾱ_k) / ᾱ_k ·
        E (ε − ε_θ)².
        """
        now, before = self.schedule[k], self.schedule[k - 1]
        alpha = now / before
        mean = torch.add(u, epsilon, alpha=-(1 - alpha) / math.sqrt(1 - now)) / math.sqrt(alpha)
        if z is None:
            return mean
        if self.config.variance == "beta":
            return torch.add(mean, z, alpha=math.sqrt(1 - alpha))
        posterior = (1 - alpha) * (1 - before) / (1 - now)
        if self.config.variance == "posterior":
            return torch.add(mean, z, alpha=math.sqrt(posterior))
        unknown = self.misfit[:, self.visited[k] - 1].unsqueeze(-2) * ((1 - now) / now)  # (S, 1, obs_dim)
        share = before * ((1 - alpha) / (1 - now)) ** 2
        return torch.addcmul(mean, z, (posterior + share * unknown).sqrt())

    def ddim_step(self, u: Tensor, epsilon: Tensor, k: int) -> Tensor:
        """u_{k−1} = √ᾱ_{k−1} x̂ + √(1 − ᾱ_{k−1}) ε, x̂ = (u − √(1 − ᾱ_k) ε) / √ᾱ_k."""
        now, before = self.schedule[k], self.schedule[k - 1]
        x = (u - math.sqrt(1 - now) * epsilon) / math.sqrt(now)
        return math.sqrt(before) * x + math.sqrt(1 - before) * epsilon


def _step_features(steps: int) -> Tensor:
    # (T + 1, STEP_FEATURES): sines and cosines of k/T at octave frequencies
    t = torch.arange(steps + 1, dtype=torch.float64).unsqueeze(-1) / steps
    angles = math.pi * t * 2.0 ** torch.arange(STEP_FEATURES // 2, dtype=torch.float64) / 2
    return torch.cat([angles.sin(), angles.cos()], -1)
