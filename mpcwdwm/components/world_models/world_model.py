"""World models: conditional models of the next observation, sampled from given noise.

`sample(obs, action, noise)`, which planners call, is deterministic and differentiable. The kinds (`diffusion.py`,
`flow.py`, `meanflow.py`, `mlp.py`) differ in their `loss` and `sample`; standardisation, averaged weights and the
metrics on held-out episodes are common to all.
"""

import copy
from collections.abc import Mapping
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from mpcwdwm.components.component import Batch, ComponentConfig, DynamicsComponent, ModelConfig, polyak_update
from mpcwdwm.config import Flag, Int, Real, setting
from mpcwdwm.data import Dataset
from mpcwdwm.imagination import unroll
from mpcwdwm.nn.networks import Mlp, Normalizer, uniform_init
from mpcwdwm.random import Normal

__all__ = ["Disagreeing", "WorldModel", "WorldModelConfig"]


@runtime_checkable
class Disagreeing(Protocol):
    """A model that estimates its own error."""

    def disagreement(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return how far its networks lie apart, in standard deviations of the state: (…, B)."""
        ...


class WorldModelConfig(ModelConfig):
    """Fields every kind has. The paper's network, its training and its target are unknown."""

    kind: str
    batch_size: Int = setting(1024, "transitions per update", unit="rows", ge=1, le=10**6)
    hidden_layers: Int = setting(3, "hidden layers of the network", unit="layers", ge=1, le=32)
    predict: Literal["delta", "state"] = setting("delta", "what is generated: s' − s, or s'", paper="unknown")
    normalize_obs: Flag = setting(True, "standardise observations and the target")
    ema: Real = setting(
        0.0, "decay of the running average of the weights, which then is what samples; 0: none", ge=0, lt=1
    )


class WorldModel(DynamicsComponent):
    """S stacked models of p(s' | s, a). Subclasses define `build`, `loss`, `noise_shape` and `sample`."""

    config_class: ClassVar[type[ComponentConfig]] = WorldModelConfig
    config: WorldModelConfig
    rows = "next_obs"

    def build_net(self, inputs: int, outputs: int, dtype: torch.dtype, *, ensemble: tuple[int, ...] = ()) -> None:
        """Make a network of these widths, with further stack dimensions, its average, normalisers and optimizer."""
        config = self.config
        self.normalizer = Normalizer(self.stack, self.obs_dim, dtype)
        self.target_normalizer = Normalizer(self.stack, self.obs_dim, dtype)
        hidden, stack = [config.hidden_dim] * config.hidden_layers, (*self.stack, *ensemble)
        self.net = Mlp(stack, inputs, hidden, outputs, activation=torch.nn.functional.silu, dtype=dtype)
        self.initialize(self.net, "world_model", uniform_init(), uniform_init())
        self.averaged = copy.deepcopy(self.net).requires_grad_(False) if config.ema else None
        self.optimizers = {"net": torch.optim.Adam(self.net.parameters(), lr=config.lr, fused=True)}

    @property
    def sampling_net(self) -> Mlp:
        """Return the network that samples: the average, where there is one."""
        return self.net if self.averaged is None else self.averaged

    def fit(self, member: int, dataset: Dataset, rows: Tensor) -> None:
        """Standardise observations and the generated quantity over the member's rows."""
        if self.config.normalize_obs:
            obs, next_obs = torch.from_numpy(dataset.obs)[rows], torch.from_numpy(dataset.next_obs)[rows]
            self.normalizer.fit(member, obs)
            self.target_normalizer.fit(member, next_obs - obs if self.config.predict == "delta" else next_obs)

    # -------------------------------------------------------------------------------- training

    def loss(self, batch: Batch, noise: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return each member's loss (S,), and further metrics (S,)."""
        raise TypeError(f"{type(self).__name__} defines no loss")

    def advance(self, batch: Batch, noise: Mapping[str, Tensor], phase: int) -> dict[str, Tensor]:
        """One step on the loss; the average of the weights follows."""
        loss, metrics = self.loss(batch, noise)
        self.descend("net", loss.sum())
        if self.averaged is not None:
            polyak_update(self.averaged.parameters(), self.net.parameters(), 1 - self.config.ema)
        return {"world_model/loss": loss.detach(), **metrics}

    def target(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """Return x, the standardised quantity that is generated."""
        return self.target_normalizer(next_obs - obs if self.config.predict == "delta" else next_obs)

    def condition(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the standardised observation beside the raw action."""
        return torch.cat([self.normalizer(obs), action], -1)

    # -------------------------------------------------------------------------------- sampling

    def sample(self, obs: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """Return s' = f(s, a, noise), deterministic and differentiable.

        Args:
            obs: (S, B, obs_dim).
            action: (S, B, act_dim).
            noise: (S, B, *noise_shape), standard normal.
        """
        raise TypeError(f"{type(self).__name__} defines no sampler")

    def next_obs(self, obs: Tensor, x: Tensor) -> Tensor:
        """Return the observation of x: the inverse of `target`."""
        generated = self.target_normalizer.inverse(x)
        return obs + generated if self.config.predict == "delta" else generated

    # ----------------------------------------------------------------------- held-out episodes

    def heldout_noise(self, batch_size: int) -> Mapping[str, Normal]:
        """One noise bundle per held-out row."""
        return {"bundle": Normal((batch_size, *self.noise_shape))}

    @torch.no_grad()
    def heldout(self, batch: Batch, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One-step RMSE over standardised dimensions, and that of predicting no change."""
        predicted = self.sample(batch.obs, batch.action, noise["bundle"])
        return {
            "heldout/rmse": self.rmse(predicted, batch.next_obs),
            "heldout/rmse_no_change": self.rmse(batch.obs, batch.next_obs),
        }

    @torch.no_grad()
    def open_loop(self, obs: Tensor, action: Tensor, reached: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """RMSE of the state after H recorded actions, each step predicted from the last prediction."""
        rolled = unroll(obs, len(action), lambda j, _: action[j], lambda j, s, a: self.sample(s, a, noise[j]))
        name = f"heldout/rmse_{len(action)}_steps"
        return {name: self.rmse(rolled.obs[-1], reached), f"{name}_no_change": self.rmse(obs, reached)}

    def rmse(self, predicted: Tensor, actual: Tensor) -> Tensor:  # (S, B, obs_dim) → (S,)
        """Return the root mean square of the error, every dimension in its standard deviations."""
        return ((predicted - actual) / self.normalizer.std).square().mean((-2, -1)).sqrt()
