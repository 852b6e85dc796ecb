"""ReBRAC (arXiv 2305.09836): TD3 with behaviour cloning in the actor and in the critic.

Follows the authors' code where it and other re-implementations differ: one critic update per step,
actor and targets every `policy_freq`-th; on those steps the actor's target moves towards the actor
as it was *before* the step, the critic's towards the critic *after* it. Verified against ten of
the authors' own updates (`tests/mpcwdwm/components/test_oracles.py`).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mpcwdwm.components.actor_critic import Actor, Critic
from mpcwdwm.components.component import ActorComponent, Batch, ComponentConfig, CriticComponent, polyak_update
from mpcwdwm.config import Flag, Int, Real, setting
from mpcwdwm.data import Dataset
from mpcwdwm.nn.networks import uniform_init
from mpcwdwm.random import Normal, generator

__all__ = ["Rebrac", "RebracConfig"]


class RebracConfig(ComponentConfig):
    """Hyper-parameters of ReBRAC; "paper" is the ReBRAC paper's locomotion setting."""

    batch_size: Int = setting(1024, "transitions per update", unit="rows", paper=1024, ge=1, le=10**6)
    hidden_layers: Int = setting(3, "hidden layers of actor and critic", unit="layers", paper=3, ge=1, le=32)
    actor_lr: Real = setting(1e-3, "Adam step size of the actor", paper=1e-3, gt=0)
    critic_lr: Real = setting(1e-3, "Adam step size of the critics", paper=1e-3, gt=0)
    discount: Real = setting(0.99, "discount γ", unit="per step", paper=0.99, ge=0, le=1)
    polyak: Real = setting(5e-3, "share of the network in each target update", paper=5e-3, gt=0, le=1)
    actor_bc_coef: Real = setting(
        0.4, "β1: behaviour cloning in the actor loss", paper="per dataset, 1e-3 to 0.1", ge=0
    )
    critic_bc_coef: Real = setting(
        0.01, "β2: behaviour penalty in the critic target", paper="per dataset, 0 to 0.5", ge=0
    )
    policy_noise: Real = setting(0.2, "std of the target action's noise", unit="action", paper=0.2, ge=0)
    noise_clip: Real = setting(0.5, "bound of that noise", unit="action", paper=0.5, ge=0)
    policy_freq: Int = setting(2, "critic updates per actor update", unit="updates", paper=2, ge=1)
    normalize_q: Flag = setting(True, "divide Q by its batch mean |Q| in the actor loss", paper=True)
    normalize_obs: Flag = setting(True, "standardise observations", paper=False)
    reward_scale: Real = setting(1.0, "rewards are multiplied by this", paper="1; 100 on AntMaze", gt=0)
    reward_shift: Real = setting(0.0, "then this is added", unit="reward", paper=0)


# ----------------------------------------------------------------------------------------- ReBRAC


class Rebrac(ActorComponent, CriticComponent):
    """S stacked ReBRAC learners."""

    config_class = RebracConfig
    config: RebracConfig
    actor: Actor
    critic: Critic
    rows = "next_action"
    compile_pays = True

    def __init__(
        self,
        config: RebracConfig,
        obs_dim: int,
        act_dim: int,
        seeds: Sequence[int],
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(config, obs_dim, act_dim, seeds, dtype)
        hidden = [config.hidden_dim] * config.hidden_layers
        self.actor, self.target_actor = (Actor(self.stack, obs_dim, act_dim, hidden, dtype) for _ in range(2))
        self.critic, self.target_critic = (
            Critic(self.stack, obs_dim, act_dim, hidden, dtype, layer_norm=True) for _ in range(2)
        )
        self.reward_affine: Tensor
        self.register_buffer(
            "reward_affine",
            torch.tensor([config.reward_scale, config.reward_shift], dtype=dtype).repeat(len(self.seeds), 1),
        )  # (S, 2): the critic's rewards are scale · r + shift
        for member, seed in enumerate(self.seeds):
            self.actor.net.initialize(
                member, generator(seed, "rebrac/actor"), uniform_init(bias=0.1), uniform_init(1e-3)
            )
            self.critic.net.initialize(
                member, generator(seed, "rebrac/critic"), uniform_init(bias=0.1), uniform_init(3e-3)
            )
        self.target_actor.load_state_dict(self.actor.state_dict())
        self.target_critic.load_state_dict(self.critic.state_dict())
        self.target_actor.requires_grad_(False)
        self.target_critic.requires_grad_(False)
        self.optimizers = {
            "actor": torch.optim.Adam(self.actor.parameters(), lr=config.actor_lr, fused=True),
            "critic": torch.optim.Adam(self.critic.parameters(), lr=config.critic_lr, fused=True),
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

    @property
    def period(self) -> int:
        """The actor waits for `policy_freq` critic updates."""
        return self.config.policy_freq

    def advance(self, batch: Batch, noise: Mapping[str, Tensor], phase: int) -> dict[str, Tensor]:
        """One critic update; on every `policy_freq`-th step also actor and targets."""
        metrics = self.critic_step(batch, noise["target_action"])
        if phase == 0:
            metrics |= self.actor_and_target_step(batch)
        return metrics

    def critic_step(self, batch: Batch, noise: Tensor) -> dict[str, Tensor]:
        """Regress both critics onto the behaviour-regularised target."""
        target = self.critic_target(batch, noise)
        q = self.critic(batch.obs, batch.action)  # (S, 2, B)
        loss = (q - target.unsqueeze(1)).square().mean(-1).sum(-1)  # (S,)
        self.descend("critic", loss.sum())
        return {"critic/loss": loss.detach(), "critic/q_mean": q.detach().mean((1, 2))}

    @torch.no_grad()
    def critic_target(self, batch: Batch, noise: Tensor) -> Tensor:
        """r + γ (1 − d) (min Q'(s', a') − β2 ‖a' − a'_data‖²), a' the noisy target action; (S, B)."""
        c = self.config
        noise = (noise * c.policy_noise).clamp(-c.noise_clip, c.noise_clip)
        next_action = (self.target_actor(batch.next_obs) + noise).clamp(-1, 1)
        penalty = (next_action - batch.next_action).square().sum(-1)
        next_q = self.target_critic(batch.next_obs, next_action).amin(1) - c.critic_bc_coef * penalty
        scale, shift = self.reward_affine.unbind(-1)
        reward = batch.reward * scale.unsqueeze(-1) + shift.unsqueeze(-1)
        return reward + c.discount * batch.mask * next_q

    def actor_and_target_step(self, batch: Batch) -> dict[str, Tensor]:
        """Update the actor on the new critic, and both targets."""
        # The actor's target follows the pre-step actor, so it moves before the actor does.
        polyak_update(list(self.target_actor.parameters()), list(self.actor.parameters()), self.config.polyak)
        metrics = self.actor_step(batch)
        polyak_update(list(self.target_critic.parameters()), list(self.critic.parameters()), self.config.polyak)
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
