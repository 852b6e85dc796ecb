"""Behaviour cloning: the simplest baseline, and a check of the pipeline."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mpcwdwm.components.actor_critic import Actor
from mpcwdwm.components.component import ActorComponent, Batch, ComponentConfig
from mpcwdwm.config import Flag, Int, Real, setting
from mpcwdwm.data import Dataset
from mpcwdwm.nn.networks import uniform_init

__all__ = ["BcConfig", "BehaviorCloning"]


class BcConfig(ComponentConfig):
    """Hyper-parameters of behaviour cloning, after ReBRAC's actor."""

    steps: Int = setting(100_000, "gradient updates", unit="updates", ge=1, le=10**9)
    hidden_layers: Int = setting(3, "hidden layers", unit="layers", ge=1, le=32)
    lr: Real = setting(3e-4, "Adam step size", gt=0)
    normalize_obs: Flag = setting(True, "standardise observations")


class BehaviorCloning(ActorComponent):
    """S stacked deterministic policies fitted to the data's actions by squared error."""

    config_class = BcConfig
    config: BcConfig
    actor: Actor
    rows = "all"

    def build(self, dtype: torch.dtype) -> None:
        """Make the policy."""
        hidden = [self.config.hidden_dim] * self.config.hidden_layers
        self.actor = Actor(self.stack, self.obs_dim, self.act_dim, hidden, dtype)
        self.initialize(self.actor.net, "bc/actor", uniform_init(), uniform_init(1e-3))
        self.optimizers = {"actor": torch.optim.Adam(self.actor.parameters(), lr=self.config.lr, fused=True)}

    def fit(self, member: int, dataset: Dataset, rows: Tensor) -> None:
        """Standardise observations, if configured."""
        if self.config.normalize_obs:
            self.actor.normalizer.fit(member, torch.from_numpy(dataset.obs)[rows])

    def advance(self, batch: Batch, noise: Mapping[str, Tensor], phase: int) -> dict[str, Tensor]:
        """One step on ‖π(s) − a‖²."""
        loss = (self.actor(batch.obs) - batch.action).square().sum(-1).mean(-1)  # (S,)
        self.descend("actor", loss.sum())
        return {"actor/loss": loss.detach()}
