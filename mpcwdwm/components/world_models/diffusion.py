"""The diffusion world model: a conditional DDPM on the next observation, few steps, differentiable.

It is trained by noise prediction. With the noise held fixed, a sample is a deterministic, differentiable function of
(s, a): autograd through the loop gives the paper's Jacobian recursions (`docs/algorithm.md`). The schedule ends with
ᾱ below 0.01 whatever its number of steps, because sampling starts from a standard normal.
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
    variance: Literal["posterior", "beta"] = setting("posterior", "σ_k² of ancestral sampling")

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
        return (predicted - epsilon).square().mean((-2, -1)), {}

    # -------------------------------------------------------------------------------- sampling

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Shape of one transition's noise bundle: (K, obs_dim), ordered z_K, …, z_1."""
        return (self.config.denoising_steps, self.obs_dim)

    def sample(self, obs: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """Return s' (S, B, obs_dim) from noise (S, B, K, obs_dim); DDIM uses the first of the K only."""
        condition = self.condition(obs, action)
        u = noise[..., 0, :]
        for k in range(self.config.denoising_steps, 0, -1):
            epsilon = self.predict_noise(u, self.visited[k], condition)
            z = noise[..., self.config.denoising_steps - k + 1, :] if k > 1 else None  # σ_1 = 0
            u = self.ddim_step(u, epsilon, k) if self.config.sampler == "ddim" else self.ddpm_step(u, epsilon, k, z)
        return self.next_obs(obs, u)

    def ddpm_step(self, u: Tensor, epsilon: Tensor, k: int, z: Tensor | None) -> Tensor:
        """u_{k−1} = (u − (1 − α_k) / √(1 − ᾱ_k) · ε) / √α_k + σ_k z, between two visited steps."""
        now, before = self.schedule[k], self.schedule[k - 1]
        alpha = now / before
        mean = torch.add(u, epsilon, alpha=-(1 - alpha) / math.sqrt(1 - now)) / math.sqrt(alpha)
        if z is None:
            return mean
        variance = 1 - alpha
        if self.config.variance == "posterior":
            variance *= (1 - before) / (1 - now)
        return torch.add(mean, z, alpha=math.sqrt(variance))

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
