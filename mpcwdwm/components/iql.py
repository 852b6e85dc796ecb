"""IQL (arXiv 2110.06169): expectile value regression and advantage-weighted cloning.

In the order of the authors' code: value from the target critic, actor and critic from the *new* value, then the target
critic. Compared with ten of the authors' updates in `tests/mpcwdwm/components/test_oracles.py`.
"""

import copy
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from mpcwdwm.components.actor_critic import Actor, Critic, StateValue
from mpcwdwm.components.component import ActorComponent, Batch, CriticComponent, CriticConfig, polyak_update
from mpcwdwm.config import Flag, Int, Real, setting
from mpcwdwm.data import Dataset
from mpcwdwm.nn.networks import orthogonal_init

__all__ = ["Iql", "IqlConfig", "expectile_loss"]

LOG_STD_RANGE = (-5.0, 2.0)  # the authors' bounds of the policy's log standard deviation
MAX_ADVANTAGE_WEIGHT = 100.0  # the authors' bound of exp(temperature · advantage)
RETURN_RANGE = 1000.0  # normalised rewards: the spread of trajectory returns becomes this


class IqlConfig(CriticConfig):
    """Hyper-parameters of IQL; "paper" is the IQL paper's locomotion setting."""

    batch_size: Int = setting(256, "transitions per update", unit="rows", paper=256, ge=1, le=10**6)
    hidden_layers: Int = setting(2, "hidden layers of all networks", unit="layers", paper=2, ge=1, le=32)
    actor_lr: Real = setting(3e-4, "Adam step size of the actor, cosine to 0", paper=3e-4, gt=0)
    critic_lr: Real = setting(3e-4, "Adam step size of the critics", paper=3e-4, gt=0)
    value_lr: Real = setting(3e-4, "Adam step size of the value", paper=3e-4, gt=0)
    expectile: Real = setting(0.7, "expectile of the value regression", paper="0.7; 0.9 on AntMaze", gt=0, lt=1)
    temperature: Real = setting(
        3.0,
        "inverse temperature of the weights; depends on the unit of rewards",
        unit="per return",
        paper="3; 10 on AntMaze",
        ge=0,
    )
    deterministic: Flag = setting(False, "clone with squared error instead of a Gaussian", paper=False)
    normalize_obs: Flag = setting(True, "standardise observations (CORL's convention)", paper=False)
    normalize_reward: Flag = setting(False, "scale rewards to a return spread of 1000 (authors')", paper=True)

    @property
    def scales_rewards(self) -> bool:
        """By the spread of returns, if configured."""
        return self.normalize_reward

    @model_validator(mode="after")
    def _one_convention(self) -> Self:
        if self.normalize_obs and self.normalize_reward:
            raise ValueError("normalize_obs (CORL's convention) and normalize_reward (the authors') exclude each other")
        return self


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """|τ − 1(u < 0)| u², elementwise."""
    return torch.where(difference > 0, expectile, 1 - expectile) * difference.square()


# -------------------------------------------------------------------------------------------- IQL


class Iql(ActorComponent, CriticComponent):
    """S stacked IQL learners. The policy acts with its tanh mean."""

    config_class = IqlConfig
    config: IqlConfig
    actor: Actor
    critic: Critic
    rows = "next_value"
    compile_pays = MappingProxyType({"cuda": 200_000})  # it saves 0.15 ms an update

    def build(self, dtype: torch.dtype) -> None:
        """Make policy, value, critics and their target."""
        super().build(dtype)
        config, dims = self.config, (self.obs_dim, self.act_dim)
        hidden = [config.hidden_dim] * config.hidden_layers
        self.actor = Actor(self.stack, *dims, hidden, dtype)
        self.log_std = nn.Parameter(torch.zeros(*self.stack, 1, self.act_dim, dtype=dtype))
        self.value = StateValue(self.stack, self.obs_dim, hidden, dtype)
        self.critic = Critic(self.stack, *dims, hidden, dtype, layer_norm=False)
        for name, net in {"actor": self.actor.net, "value": self.value.net, "critic": self.critic.net}.items():
            self.initialize(net, f"iql/{name}", orthogonal_init(), orthogonal_init())
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.optimizers = {
            "actor": torch.optim.Adam([*self.actor.parameters(), self.log_std], lr=config.actor_lr, fused=True),
            "critic": torch.optim.Adam(self.critic.parameters(), lr=config.critic_lr, fused=True),
            "value": torch.optim.Adam(self.value.parameters(), lr=config.value_lr, fused=True),
        }

    def fit(self, member: int, dataset: Dataset, rows: Tensor) -> None:
        """Standardise observations, or scale rewards by the spread of trajectory returns."""
        if self.config.normalize_obs:
            obs = torch.from_numpy(dataset.obs)[rows]
            for net in (self.actor, self.value, self.critic, self.target_critic):
                net.normalizer.fit(member, obs)
        if self.config.normalize_reward:
            spread = float(dataset.returns.max() - dataset.returns.min())
            self.reward_affine[member, 0] *= RETURN_RANGE / spread if spread > 0 else 1.0

    def learning_rates(self, step: int) -> Mapping[str, float]:
        """The actor's falls to 0 along half a cosine."""
        return {"actor": self.config.actor_lr * 0.5 * (1 + math.cos(math.pi * step / self.config.steps))}

    def advance(self, batch: Batch, noise: Mapping[str, Tensor], phase: int) -> dict[str, Tensor]:
        """Value, actor, critic, target critic: the authors' order."""
        with torch.no_grad():
            q = self.target_critic(batch.obs, batch.action).amin(1)  # (S, B)
        metrics = self.value_step(batch, q)
        metrics |= self.actor_step(batch, q)
        metrics |= self.critic_step(batch)
        polyak_update(self.target_critic.parameters(), self.critic.parameters(), self.config.polyak)
        return metrics

    def value_step(self, batch: Batch, q: Tensor) -> dict[str, Tensor]:
        """Expectile regression of V(s) onto the target critics' minimum."""
        v = self.value(batch.obs)
        loss = expectile_loss(q - v, self.config.expectile).mean(-1)
        self.descend("value", loss.sum())
        return {"value/loss": loss.detach(), "value/mean": v.detach().mean(-1)}

    def actor_step(self, batch: Batch, q: Tensor) -> dict[str, Tensor]:
        """Cloning weighted by min(exp(temperature · (Q − V)), 100), with the new V."""
        with torch.no_grad():
            advantage = q - self.value(batch.obs)
            weight = (self.config.temperature * advantage).exp().clamp(max=MAX_ADVANTAGE_WEIGHT)
        mean = self.actor(batch.obs)
        if self.config.deterministic:
            misfit = (mean - batch.action).square().sum(-1)
        else:
            log_std = self.log_std.clamp(*LOG_STD_RANGE)
            z = (batch.action - mean) / log_std.exp()
            misfit = (0.5 * z.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)  # −log π(a|s)
            # a policy whose log_std has left the range gets no gradient for it, as in the authors' code
        loss = (weight * misfit).mean(-1) + (0.0 * self.log_std).sum((1, 2))
        self.descend("actor", loss.sum())
        return {"actor/loss": loss.detach(), "actor/weight": weight.mean(-1)}

    def critic_step(self, batch: Batch) -> dict[str, Tensor]:
        """Regress both critics onto r + γ (1 − d) V(s'), with the new V."""
        with torch.no_grad():
            next_value = self.value(batch.next_obs)
        return self.regress(batch, self.target(batch, next_value))
