"""Diffuser's trained part (Janner et al., arXiv 2205.09991): a diffusion model of trajectories, and its guide.

A trajectory is a window of H rows (action, observation), standardised. The U-Net predicts the clean window x_0 from a
noisy one, x_t, whose first observation is always clean. The value network predicts from x_t the discounted return of
the rest of the episode. `mpcwdwm/planning/guided.py` samples from both. Defaults are the authors' for locomotion.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import field_validator, model_validator
from torch import Tensor

from mpcwdwm.components.component import Batch, Component, ModelConfig, fit_quality
from mpcwdwm.components.windows import Windows
from mpcwdwm.config import Flag, Int, Real, setting
from mpcwdwm.data import Dataset
from mpcwdwm.nn.networks import Normalizer, ScaleFreeNormalizer
from mpcwdwm.nn.temporal import TemporalUnet, TemporalValue, sinusoidal_features
from mpcwdwm.random import Integers, Normal, generator

__all__ = ["Diffuser", "DiffuserConfig", "cosine_alpha_bars"]

OFFSET = 0.008  # of the cosine schedule (Nichol and Dhariwal, arXiv 2102.09672)
MOST_BETA = 0.999
MANY = 2**40  # window numbers are drawn below this and taken modulo the number of windows: uneven by less than 1e-5
HELDOUT_WINDOWS = 512  # judged at a point of the learning curve


class DiffuserConfig(ModelConfig):
    """Hyper-parameters; "paper" is the authors' configuration for locomotion (halfcheetah: horizon 4, levels 1,4,8)."""

    steps: Int = setting(1_000_000, "updates of the denoiser", unit="updates", paper=1_000_000, ge=1, le=10**9)
    batch_size: Int = setting(64, "windows per update", unit="windows", paper="32, accumulated twice", ge=1, le=10**6)
    hidden_dim: Int = setting(32, "channels of the U-Net's first level", unit="channels", paper=32, ge=2, le=2**12)
    multipliers: str = setting(
        "1,2,4,8",
        "channels of every level over hidden_dim, as text",
        paper="1,2,4,8; halfcheetah: 1,4,8",
    )
    lr: Real = setting(2e-4, "Adam step size", paper=2e-4, gt=0)
    train_on: Literal["all", "train"] = setting("all", "episodes learnt from", paper="all")
    horizon: Int = setting(
        32, "rows of a trajectory", unit="steps", paper="32; halfcheetah: 4", alias="H", ge=1, le=1024
    )
    denoising_steps: Int = setting(20, "diffusion steps", unit="steps", paper=20, ge=1, le=1000)
    first_action_weight: Real = setting(10.0, "weight of the first action in the loss", paper=10, gt=0)
    discount: Real = setting(0.997, "discount γ of the value", unit="per step", paper=0.997, gt=0, le=1)
    terminal_penalty: Real = setting(100.0, "taken off a terminal row's reward", unit="reward", paper=100, ge=0)
    normalize_return: Flag = setting(
        False,
        "standardise the value's target, so that the unit of rewards has no influence on learning it",
        paper=False,
    )
    value_every: Int = setting(
        5, "updates of the denoiser per update of the value", unit="updates", paper="200k of 1M: 5", ge=1, le=100
    )
    ema: Real = setting(0.995, "decay of the running average of the weights, which samples", paper=0.995, ge=0, lt=1)
    ema_every: Int = setting(10, "updates between two steps of the average", unit="updates", paper=10, ge=1, le=100)
    ema_start: Int = setting(2000, "updates during which the average is the latest weights", paper=2000, ge=0)

    @property
    def levels(self) -> tuple[int, ...]:
        """The multipliers as numbers."""
        return tuple(int(part) for part in self.multipliers.split(","))

    @field_validator("multipliers")
    @classmethod
    def _numbers(cls, value: str) -> str:
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise ValueError(f"multipliers are whole numbers from 1 in one text, such as '1,2,4', not '{value}'")
        return ",".join(parts)

    @model_validator(mode="after")
    def _halved_evenly(self) -> "DiffuserConfig":
        smallest = 2 ** (len(self.levels) - 1)
        if self.horizon % smallest:
            raise ValueError(f"horizon {self.horizon} is not a multiple of {smallest}, for {len(self.levels)} levels")
        if self.hidden_dim % 2:
            raise ValueError(f"hidden_dim {self.hidden_dim} is odd: half of it are sines, half cosines")
        if self.hidden_dim * self.levels[-1] < 4:
            raise ValueError("the value network needs 4 channels or more in the last level: raise hidden_dim")
        return self


