"""The MLP world model: an ensemble of regressions, deterministic or Gaussian (PETS, arXiv 1805.12114).

It predicts the next observation in one pass. The noise of a transition chooses the network and the Gaussian
sample, so `sample` is deterministic in (s, a). The networks' disagreement estimates the error.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mpcwdwm.components.component import Batch
from mpcwdwm.components.world_models.world_model import WorldModel, WorldModelConfig
from mpcwdwm.config import Flag, Int, setting
from mpcwdwm.errors import UserError

__all__ = ["MlpConfig", "MlpModel"]

TINY = 1e-12  # under a square root, whose slope at zero is infinite
# Of the log-variance in standardised units, PETS's initial ones: it cannot run away on noiseless data.
LOG_VARIANCE_BOUNDS = (-10.0, 0.5)


class MlpConfig(WorldModelConfig):
    """Hyper-parameters of the MLP world model; the paper has none of this kind."""

    kind: Literal["mlp"] = setting("mlp", "kind of world model", paper="diffusion")
    ensemble: Int = setting(5, "networks of the ensemble", unit="networks", ge=1, le=100)
    probabilistic: Flag = setting(True, "Gaussian with learnt variances; false: squared error, no noise")
    member: Literal["drawn", "mean"] = setting(
        "drawn", "what predicts a transition: one network, drawn by the noise, or the mean of all"
    )


class MlpModel(WorldModel):
    """S stacked ensembles of E networks: the ensemble is a second stack dimension."""

    config_class = MlpConfig
    config: MlpConfig

    def build(self, dtype: torch.dtype) -> None:
        """Make the networks."""
        outputs = 2 * self.obs_dim if self.config.probabilistic else self.obs_dim
        self.build_net(self.obs_dim + self.act_dim, outputs, dtype, ensemble=(self.config.ensemble,))

    def loss(self, batch: Batch, noise: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error, or the negative log-likelihood but for a constant; mean over the ensemble."""
        output = self.net(self.condition(batch.obs, batch.action).unsqueeze(-3))  # (S, E, B, ·)
        mean, log_variance = self.split(output)
        error = (mean - self.target(batch.obs, batch.next_obs).unsqueeze(-3)).square()
        if log_variance is not None:
            error = 0.5 * (error * (-log_variance).exp() + log_variance)
        return error.mean((-3, -2, -1)), {}

    def split(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the mean and, of a probabilistic model, the bounded log-variance; (S, E, B, obs_dim) each."""
        if not self.config.probabilistic:
            return output, None
        mean, raw = output.chunk(2, -1)
        low, high = LOG_VARIANCE_BOUNDS
        return mean, low + softplus(high - softplus(high - raw) - low)  # bounds that never stop the gradient

    # -------------------------------------------------------------------------------- sampling

    @property
    def noise_shape(self) -> tuple[int]:
        """Shape of one transition's noise: what draws the network, then what draws from its Gaussian."""
        return (1 + self.obs_dim,) if self.config.probabilistic else (1,)

    def sample(self, obs: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """Return s' (S, B, obs_dim) from noise (S, B, 1 + obs_dim), or (S, B, 1) if deterministic."""
        mean, log_variance = self.split(self.sampling_net(self.condition(obs, action).unsqueeze(-3)))
        x = self.reduced(mean, noise)
        if log_variance is not None:
            x = x + (0.5 * self.reduced(log_variance, noise)).exp() * noise[..., 1:]
        return self.next_obs(obs, x)

    def reduced(self, values: Tensor, noise: Tensor) -> Tensor:  # (S, E, B, n) → (S, B, n)
        """Return the drawn network's values on every row, or the mean of all networks'."""
        if self.config.member == "mean":
            return values.mean(-3)
        ensemble = self.config.ensemble
        uniform = torch.special.ndtr(noise[..., :1])  # (S, B, 1)
        drawn = (ensemble * uniform).long().clamp(max=ensemble - 1)
        return values.gather(-3, drawn.expand(*drawn.shape[:-1], values.shape[-1]).unsqueeze(-3)).squeeze(-3)

    def predict_members(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return every network's mean next observation, (S, E, B, obs_dim): their spread is their disagreement."""
        mean, _ = self.split(self.sampling_net(self.condition(obs, action).unsqueeze(-3)))
        members = [self.next_obs(obs, own) for own in mean.unbind(-3)]
        return torch.stack(members, -3)

    def disagreement(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return how far the networks' mean next states lie apart, in standard deviations of the state: (S, B).

        Raises:
            UserError: there is only one network.
        """
        if self.config.ensemble == 1:
            raise UserError(
                "disagreement: world_model needs several networks: world_model: {kind: mlp, ensemble: 5}, "
                "or disagreement: critics"
            )
        spread = (self.predict_members(obs, action) / self.normalizer.std.unsqueeze(-3)).var(-3, correction=0).mean(-1)
        return (spread + TINY).sqrt()
