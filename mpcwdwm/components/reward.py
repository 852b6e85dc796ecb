"""The reward model r(s, a): regression on standardised observations and raw actions."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mpcwdwm.components.component import Batch, Component, ModelConfig, fit_quality, third_party
from mpcwdwm.config import Flag, Int, Real, setting
from mpcwdwm.data import Dataset
from mpcwdwm.nn.networks import Mlp, Normalizer, ScaleFreeNormalizer, uniform_init

__all__ = ["Reward", "RewardConfig"]


class RewardConfig(ModelConfig):
    """Hyper-parameters of the reward model; the paper's v1 settings are unknown."""

    batch_size: Int = setting(2048, "transitions per update", unit="rows", paper=third_party(2048), ge=1)
    hidden_dim: Int = setting(512, "width of every hidden layer", unit="units", paper=third_party(512), ge=1)
    hidden_layers: Int = setting(3, "hidden layers", unit="layers", paper=third_party(3), ge=1, le=32)
    clip_norm: Real = setting(1.0, "bound of each member's gradient norm", paper=third_party(1.0), gt=0)
    normalize_obs: Flag = setting(True, "standardise observations", paper=third_party("true"))
    normalize_reward: Flag = setting(True, "regress on the standardised reward", paper="unknown")


class Reward(Component):
    """S stacked reward models."""

    config_class = RewardConfig
    config: RewardConfig
    rows = "all"

    def build(self, dtype: torch.dtype) -> None:
        """Make the network and its normalisers."""
        self.normalizer = Normalizer(self.stack, self.obs_dim, dtype)
        self.reward_normalizer = ScaleFreeNormalizer(self.stack, 1, dtype)
        hidden = [self.config.hidden_dim] * self.config.hidden_layers
        self.net = Mlp(self.stack, self.obs_dim + self.act_dim, hidden, 1, dtype=dtype)
        self.initialize(self.net, "reward", uniform_init(), uniform_init())
        self.optimizers = {"net": torch.optim.Adam(self.net.parameters(), lr=self.config.lr, fused=True)}

    def fit(self, member: int, dataset: Dataset, rows: Tensor) -> None:
        """Standardise observations and rewards over the member's rows, if configured."""
        if self.config.normalize_obs:
            self.normalizer.fit(member, torch.from_numpy(dataset.obs)[rows])
        if self.config.normalize_reward:
            self.reward_normalizer.fit(member, torch.from_numpy(dataset.reward)[rows].unsqueeze(-1))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:  # (S, B, ·) → (S, B)
        """Return the reward in the data's own unit."""
        standardised = self.net(torch.cat([self.normalizer(obs), action], -1))
        return self.reward_normalizer.inverse(standardised).squeeze(-1)

    def advance(self, batch: Batch, noise: Mapping[str, Tensor], phase: int) -> dict[str, Tensor]:
        """One step on the squared error of the standardised reward."""
        error = (self(batch.obs, batch.action) - batch.reward) / self.reward_normalizer.std.squeeze(-1)
        loss = error.square().mean(-1)
        self.descend("net", loss.sum(), clip=self.config.clip_norm)
        return {"reward/loss": loss.detach()}

    @torch.no_grad()
    def heldout(self, batch: Batch, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Root mean squared error in the reward's unit, and the share of variance explained."""
        return fit_quality(self(batch.obs, batch.action), batch.reward)
