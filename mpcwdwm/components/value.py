"""The value of a pretrained policy, fitted to episodes imagined with the world model, as a terminal critic.

The critic that a policy was trained with is a poor terminal critic: it is bootstrapped, and the policy is already at
its maximum, so most of its remaining gradient is error. This value is plain policy evaluation: the policy, with some
exploration noise, is rolled through the world model for hundreds of steps from recorded states, and networks regress
on the discounted sum of predicted rewards of every imagined state. Only the return after the last imagined step is
bootstrapped. Ascending it from a real state is one step of policy improvement in the world model.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import silu

from mpcwdwm.components.component import (
    ActorComponent,
    Batch,
    Component,
    Context,
    ModelConfig,
    fit_quality,
    polyak_update,
)
from mpcwdwm.components.imagined_episodes import imagined_episodes, worth_of_halted
from mpcwdwm.components.registry import ValueOf
from mpcwdwm.config import Flag, Int, Real, setting
from mpcwdwm.data import Dataset
from mpcwdwm.imagination import WORST_STEPS
from mpcwdwm.nn.networks import Mlp, Normalizer, ScaleFreeNormalizer, uniform_init
from mpcwdwm.random import Integers, generator

__all__ = ["Episodes", "Value", "ValueConfig", "returns_to_go"]

HELDOUT_SHARE = 0.1  # of the imagined episodes, judged at a point of the learning curve
HELDOUT_STATES = 4096  # of theirs, evenly spread
MANY = 2**40  # row numbers are drawn below this and taken modulo the number of rows: uneven by less than 1e-5


class ValueConfig(ModelConfig):
    """Hyper-parameters of the imagined value; the paper has none: its plans end with the base's critic."""

    steps: Int = setting(10_000, "gradient updates", unit="updates", paper="none", ge=1, le=10**9)
    of: ValueOf = setting(
        "base", "whose policy is evaluated; base: that of the planner which uses the value", paper="none"
    )
    discount: Real = setting(
        0.997, "discount γ, also that of plans which end with this value", unit="per step", gt=0, lt=1
    )
    episodes: Int = setting(1000, "imagined episodes", unit="episodes", ge=10, le=10**6)
    length: Int = setting(400, "length of an imagined episode that does not end before", unit="steps", ge=1, le=10**5)
    exploration: Real = setting(0.2, "std of the noise on the policy's actions", unit="action", ge=0)
    halt: Real = setting(
        10.0,
        "an imagined episode is halted so many standard deviations from the data's mean; the state there is worth "
        "min(0, the worst recorded reward) / (1 − γ)",
        unit="standard deviations",
        gt=0,
    )
    worst_steps: Int = setting(
        WORST_STEPS,
        "the worst recorded reward is the lowest discounted mean of so many steps in a row; 1: the lowest reward",
        unit="steps",
        ge=1,
        le=10**5,
    )
    lr: Real = setting(1e-3, "Adam step size, cosine to 0", gt=0)
    hidden_layers: Int = setting(2, "hidden layers", unit="layers", ge=1, le=32)
    ensemble: Int = setting(3, "networks", unit="networks", ge=1, le=100)
    share: Real = setting(0.7, "share of the imagined episodes that each network learns from", gt=0, le=1)
    weight_decay: Real = setting(1e-4, "decoupled weight decay", ge=0)
    ema: Real = setting(0.995, "decay of the running average of the weights, which is what judges", ge=0, lt=1)
    normalize_obs: Flag = setting(True, "standardise observations")

    @property
    def code_roots(self) -> tuple[str, ...]:
        """Also the code that loads the components it builds on, and the termination rules."""
        return (*super().code_roots, "mpcwdwm.components.loading", "mpcwdwm.envs.termination")

    @property
    def builds_on(self) -> tuple[str, ...]:
        """Return the policy and the models."""
        return (self.policy, "world_model", "reward")

    @property
    def policy(self) -> str:
        """Return the component whose policy is evaluated; of "base", where no planner says which, ReBRAC."""
        return "rebrac" if self.of == "base" else self.of

    def brief(self) -> Self:
        """Imagine few and short episodes."""
        return self.model_copy(update={"episodes": 20, "length": 20})


# ------------------------------------------------------------------------------------ imagined episodes


@dataclass(frozen=True)
class Episodes:
    """n imagined episodes of T steps for each of S members."""

    obs: Tensor  # (S, n, T + 1, obs_dim); after an end, arbitrary but finite
    reward: Tensor  # (S, n, T); of a step that halts the episode, with the discounted value of the state there
    alive: Tensor  # (S, n, T + 1): 1 until the episode has ended


