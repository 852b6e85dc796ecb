"""A policy trained offline in imagination, after MOPO (arXiv 2005.13239): the model-based baseline without planning.

Actor and critic learn from recorded transitions and from ones that the policy makes in the world model, in short
rollouts from recorded states. An imagined reward is reduced by λ times the spread of the model's networks, so that the
policy is not drawn to where the model is unknown. Here the learner is that of ReBRAC without its penalties (TD3) in
place of SAC, and every update rolls its own branches in place of a buffer of older ones: docs/deviations.md.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor

from mpcwdwm.components.component import Batch, Component, Context
from mpcwdwm.components.imagined_episodes import ended_in, worth_of_halted
from mpcwdwm.components.rebrac import Rebrac, RebracConfig
from mpcwdwm.components.world_models.world_model import Disagreeing, WorldModel
from mpcwdwm.config import Int, Real, setting
from mpcwdwm.data import Dataset
from mpcwdwm.errors import UserError
from mpcwdwm.imagination import WORST_STEPS
from mpcwdwm.nn.networks import Normalizer
from mpcwdwm.random import Normal

__all__ = ["Mopo", "MopoConfig"]


class MopoConfig(RebracConfig):
    """Hyper-parameters of training in imagination; "paper" is MOPO's."""

    batch_size: Int = setting(256, "transitions per update, imagined ones included", unit="rows", paper=256, ge=2)
    actor_lr: Real = setting(3e-4, "Adam step size of the actor", paper=3e-4, gt=0)
    critic_lr: Real = setting(3e-4, "Adam step size of the critics", paper=3e-4, gt=0)
    discount: Real = setting(0.99, "discount γ", unit="per step", paper=0.99, ge=0, lt=1)
    actor_bc_coef: Real = setting(
        0.0,
        "behaviour cloning in the actor loss; has to be 0, imagined states have no recorded action",
        paper=0,
        ge=0,
        le=0,
    )
    critic_bc_coef: Real = setting(0.0, "behaviour penalty in the critic target; has to be 0", paper=0, ge=0, le=0)
    rollout_length: Int = setting(5, "steps of a branch", unit="steps", paper="1 or 5, per dataset", ge=1, le=1000)
    penalty: Real = setting(
        1.0, "λ: weight of the spread of the model's networks, in standard deviations of the state",
        unit="reward per standard deviation", paper="0.5 to 5, of the largest predicted variance", ge=0,
    )  # fmt: skip
    real_share: Real = setting(0.05, "share of recorded transitions in a batch", paper=0.05, ge=0, lt=1)
    exploration: Real = setting(0.1, "std of the noise on the branches' actions", unit="action", paper="SAC's", ge=0)
    halt: Real = setting(
        10.0, "a branch ends so many standard deviations from the data's mean, at a pessimistic value",
        unit="standard deviations", gt=0,
    )  # fmt: skip

    @property
    def builds_on(self) -> tuple[str, ...]:
        """Return the models."""
        return ("world_model", "reward")

    @property
    def code_roots(self) -> tuple[str, ...]:
        """Also the termination rules."""
        return (*super().code_roots, "mpcwdwm.components.loading", "mpcwdwm.envs.termination")

    @property
    def recorded(self) -> int:
        """Rows of a batch that are recorded ones."""
        return min(self.batch_size - 1, round(self.real_share * self.batch_size))

    @property
    def branches(self) -> int:
        """Branches of an update."""
        return -(-(self.batch_size - self.recorded) // self.rollout_length)

    @model_validator(mode="after")
    def _branches_fit(self) -> Self:
        if self.rollout_length > self.batch_size - self.recorded:
            raise ValueError(
                f"rollout_length is {self.rollout_length}, longer than the {self.batch_size - self.recorded} imagined "
                "transitions of a batch; give a larger batch_size"
            )
        return self


class Mopo(Rebrac):
    """S stacked learners in imagination."""

    config_class = MopoConfig
    config: MopoConfig
    rows = "next_action"

    def build(self, dtype: torch.dtype) -> None:
        """Make the networks, and the extent of the data."""
        super().build(dtype)
        self.extent = Normalizer(self.stack, self.obs_dim, dtype)

    def fit(self, member: int, dataset: Dataset, rows: Tensor) -> None:
        """Fit the extent of the member's rows, too."""
        super().fit(member, dataset, rows)
        self.extent.fit(member, torch.from_numpy(dataset.obs)[rows])

    def build_on(self, bases: Mapping[str, Component], context: Context) -> None:
        """Keep the models, what ends a branch, and what a state beyond the data is worth."""
        model, reward = bases["world_model"], bases["reward"]
        assert isinstance(model, WorldModel)
        if self.config.penalty:
            _check_disagreement(model, self.obs_dim, self.act_dim)
        # Not registered as parts of this module: they are artifacts of their own.
        self._imagining = (model, reward)
        self._ended = ended_in(context, reward)
        self._behind = worth_of_halted(context, WORST_STEPS, self.config.discount, self.extent.mean)

    # ---------------------------------------------------------------------------------- training

    def noise(self, batch_size: int) -> Mapping[str, Normal]:
        """Target policy smoothing, exploration, and the model's noise."""
        c, (model, _) = self.config, self._imagining
        size = (c.rollout_length, c.branches)
        rows = c.recorded + c.rollout_length * c.branches
        return {
            "target_action": Normal((rows, self.act_dim)),
            "exploration": Normal((*size, self.act_dim)),
            "model": Normal((*size, *model.noise_shape)),
        }

    def advance(self, batch: Batch, noise: Mapping[str, Tensor], phase: int) -> dict[str, Tensor]:
        """One update of the critic, and at times of the actor, on recorded and imagined transitions."""
        imagined, spread = self.imagined(batch.obs[:, -self.config.branches :], noise)
        mixed = joined(first_rows(batch, self.config.recorded), imagined)
        metrics = self.critic_step(mixed, noise["target_action"])
        if phase == 0:
            metrics |= self.actor_and_target_step(mixed)
        return {**metrics, "model/spread": spread}

    @torch.no_grad()
    def imagined(self, start: Tensor, noise: Mapping[str, Tensor]) -> tuple[Batch, Tensor]:
        """Return the transitions of branches from `start`, (S, n, obs_dim), and the mean spread of the model (S,).

        A branch that has ended begins again where it began.
        """
        c, (model, reward) = self.config, self._imagining
        state, steps, spreads = start, list[Batch](), list[Tensor]()
        for j in range(c.rollout_length):
            action = (self.actor(state) + c.exploration * noise["exploration"][:, j]).clamp(-1, 1)
            following = model.sample(state, action, noise["model"][:, j])
            spread = torch.zeros_like(state[..., 0])
            if c.penalty and isinstance(model, Disagreeing):
                spread = model.disagreement(state, action)
            over = torch.zeros_like(spread, dtype=torch.bool)
            if self._ended is not None:
                over = self._ended(state, action, following)
            broken = ~following.isfinite().all(-1)  # of which a rule may say anything
            left = broken | (~over & (self.extent(following).abs() > c.halt).any(-1))
            stopped = over | left
            following = torch.where(stopped.unsqueeze(-1), state, following)  # 0 · nan would be nan
            earned = reward(state, action) - c.penalty * spread + c.discount * self._behind * left
            going = (~stopped).to(spread.dtype)
            steps.append(Batch(state, action, earned, following, torch.zeros_like(action), going))
            spreads.append(spread)
            state = torch.where(going.unsqueeze(-1) > 0, following, start)
        return joined(*steps), torch.stack(spreads).mean((0, 2))


def _check_disagreement(model: WorldModel, obs_dim: int, act_dim: int) -> None:
    """Raise UserError unless the model has several networks."""
    weight = next(model.parameters())
    try:
        if isinstance(model, Disagreeing):
            row = weight.new_zeros(len(model.seeds), 1, obs_dim), weight.new_zeros(len(model.seeds), 1, act_dim)
            model.disagreement(*row)
            return
    except UserError:
        pass
    raise UserError(
        "components.mopo.penalty needs a world model of several networks: world_model: {kind: mlp, ensemble: 5}; "
        "or give penalty: 0"
    )


def joined(*batches: Batch) -> Batch:
    """Return the rows of all batches, (S, …)."""
    return Batch(*(torch.cat([getattr(one, each.name) for one in batches], 1) for each in fields(Batch)))


def first_rows(batch: Batch, count: int) -> Batch:
    """Return the first rows of every member."""
    return Batch(*(getattr(batch, each.name)[:, :count] for each in fields(Batch)))
