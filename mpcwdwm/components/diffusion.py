"""The diffusion world model: a conditional DDPM on the next observation, few steps, differentiable.

Training is plain noise prediction. Sampling with the noise held fixed is a deterministic function
of (s, a), differentiable in both: autograd through the loop gives the Jacobian recursions of the
paper (`docs/algorithm.md`). The schedule keeps ᾱ_K below 0.01 whatever K is, because sampling
starts from a standard normal.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from mpcwdwm.components.component import Batch, Component, ModelConfig
from mpcwdwm.config import Flag, Int, setting
from mpcwdwm.data import Dataset
from mpcwdwm.nets import Mlp, Normalizer, uniform_init
from mpcwdwm.random import Integers, Normal, generator

__all__ = ["DiffusionConfig", "DiffusionModel", "alpha_bars"]

BETA_RANGE = (0.1, 10.0)  # variance-preserving schedule: ᾱ_K = exp(−(0.1 + 10) / 2) = 0.0064 for every K
STEP_FEATURES = 16  # sinusoidal features of k/K


class DiffusionConfig(ModelConfig):
    """Hyper-parameters of the world model. The paper's K, schedule, network and target are unknown."""

    kind: Literal["diffusion"] = setting("diffusion", "kind of world model", paper="diffusion")
    batch_size: Int = setting(1024, "transitions per update", unit="rows", ge=1, le=10**6)
    hidden_layers: Int = setting(3, "hidden layers of the denoiser", unit="layers", ge=1, le=32)
    denoising_steps: Int = setting(5, "K, denoising steps in training and sampling", unit="steps", ge=1, le=1000)
    sampler: Literal["ddpm", "ddim"] = setting(
        "ddpm", "ancestral sampling with K noises held fixed, or DDIM from one noise", paper="ddpm"
    )
    variance: Literal["posterior", "beta"] = setting("posterior", "σ_k² of ancestral sampling")
    predict: Literal["delta", "state"] = setting("delta", "what is generated: s' − s, or s'", paper="unknown")
    normalize_obs: Flag = setting(True, "standardise observations and the target")


def alpha_bars(steps: int) -> Tensor:
    """Return ᾱ_0 = 1, …, ᾱ_K of the variance-preserving schedule, shape (K + 1,), float64."""
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    low, high = BETA_RANGE
    return torch.exp(-low * t - 0.5 * (high - low) * t.square())