def returns_to_go(episodes: Episodes, discount: float) -> Tensor:
    """Return Σ_{k ≥ t} γ^{k−t} r_k over the imagined steps, for every step: (S, n, T); 0 after an end."""
    returns = torch.zeros_like(episodes.reward)
    following = torch.zeros_like(episodes.reward[..., 0])
    for t in reversed(range(episodes.reward.shape[-1])):
        following = episodes.alive[..., t] * (episodes.reward[..., t] + discount * following)
        returns[..., t] = following
    return returns


# ------------------------------------------------------------------------------------------- the value


class Value(Component):
    """S stacked ensembles of E value networks V(s)."""

    config_class = ValueConfig
    config: ValueConfig
    rows = "all"

    def build(self, dtype: torch.dtype) -> None:
        """Make the networks, their running average and the normalisers."""
        config = self.config
        self.normalizer = Normalizer(self.stack, self.obs_dim, dtype)
        self.extent = Normalizer(self.stack, self.obs_dim, dtype)  # of the data, to see which states leave it
        self.return_normalizer = ScaleFreeNormalizer(self.stack, 1, dtype)
        hidden = [config.hidden_dim] * config.hidden_layers
        self.net = Mlp((*self.stack, config.ensemble), self.obs_dim, hidden, 1, activation=silu, dtype=dtype)
        self.initialize(self.net, "value", uniform_init(), uniform_init())
        self.averaged = copy.deepcopy(self.net).requires_grad_(False)
        self.optimizers = {
            "net": torch.optim.AdamW(self.net.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
        }

    def forward(self, obs: Tensor) -> Tensor:  # (S, B, obs_dim) → (S, E, B)
        """Return every network's value of a state, in the data's unit of reward."""
        return self.values(self.averaged, obs)

    def values(self, net: Mlp, obs: Tensor) -> Tensor:
        """Return the values by `net`, (S, E, B)."""
        return self.return_normalizer.inverse(net(self.normalizer(obs).unsqueeze(-3)).squeeze(-1))

    # ------------------------------------------------------------------------------- preparation

    def fit(self, member: int, dataset: Dataset, rows: Tensor) -> None:
        """Fit the extent of the member's rows; standardise observations over them, if configured."""
        obs = torch.from_numpy(dataset.obs)[rows]
        self.extent.fit(member, obs)
        if self.config.normalize_obs:
            self.normalizer.fit(member, obs)

    def build_on(self, bases: Mapping[str, Component], context: Context) -> None:
        """Imagine the policy's episodes and put their states and returns into tables."""
        episodes = self.imagine(bases, context)
        learnt = episodes.reward.shape[1] - max(1, round(HELDOUT_SHARE * episodes.reward.shape[1]))
        returns = returns_to_go(episodes, self.config.discount)
        steps = torch.arange(returns.shape[-1], 0, -1, device=returns.device, dtype=returns.dtype)
        left = self.config.discount**steps * episodes.alive[..., -1:]  # (S, n, T): γ^{T−t}, or 0 in an ended episode
        alive = episodes.alive[..., :-1] > 0  # (S, n, T)
        for member in range(len(self.seeds)):
            own = returns[member, :learnt][alive[member, :learnt]]
            self.return_normalizer.fit(member, own.unsqueeze(-1))
        self._table = _Table.of(episodes, returns, left, slice(0, learnt))
        self._judged = _Table.of(episodes, returns, left, slice(learnt, None))
        drawn = [
            torch.rand(self.config.ensemble, learnt, generator=generator(seed, "value/share")) for seed in self.seeds
        ]
        self._learns = (torch.stack(drawn) < self.config.share).to(returns)  # (S, E, n)
        ended = 1 - episodes.alive[..., -1].mean(1)
        self._facts = {"value/imagined_length": episodes.alive[..., :-1].sum(-1).mean(1), "value/ended": ended}

    @torch.no_grad()
    def imagine(self, bases: Mapping[str, Component], context: Context) -> Episodes:
        """Roll the policy with exploration through the world model, from rows that the member learns from."""
        c, device, dtype = self.config, self.normalizer.mean.device, self.normalizer.mean.dtype
        policy, reward = bases[c.policy], bases["reward"]
        assert isinstance(policy, ActorComponent)
        streams = [generator(seed, "value/episodes", device=device) for seed in self.seeds]
        starts = []
        for dataset, rows, seed in zip(context.datasets, context.rows, self.seeds, strict=True):
            picked = torch.randint(len(rows), (c.episodes,), generator=generator(seed, "value/start"))
            starts.append(torch.from_numpy(dataset.obs)[rows[picked]])
        start = torch.stack(starts).to(device, dtype)

        rolled = imagined_episodes(
            policy,
            bases,
            context,
            start,
            self.act_dim,
            length=c.length,
            exploration=c.exploration,
            left=lambda obs: (self.extent(obs).abs() > c.halt).any(-1),
            streams=streams,
        )
        behind = worth_of_halted(context, c.worst_steps, c.discount, start)
        steps = zip(rolled.obs[:-1], rolled.action, rolled.halted, strict=True)
        rewards = [reward(obs, action) + c.discount * behind * halted for obs, action, halted in steps]
        return Episodes(torch.stack(rolled.obs, 2), torch.stack(rewards, 2), torch.stack(rolled.alive, 2))

    # ---------------------------------------------------------------------------------- training

    def noise(self, batch_size: int) -> Mapping[str, Integers]:
        """One imagined state per row of the batch."""
        return {"state": Integers(MANY, (batch_size,))}

    def learning_rates(self, step: int) -> Mapping[str, float]:
        """Fall to 0 along half a cosine."""
        return {"net": self.config.lr * 0.5 * (1 + math.cos(math.pi * step / self.config.steps))}

    def advance(self, batch: Batch, noise: Mapping[str, Tensor], phase: int) -> dict[str, Tensor]:
        """One step on the squared error of the standardised return; the average of the weights follows."""
        obs, target, episode = self._drawn(self._table, noise["state"])
        error = ((self.values(self.net, obs) - target) / self.return_normalizer.std).square()  # (S, E, B)
        counts = self._learns.gather(-1, episode.unsqueeze(1).expand(-1, self.config.ensemble, -1))
        loss = (counts * error).sum(-1) / counts.sum(-1).clamp_min(1)  # (S, E)
        self.descend("net", loss.sum())
        polyak_update(self.averaged.parameters(), self.net.parameters(), 1 - self.config.ema)
        return {"value/loss": loss.detach().mean(-1)}

    @torch.no_grad()
    def _drawn(self, table: "_Table", number: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return states (S, B, obs_dim), the returns each network learns (S, E, B), and their episodes (S, B)."""
        row = number % table.counts.unsqueeze(-1)
        returns, left, episode = (values.gather(1, row) for values in (table.returns, table.left, table.episode))
        behind = self(_rows(table.last, episode))  # bootstrapped from the averaged networks
        return _rows(table.obs, row), returns.unsqueeze(1) + left.unsqueeze(1) * behind, episode

    @torch.no_grad()
    def heldout(self, batch: Batch, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Error and explained variance of the return, on imagined episodes that were not learnt from."""
        counts = self._judged.counts.unsqueeze(-1)
        spread = torch.arange(HELDOUT_STATES, device=counts.device) * counts // HELDOUT_STATES  # (S, B)
        obs, target, _ = self._drawn(self._judged, spread)
        return {**fit_quality(self(obs).mean(1), target.mean(1)), **self._facts}


@dataclass(frozen=True)
class _Table:
    """States of some episodes before their end, in order; a member's are the first `counts` of the R rows."""

    obs: Tensor  # (S, R, obs_dim)
    last: Tensor  # (S, n, obs_dim): where each episode stopped
    returns: Tensor  # (S, R)
    left: Tensor  # (S, R): discount of the last state's value
    episode: Tensor  # (S, R)
    counts: Tensor  # (S,)

    @classmethod
    def of(cls, episodes: Episodes, returns: Tensor, left: Tensor, part: slice) -> "_Table":
        """Arrange a part of the episodes."""
        alive = episodes.alive[:, part, :-1] > 0  # (S, n, T)
        places = [own.nonzero() for own in alive]  # (R_m, 2): episode, step

        def stacked(values: Tensor) -> Tensor:
            own = [each[place[:, 0], place[:, 1]] for each, place in zip(values, places, strict=True)]
            return torch.nn.utils.rnn.pad_sequence(own, batch_first=True)

        obs = episodes.obs[:, part]
        number = torch.arange(alive.shape[1], device=alive.device).view(1, -1, 1).expand_as(alive)
        counts = torch.tensor([len(place) for place in places], device=alive.device)
        return cls(
            obs=stacked(obs[:, :, :-1]),
            last=obs[:, :, -1],
            returns=stacked(returns[:, part]),
            left=stacked(left[:, part]),
            episode=stacked(number),
            counts=counts,
        )


def _rows(values: Tensor, row: Tensor) -> Tensor:  # (S, R, n), (S, B) → (S, B, n)
    return values.gather(1, row.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
