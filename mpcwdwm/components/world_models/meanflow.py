"""The MeanFlow world model: one network evaluation per transition, as in the paper's v2.

With z_t = (1 − t) x + t e as in `flow.py`, a network learns the *average* velocity u(z, r, t) of the
flow between two times r ≤ t (arXiv 2505.13447). From (t − r) u = ∫ v dτ follows u = v − (t − r) du/dt,
so u is regressed on the right-hand side with its own derivative along the path, held constant. One
step then carries noise all the way: x = e − u(e, 0, 1).

With `tilt` > 0 transitions near the base policy's actions weigh more: w ∝ N(a; π(s), width² I)^tilt, of mean one
within a minibatch.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mpcwdwm.components.component import ActorComponent, Batch, Component, Context, third_party
from mpcwdwm.components.registry import PolicyName
from mpcwdwm.components.world_models.flow import TIME_FEATURES, time_feature_rates, time_features
from mpcwdwm.components.world_models.world_model import WorldModel, WorldModelConfig
from mpcwdwm.config import Real, setting
from mpcwdwm.random import Normal

__all__ = ["MeanFlowConfig", "MeanFlowModel", "average_velocity_target", "effective_share", "tilt_weights"]


class MeanFlowConfig(WorldModelConfig):
    """Hyper-parameters of the MeanFlow world model; what the paper uses for them is unknown."""

    kind: Literal["meanflow"] = setting("meanflow", "kind of world model", paper="meanflow (v2)")
    equal_times: Real = setting(
        0.25, "share of a batch with r = t, which is plain flow matching", paper="unknown (MeanFlow: 0.75)", ge=0, le=1
    )
    # Sampling goes from time 0 to time 1, so both ends have to be learnt; MeanFlow's images need them less.
    time_mean: Real = setting(0.0, "mean of the logit of a time", paper="unknown (MeanFlow: -0.4)")
    time_std: Real = setting(2.0, "standard deviation of the logit of a time", paper="unknown (MeanFlow: 1.0)", gt=0)
    tilt: Real = setting(0.0, "η: transitions count by the base policy's density to this power; 0: all alike", ge=0)
    tilt_width: Real = setting(
        0.2, "std of the Gaussian around the base policy's action", unit="action", paper=third_party(0.2), gt=0
    )
    tilt_base: PolicyName = setting("rebrac", "component whose policy tilts", paper="rebrac (v2)")

    @property
    def builds_on(self) -> tuple[str, ...]:
        """Return the component whose policy tilts, if any does."""
        return (self.tilt_base,) if self.tilt > 0 else ()


class MeanFlowModel(WorldModel):
    """S stacked conditional MeanFlow models p(s' | s, a)."""

    config_class = MeanFlowConfig
    config: MeanFlowConfig

    def build(self, dtype: torch.dtype) -> None:
        """Make the network."""
        self.build_net(2 * self.obs_dim + self.act_dim + 2 * TIME_FEATURES, self.obs_dim, dtype)
        self._base: tuple[ActorComponent, ...] = ()  # in a tuple, so that it is no part of this module's state

    def build_on(self, bases: Mapping[str, Component], context: Context) -> None:
        """Take the pretrained component whose policy tilts."""
        base = bases[self.config.tilt_base]
        assert isinstance(base, ActorComponent)
        self._base = (base,)

    # -------------------------------------------------------------------------------- training

    def noise(self, batch_size: int) -> Mapping[str, Normal]:
        """Two times, as normal numbers, and a normal vector per row."""
        return {"times": Normal((batch_size, 2)), "epsilon": Normal((batch_size, self.obs_dim))}

    def loss(self, batch: Batch, noise: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """‖u_θ(z_t, r, t, (s, a)) − target‖², rows weighted by the tilt."""
        r, t = self.times(noise["times"])
        e, x = noise["epsilon"], self.target(batch.obs, batch.next_obs)
        v = e - x
        u, du_dt = self.with_derivative(torch.lerp(x, e, t), v, r, t, self.condition(batch.obs, batch.action))
        error = (u - average_velocity_target(v, r, t, du_dt)).square().mean(-1)  # (S, B)
        if not self.config.tilt:
            return error.mean(-1), {}
        (base,) = self._base
        with torch.no_grad():
            policy_action = base.actor(batch.obs)
            weights = tilt_weights(batch.action, policy_action, self.config.tilt, self.config.tilt_width)
        return (weights * error).mean(-1), {"world_model/effective_share": effective_share(weights)}

    def with_derivative(self, z: Tensor, v: Tensor, r: Tensor, t: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return u(z, r, t, (s, a)) by the network that learns, and du/dt: (z, c, r, t) moves by (v, 0, 0, 1)."""
        along = torch.cat([v, torch.zeros_like(condition), time_feature_rates(t), time_feature_rates(t - r)], -1)
        return self.net.with_derivative(self.inputs(z, r, t, condition), along)

    def times(self, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Return r ≤ t, each (S, B, 1), from normal numbers (S, B, 2); equal in the first rows of the batch.

        Rows are drawn independently, so it does not matter which of them have equal times.
        """
        times = torch.sigmoid(self.config.time_mean + self.config.time_std * normal)
        t = times.amax(-1, keepdim=True)
        equal = round(self.config.equal_times * normal.shape[-2])
        return torch.cat([t[..., :equal, :], times.amin(-1, keepdim=True)[..., equal:, :]], -2), t

    def inputs(self, z: Tensor, r: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Return what the network sees: z (S, B, obs_dim), s and a, features of t and of t − r."""
        return torch.cat([z, condition, time_features(t), time_features(t - r)], -1)

    def average_velocity(self, z: Tensor, r: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Return u(z, r, t, (s, a)) by the network that samples; r and t (S, B, 1)."""
        return self.sampling_net(self.inputs(z, r, t, condition))

    # -------------------------------------------------------------------------------- sampling

    def sample(self, obs: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """Return s' (S, B, obs_dim): x = e − u(e, 0, 1)."""
        one = torch.ones_like(noise[..., :1])
        u = self.average_velocity(noise, torch.zeros_like(one), one, self.condition(obs, action))
        return self.next_obs(obs, noise - u)


def average_velocity_target(v: Tensor, r: Tensor, t: Tensor, du_dt: Tensor) -> Tensor:
    """Return v − (t − r) du/dt, which the average velocity between r and t equals."""
    return v - (t - r) * du_dt


def tilt_weights(action: Tensor, policy_action: Tensor, tilt: float, width: float) -> Tensor:
    """Return w ∝ N(a; π(s), width² I)^tilt over the rows of a batch, mean one.

    Args:
        action: a, (S, B, act_dim).
        policy_action: π(s), (S, B, act_dim).
        tilt: exponent.
        width: standard deviation in every dimension.

    Returns:
        (S, B).
    """
    log_density = -(action - policy_action).square().sum(-1) / (2 * width**2)  # up to a constant, which cancels
    return action.shape[-2] * torch.softmax(tilt * log_density, -1)


def effective_share(weights: Tensor) -> Tensor:  # (S, B) → (S,)
    """Return the effective sample size (Σw)² / Σw² as a share of the batch."""
    return weights.sum(-1).square() / weights.square().sum(-1) / weights.shape[-1]