class DiffusionModel(Component):
    """S stacked conditional diffusion models p(s' | s, a)."""

    config: DiffusionConfig
    rows = "next_obs"

    def __init__(
        self,
        config: DiffusionConfig,
        obs_dim: int,
        act_dim: int,
        seeds: Sequence[int],
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(config, obs_dim, act_dim, seeds, dtype)
        self.normalizer = Normalizer(self.stack, obs_dim, dtype)
        self.target_normalizer = Normalizer(self.stack, obs_dim, dtype)
        self.denoiser = Mlp(
            self.stack,
            2 * obs_dim + act_dim + STEP_FEATURES,
            [config.hidden_dim] * config.hidden_layers,
            obs_dim,
            activation=torch.nn.functional.silu,
            dtype=dtype,
        )
        self.alpha_bar: Tensor
        self.step_features: Tensor
        self.schedule: tuple[float, ...] = tuple(alpha_bars(config.denoising_steps).tolist())
        self.register_buffer("alpha_bar", alpha_bars(config.denoising_steps).to(dtype), persistent=False)
        self.register_buffer("step_features", _step_features(config.denoising_steps).to(dtype), persistent=False)
        for member, seed in enumerate(self.seeds):
            self.denoiser.initialize(member, generator(seed, "world_model"), uniform_init(), uniform_init())
        self.optimizers = {"net": torch.optim.Adam(self.denoiser.parameters(), lr=config.lr, fused=True)}

    def fit(self, member: int, dataset: Dataset, rows: Tensor) -> None:
        """Standardise observations and the generated quantity over the member's rows."""
        if self.config.normalize_obs:
            obs, next_obs = torch.from_numpy(dataset.obs)[rows], torch.from_numpy(dataset.next_obs)[rows]
            self.normalizer.fit(member, obs)
            self.target_normalizer.fit(member, next_obs - obs if self.config.predict == "delta" else next_obs)

    # -------------------------------------------------------------------------------- training

    def noise(self, batch_size: int) -> Mapping[str, Normal | Integers]:
        """A diffusion step and a normal vector per row."""
        return {
            "k": Integers(self.config.denoising_steps, (batch_size,)),
            "epsilon": Normal((batch_size, self.obs_dim)),
        }

    def predict_noise(self, u: Tensor, k: Tensor | int, condition: Tensor) -> Tensor:
        """Return ε_θ(u, k, (s, a)) for k in 1..K; u (S, B, obs_dim), condition (S, B, obs_dim + act_dim)."""
        features = self.step_features[k].expand(*u.shape[:-1], STEP_FEATURES)
        return self.denoiser(torch.cat([u, condition, features], -1))

    def advance(self, batch: Batch, noise: Mapping[str, Tensor], phase: int) -> dict[str, Tensor]:
        """One step on ‖ε − ε_θ(√ᾱ_k x + √(1 − ᾱ_k) ε, k, (s, a))‖², k uniform."""
        k, epsilon = noise["k"] + 1, noise["epsilon"]
        alpha_bar = self.alpha_bar[k].unsqueeze(-1)
        u = alpha_bar.sqrt() * self.target(batch.obs, batch.next_obs) + (1 - alpha_bar).sqrt() * epsilon
        predicted = self.predict_noise(u, k, self.condition(batch.obs, batch.action))
        loss = (predicted - epsilon).square().mean((-2, -1))  # (S,)
        self.descend("net", loss.sum())
        return {"world_model/loss": loss.detach()}

    def target(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """Return x, the standardised quantity the diffusion generates."""
        return self.target_normalizer(next_obs - obs if self.config.predict == "delta" else next_obs)

    def condition(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the standardised observation beside the raw action."""
        return torch.cat([self.normalizer(obs), action], -1)

    # -------------------------------------------------------------------------------- sampling

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Shape of one transition's noise bundle: (K, obs_dim), ordered z_K, …, z_1."""
        return (self.config.denoising_steps, self.obs_dim)

    def sample(self, obs: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """Return s' = f(s, a, noise), deterministic and differentiable.

        Args:
            obs: (S, B, obs_dim).
            action: (S, B, act_dim).
            noise: (S, B, K, obs_dim), standard normal; DDIM uses the first only.
        """
        condition = self.condition(obs, action)
        u = noise[..., 0, :]
        for k in range(self.config.denoising_steps, 0, -1):
            epsilon = self.predict_noise(u, k, condition)
            z = noise[..., self.config.denoising_steps - k + 1, :] if k > 1 else None  # σ_1 = 0
            u = self.ddim_step(u, epsilon, k) if self.config.sampler == "ddim" else self.ddpm_step(u, epsilon, k, z)
        x = self.target_normalizer.inverse(u)
        return obs + x if self.config.predict == "delta" else x

    def ddpm_step(self, u: Tensor, epsilon: Tensor, k: int, z: Tensor | None) -> Tensor:
        """u_{k−1} = (u − (1 − α_k) / √(1 − ᾱ_k) · ε) / √α_k + σ_k z."""
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

    def heldout_noise(self, batch_size: int) -> Mapping[str, Normal]:
        """One noise bundle per held-out row."""
        return {"bundle": Normal((batch_size, *self.noise_shape))}

    @torch.no_grad()
    def heldout(self, batch: Batch, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One-step RMSE over standardised dimensions, beside that of "the state does not change"."""
        predicted = self.sample(batch.obs, batch.action, noise["bundle"])
        scale = self.normalizer.std
        error = ((predicted - batch.next_obs) / scale).square().mean((-2, -1)).sqrt()
        still = ((batch.obs - batch.next_obs) / scale).square().mean((-2, -1)).sqrt()
        return {"heldout/rmse": error, "heldout/rmse_no_change": still}


def _step_features(steps: int) -> Tensor:
    # (K + 1, STEP_FEATURES): sines and cosines of k/K at octave frequencies
    t = torch.arange(steps + 1, dtype=torch.float64).unsqueeze(-1) / steps
    angles = math.pi * t * 2.0 ** torch.arange(STEP_FEATURES // 2, dtype=torch.float64) / 2
    return torch.cat([angles.sin(), angles.cos()], -1)