def cosine_alpha_bars(steps: int) -> Tensor:
    """Return ᾱ of steps 0 … T − 1 of the cosine schedule: (T,), float64; step 0 is the least noisy one."""
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    clean = torch.cos((t + OFFSET) / (1 + OFFSET) * math.pi / 2).square()
    beta = (1 - clean[1:] / clean[:-1]).clamp(0, MOST_BETA)
    return torch.cumprod(1 - beta, 0)


class Diffuser(Component):
    """S stacked denoisers with their value networks."""

    config_class = DiffuserConfig
    config: DiffuserConfig
    rows = "all"

    def build(self, dtype: torch.dtype) -> None:
        """Make both networks, their running averages, normalisers, and what the loss needs of the schedule."""
        c, width = self.config, self.act_dim + self.obs_dim
        self.normalizer = Normalizer(self.stack, width, dtype)
        self.return_normalizer = ScaleFreeNormalizer(self.stack, 1, dtype)
        self.net = TemporalUnet(self.stack, width, c.hidden_dim, c.levels, dtype)
        self.value_net = TemporalValue(self.stack, width, c.horizon, c.hidden_dim, c.levels, dtype)
        for member, seed in enumerate(self.seeds):
            self.net.initialize(member, generator(seed, "diffuser/net"))
            self.value_net.initialize(member, generator(seed, "diffuser/value"))
        self.averaged, self.averaged_value = (
            copy.deepcopy(net).requires_grad_(False) for net in (self.net, self.value_net)
        )
        self.optimizers = {
            name: torch.optim.Adam(net.parameters(), lr=c.lr, fused=True)
            for name, net in (("net", self.net), ("value", self.value_net))
        }
        self.period = math.lcm(c.value_every, c.ema_every)
        self.alpha_bar: Tensor
        self.features: Tensor
        self.known: Tensor
        self.weight: Tensor
        self.updates: Tensor
        known = torch.zeros(c.horizon, width, dtype=torch.bool)
        known[0, self.act_dim :] = True  # the first observation is given
        weight = torch.ones(c.horizon, width, dtype=dtype)
        weight[0, : self.act_dim] = c.first_action_weight
        self.register_buffer("alpha_bar", cosine_alpha_bars(c.denoising_steps).to(dtype), persistent=False)
        features = sinusoidal_features(c.denoising_steps, c.hidden_dim).to(dtype)
        self.register_buffer("features", features, persistent=False)
        self.register_buffer("known", known, persistent=False)
        self.register_buffer("weight", weight * ~known, persistent=False)
        self.register_buffer("updates", torch.zeros(self.stack, dtype=dtype))  # at which the average was moved last
        self._given: list[tuple[Dataset, Tensor]] = []

    def fit(self, member: int, dataset: Dataset, rows: Tensor) -> None:
        """Standardise actions, observations and, if configured, returns; keep the windows to learn from."""
        c = self.config
        self._given.append((dataset, rows))
        if len(self._given) < len(self.seeds):
            return
        datasets, starts = zip(*self._given, strict=True)
        dtype = self.normalizer.mean.dtype
        heldout = [torch.from_numpy(dataset.heldout.nonzero()[0]) for dataset in datasets]
        self.windows = Windows(datasets, starts, c.horizon, c.discount, c.terminal_penalty, dtype)
        self.judged = Windows(datasets, heldout, c.horizon, c.discount, c.terminal_penalty, dtype)
        for each, count in enumerate(self.windows.counts.flatten().tolist()):
            own = self.windows.starts[each, :count]
            self.normalizer.fit(each, self.windows.rows[own])
            if c.normalize_return:
                self.return_normalizer.fit(each, self.windows.returns[own].unsqueeze(-1))
        self._given.clear()

    # ---------------------------------------------------------------------------------- training

    def noise(self, batch_size: int) -> Mapping[str, Normal | Integers]:
        """A window, a diffusion step and a normal window per row."""
        c = self.config
        return {
            "window": Integers(MANY, (batch_size,)),
            "step": Integers(c.denoising_steps, (batch_size,)),
            "epsilon": Normal((batch_size, c.horizon, self.act_dim + self.obs_dim)),
        }

    def advance(self, batch: Batch, noise: Mapping[str, Tensor], phase: int) -> dict[str, Tensor]:
        """One step of the denoiser, in some phases one of the value and one of the averages."""
        c, step = self.config, noise["step"]
        windows, returns = self.windows(noise["window"])
        x = self.normalizer(windows.flatten(1, 2)).view_as(windows)
        noisy = self.noised(x, step, noise["epsilon"])
        error = (self.net(noisy, self.features[step]) - x).square()
        loss = (self.weight * error).mean((1, 2, 3))  # (S,)
        self.descend("net", loss.sum())
        metrics = {"diffuser/loss": loss.detach()}
        if phase % c.value_every == 0:
            target = self.return_normalizer(returns.unsqueeze(-1)).squeeze(-1)
            value_loss = (self.value_net(noisy, self.features[step]) - target).square().mean(-1)
            self.descend("value", value_loss.sum())
            metrics["diffuser/value_loss"] = value_loss.detach()
        if (phase + 1) % c.ema_every == 0:
            self._average()
        return metrics

    def noised(self, x: Tensor, step: Tensor, epsilon: Tensor) -> Tensor:  # (S, B, H, ·), (S, B) → (S, B, H, ·)
        """Return x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, its first observation clean."""
        alpha_bar = self.alpha_bar[step][..., None, None]
        return torch.where(self.known, x, alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * epsilon)

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averages; the value's as far per update of its own as the denoiser's."""
        c = self.config
        self.updates.add_(c.ema_every)
        early = self.updates <= c.ema_start  # (S,)
        for averaged, net, decay in (
            (self.averaged, self.net, c.ema),
            (self.averaged_value, self.value_net, c.ema ** (1 / c.value_every)),
        ):
            share = torch.full_like(self.updates, 1 - decay).masked_fill(early, 1)
            for target, source in zip(averaged.parameters(), net.parameters(), strict=True):
                target.lerp_(source, share.view(-1, *[1] * (source.dim() - 1)))

    # ---------------------------------------------------------------------------------- sampling

    @property
    def alpha_bars(self) -> Sequence[float]:
        """ᾱ of the diffusion steps, 0 … T − 1."""
        return cosine_alpha_bars(self.config.denoising_steps).tolist()

    @property
    def window(self) -> tuple[int, int]:
        """Shape of a window, (H, act_dim + obs_dim)."""
        return self.config.horizon, self.act_dim + self.obs_dim

    def denoise(self, x: Tensor, step: int) -> Tensor:  # (S, B, H, act_dim + obs_dim), both standardised
        """Return the averaged network's x̂_0(x_t)."""
        return self.averaged(x, self._feature(step))

    def value(self, x: Tensor, step: int) -> Tensor:  # (S, B, H, act_dim + obs_dim) → (S, B)
        """Return the value of x_t, in the data's unit of reward."""
        value = self.averaged_value(x, self._feature(step))
        return self.return_normalizer.inverse(value.unsqueeze(-1)).squeeze(-1)

    def condition(self, x: Tensor, obs: Tensor) -> Tensor:  # (S, B, H, act_dim + obs_dim), (S, B, obs_dim)
        """Return the windows with these first observations."""
        given = torch.cat([obs.new_zeros(*obs.shape[:-1], self.act_dim), obs], -1)
        return torch.where(self.known, self.normalizer(given).unsqueeze(2), x)

    def action(self, x: Tensor) -> Tensor:  # (S, B, H, act_dim + obs_dim) → (S, B, act_dim)
        """Return the first actions, in the environment's unit."""
        return self.normalizer.inverse(x[:, :, 0])[..., : self.act_dim]

    def _feature(self, step: int) -> Tensor:
        return self.features[step].expand(len(self.seeds), 1, -1)

    # --------------------------------------------------------------------------- held-out windows

    def heldout_noise(self, batch_size: int) -> Mapping[str, Normal]:
        """One normal window per judged one."""
        return {"epsilon": Normal((HELDOUT_WINDOWS, self.config.horizon, self.act_dim + self.obs_dim))}

    @torch.no_grad()
    def heldout(self, batch: Batch, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """RMSE of the denoised windows over all diffusion steps, in standard deviations, and the fit of the value."""
        number = torch.arange(HELDOUT_WINDOWS, device=self.updates.device).expand(len(self.seeds), -1)
        windows, returns = self.judged(number * self.judged.counts // HELDOUT_WINDOWS)
        x, step = self.normalizer(windows.flatten(1, 2)).view_as(windows), number % self.config.denoising_steps
        noisy = self.noised(x, step, noise["epsilon"])
        error = (self.averaged(noisy, self.features[step]) - x).square() * ~self.known
        fit = fit_quality(self.value(x, 0), returns)
        return {
            "heldout/rmse": (error.sum((1, 2, 3)) / (~self.known).sum() / HELDOUT_WINDOWS).sqrt(),
            "heldout/value_rmse": fit["heldout/rmse"],
            "heldout/value_r2": fit["heldout/r2"],
        }
