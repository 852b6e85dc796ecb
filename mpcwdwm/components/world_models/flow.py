"""The flow world model: flow matching on the next observation, sampled by K Euler steps.

Noise e and data x are joined by straight lines z_t = (1 − t) x + t e; a network learns the mean
velocity E[e − x | z_t] (arXiv 2210.02747). Integrated from t = 1 to 0 it carries one noise vector to
one sample: a deterministic, differentiable function of (s, a).
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mpcwdwm.components.component import Batch
from mpcwdwm.components.world_models.world_model import WorldModel, WorldModelConfig
from mpcwdwm.config import Int, setting
from mpcwdwm.nn.networks import Mlp
from mpcwdwm.random import Normal

__all__ = ["TIME_FEATURES", "FlowConfig", "FlowModel", "time_feature_rates", "time_features"]

# Of the sines and cosines of t [rad per unit of time]: few and low, because MeanFlow differentiates them.
FREQUENCIES = (math.pi / 2, math.pi, 2 * math.pi)
TIME_FEATURES = 2 * len(FREQUENCIES) + 1


class FlowConfig(WorldModelConfig):
    """Hyper-parameters of the flow world model; the paper has none of this kind."""

    kind: Literal["flow"] = setting("flow", "kind of world model", paper="diffusion")
    denoising_steps: Int = setting(5, "K, Euler steps of a sample", unit="steps", ge=1, le=1000)


class FlowModel(WorldModel):
    """S stacked conditional flow-matching models p(s' | s, a)."""

    config_class = FlowConfig
    config: FlowConfig

    def build(self, dtype: torch.dtype) -> None:
        """Make the network."""
        self.build_net(2 * self.obs_dim + self.act_dim + TIME_FEATURES, self.obs_dim, dtype)

    def noise(self, batch_size: int) -> Mapping[str, Normal]:
        """A time, as a normal number, and a normal vector per row."""
        return {"time": Normal((batch_size, 1)), "epsilon": Normal((batch_size, self.obs_dim))}

    def loss(self, batch: Batch, noise: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """‖v_θ(z_t, t, (s, a)) − (e − x)‖², t uniform."""
        t = torch.special.ndtr(noise["time"])  # its distribution function makes a normal number uniform
        e, x = noise["epsilon"], self.target(batch.obs, batch.next_obs)
        condition = self.condition(batch.obs, batch.action)
        predicted = self.velocity(torch.lerp(x, e, t), t, condition, net=self.net)
        return (predicted - (e - x)).square().mean((-2, -1)), {}

    def velocity(self, z: Tensor, t: Tensor, condition: Tensor, *, net: Mlp | None = None) -> Tensor:
        """Return v_θ(z, t, (s, a)).

        Args:
            z: (S, B, obs_dim).
            t: (S, B, 1), or any shape that broadcasts to it.
            condition: (S, B, obs_dim + act_dim).
            net: by default the one that samples.
        """
        features = time_features(t).expand(*z.shape[:-1], TIME_FEATURES)
        return (net or self.sampling_net)(torch.cat([z, condition, features], -1))

    def sample(self, obs: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """Return s' (S, B, obs_dim): z ← z − v(z, t) / K for t = 1, 1 − 1/K, …, 1/K, from the noise."""
        condition, z, steps = self.condition(obs, action), noise, self.config.denoising_steps
        for k in range(steps, 0, -1):
            t = torch.full_like(noise[..., :1], k / steps)
            z = torch.add(z, self.velocity(z, t, condition), alpha=-1 / steps)
        return self.next_obs(obs, z)


def time_features(t: Tensor) -> Tensor:  # (…, 1) → (…, TIME_FEATURES)
    """Return t, and its sines and cosines at octave frequencies; the slowest makes a quarter turn from 0 to 1."""
    angles = [frequency * t for frequency in FREQUENCIES]
    return torch.cat([t, *(angle.sin() for angle in angles), *(angle.cos() for angle in angles)], -1)


def time_feature_rates(t: Tensor) -> Tensor:  # (…, 1) → (…, TIME_FEATURES)
    """Return the derivative of `time_features` by t."""
    rates = [frequency * (frequency * t).cos() for frequency in FREQUENCIES]
    rates += [-frequency * (frequency * t).sin() for frequency in FREQUENCIES]
    return torch.cat([torch.ones_like(t), *rates], -1)
