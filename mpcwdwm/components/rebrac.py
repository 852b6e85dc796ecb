"""ReBRAC (arXiv 2305.09836): TD3 with behaviour cloning in the actor and in the critic.

As in the authors' code, where re-implementations differ: one critic update per step; actor and targets every
`policy_freq`-th step, the actor's target moving towards the actor *before* its update, the critic's towards the
critic *after* it. Compared with ten of the authors' updates in `tests/mpcwdwm/components/test_oracles.py`.
"""

import copy
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from mpcwdwm.components.actor_critic import Actor, Critic
from mpcwdwm.components.component import ActorComponent, Batch, CriticComponent, CriticConfig, polyak_update
from mpcwdwm.config import Flag, Int, Real, setting
from mpcwdwm.data import Dataset
from mpcwdwm.nn.networks import uniform_init
from mpcwdwm.random import Normal

__all__ = ["Rebrac", "RebracConfig"]


class RebracConfig(CriticConfig):
    """Hyper-parameters of ReBRAC; "paper" is the ReBRAC paper's locomotion setting."""

    batch_size: Int = setting(1024, "transitions per update", unit="rows", paper=1024, ge=1, le=10**6)
    hidden_layers: Int = setting(3, "hidden layers of actor and critic", unit="layers", paper=3, ge=1, le=32)
    actor_lr: Real = setting(1e-3, "Adam step size of the actor", paper=1e-3, gt=0)
    critic_lr: Real = setting(1e-3, "Adam step size of the critics", paper=1e-3, gt=0)
    actor_bc_coef: Real = setting(
        0.4, "β1: behaviour cloning in the actor loss", paper="per dataset, 1e-3 to 0.1", ge=0
    )
    critic_bc_coef: Real = setting(
        0.01,
        "β2: behaviour penalty in the critic target; depends on the unit of rewards",
        unit="return",
        paper="per dataset, 0 to 0.5",
        ge=0,
    )
    policy_noise: Real = setting(0.2, "std of the target action's noise", unit="action", paper=0.2, ge=0)
    noise_clip: Real = setting(0.5, "bound of that noise", unit="action", paper=0.5, ge=0)
    policy_freq: Int = setting(2, "critic updates per actor update", unit="updates", paper=2, ge=1)
    normalize_q: Flag = setting(True, "divide Q by its batch mean |Q| in the actor loss", paper=True)
    normalize_obs: Flag = setting(True, "standardise observations", paper=False)


# ----------------------------------------------------------------------------------------- ReBRAC


class Rebrac(ActorComponent, CriticComponent):
    """S stacked ReBRAC learners."""

    config_class = RebracConfig
    config: RebracConfig
    actor: Actor
    critic: Critic
    rows = "next_action"
    compile_pays = MappingProxyType({"cpu": 20_000, "cuda": 100_000})  # it saves 2 to 10 ms an update, and 0.4 ms

    def build(self, dtype: torch.dtype) -> None:
        """Make policy, critics and their targets."""
        super().build(dtype)
        self.period = self.config.policy_freq  # the actor waits for so many critic updates
        hidden = [self.config.hidden_dim] * self.config.hidden_layers
        self.actor = Actor(self.stack, self.obs_dim, self.act_dim, hidden, dtype)
        self.critic = Critic(self.stack, self.obs_dim, self.act_dim, hidden, dtype, layer_norm=True)
        self.initialize(self.actor.net, "rebrac/actor", uniform_init(bias=0.1), uniform_init(1e-3))
        self.initialize(self.critic.net, "rebrac/critic", uniform_init(bias=0.1), uniform_init(3e-3))
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.optimizers = {
            "actor": torch.optim.Adam(self.actor.parameters(), lr=self.config.actor_lr, fused=True),
            "critic": torch.optim.Adam(self.critic.parameters(), lr=self.config.critic_lr, fused=True),
        }

    def fit(self, member: int, dataset: Dataset, rows: Tensor) -> None:
        """Standardise observations over the member's rows, if configured."""
        if self.config.normalize_obs:
            obs = torch.from_numpy(dataset.obs)[rows]
            for net in (self.actor, self.target_actor, self.critic, self.target_critic):
                net.normalizer.fit(member, obs)

    def noise(self, batch_size: int) -> Mapping[str, Normal]:
        """Target policy smoothing needs one normal per action dimension."""
        return {"target_action": Normal((batch_size, self.act_dim))}

    def advance(self, batch: Batch, noise: Mapping[str, Tensor], phase: int) -> dict[str, Tensor]:
        """One critic update; on every `policy_freq`-th step also actor and targets."""
        metrics = self.critic_step(batch, noise["target_action"])
        if phase == 0:
            metrics |= self.actor_and_target_step(batch)
        return metrics

    def critic_step(self, batch: Batch, noise: Tensor) -> dict[str, Tensor]:
        """Regress both critics onto r + γ (1 − d) (min Q'(s', a') − β2 ‖a' − a'_data‖²), a' the noisy target action."""
        return self.regress(batch, self.target(batch, self.next_value(batch, noise)))

    @torch.no_grad()
    def next_value(self, batch: Batch, noise: Tensor) -> Tensor:
        """Return min Q'(s', a') − β2 ‖a' − a'_data‖², (S, B)."""
        c = self.config
        noise = (noise * c.policy_noise).clamp(-c.noise_clip, c.noise_clip)
        next_action = (self.target_actor(batch.next_obs) + noise).clamp(-1, 1)
        penalty = (next_action - batch.next_action).square().sum(-1)
        q: Tensor = self.target_critic(batch.next_obs, next_action)  # (S, 2, B)
        return q.amin(1) - c.critic_bc_coef * penalty

    def actor_and_target_step(self, batch: Batch) -> dict[str, Tensor]:
        """Update the actor on the new critic, and both targets."""
        # The actor's target follows the pre-step actor, so it moves before the actor does.
        polyak_update(self.target_actor.parameters(), self.actor.parameters(), self.config.polyak)
        metrics = self.actor_step(batch)
        polyak_update(self.target_critic.parameters(), self.critic.parameters(), self.config.polyak)
        return metrics

    def actor_step(self, batch: Batch) -> dict[str, Tensor]:
        """β1 ‖π(s) − a‖² − Q(s, π(s)) / mean|Q|, the normaliser without gradient, per member."""
        action = self.actor(batch.obs)
        bc = (action - batch.action).square().sum(-1)  # (S, B)
        q = self.critic(batch.obs, action).amin(1)  # (S, B)
        scale = 1 / q.detach().abs().mean(-1, keepdim=True) if self.config.normalize_q else 1.0
        loss = (self.config.actor_bc_coef * bc - scale * q).mean(-1)  # (S,)
        self.descend("actor", loss.sum())
        return {"actor/loss": loss.detach(), "actor/bc": bc.detach().mean(-1)}
