"""A policy that is trained offline to act as a planner would, and then acts frozen: the amortised planner.

What a planner gains at test time by one step from every state, a policy may learn once. The policy begins as the base's
and regresses on improved actions at recorded states and at states that the base reaches in imagination: on what the
planner answers there (`distil`), or on steps along the gradient of its objective from wherever the policy is by then,
within a ball around the base's action (`direct`). With several rounds it is policy iteration: the value is fitted
again, to the improved policy, and improved upon once more.
"""

import math
from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from mpcwdwm.components.actor_critic import Actor
from mpcwdwm.components.component import ActorComponent, Batch, Component, ComponentConfig, Context
from mpcwdwm.components.imagined_episodes import imagined_episodes
from mpcwdwm.components.value import Value
from mpcwdwm.config import Int, Real, setting
from mpcwdwm.data import Dataset
from mpcwdwm.nn.compute import ComputeConfig
from mpcwdwm.nn.networks import Normalizer, uniform_init
from mpcwdwm.planning.action import ActionAscent, ActionConfig
from mpcwdwm.planning.ascent import ascent
from mpcwdwm.planning.assemble import assemble
from mpcwdwm.planning.objectives import PenalisedConfig
from mpcwdwm.planning.parts import Parts
from mpcwdwm.planning.planner import Planner, PlannerConfig
from mpcwdwm.planning.registry import PlannerFields, planner_class, planner_config
from mpcwdwm.planning.step_size.alpha import alpha_at_state
from mpcwdwm.random import Integers, Normal, generator
from mpcwdwm.training.loop import Training

__all__ = ["Improved", "ImprovedConfig", "within"]

MANY = 2**40  # row numbers are drawn below this and taken modulo the number of rows: uneven by less than 1e-5
PLANNED_ROWS = 256  # states of a member that are planned at a time
TEACHER = {"preset": "robust", "horizon": 1, "rollouts": 1}


class ImprovedConfig(ComponentConfig):
    """Hyper-parameters of the amortised planner; the paper has none."""

    steps: Int = setting(5_000, "gradient updates of a round", unit="updates", paper="none", ge=1, le=10**9)
    planner: PlannerFields = setting(
        TEACHER, "the planner to act as: its fields, as under `planners`; its base is the policy that is improved"
    )
    method: Literal["distil", "direct"] = setting(
        "distil",
        "distil: regress on the planner's actions; direct: on steps along the gradient of its objective from the "
        "policy's own action (kind: action with planned: first; its step size and updates do not count)",
        paper="none",
    )
    radius: Real = setting(
        0.1, "of direct: the farthest that an action may be from the base's", unit="action", paper="none", gt=0
    )
    direct_step: Real = setting(0.02, "of direct: the step that is regressed on", unit="action", paper="none", gt=0)
    rounds: Int = setting(
        1,
        "rounds of policy iteration: from the second on with a value of the improved policy",
        paper="none",
        ge=1,
        le=20,
    )
    states: Int = setting(10_000, "recorded states that are learnt from", unit="states", ge=1, le=10**8)
    imagined: Int = setting(200, "imagined episodes of the base, whose states are learnt from", unit="episodes", ge=0)
    length: Int = setting(100, "their length where they do not end before", unit="steps", ge=1, le=10**5)
    exploration: Real = setting(0.2, "std of the noise on the base's actions in them", unit="action", ge=0)
    halt: Real = setting(
        10.0, "an imagined episode is halted so many standard deviations from the data's mean",
        unit="standard deviations", gt=0,
    )  # fmt: skip
    hidden_layers: Int = setting(
        3, "hidden layers; with those of the base, it begins as a copy", unit="layers", ge=1, le=32
    )
    lr: Real = setting(3e-4, "Adam step size, cosine to 0", gt=0)

    @model_validator(mode="after")
    def _teaches(self) -> Self:
        teacher = self.teacher
        if "improved" in self.builds_on:
            raise ValueError(
                "planner: it would be built on itself; give another base (rounds: 2 goes on from its policy)"
            )
        still = teacher.to_dict().get("updates") == 0 or teacher.to_dict().get("step_size") == 0
        if teacher.kind in ("none", "random") or still:
            raise ValueError(
                "planner: it improves nothing; give a planner that adapts, with updates and a step size above 0"
            )
        climbs = isinstance(teacher, ActionConfig) and teacher.planned == "first" and teacher.step_size != "auto"
        if self.method == "direct" and not climbs:
            raise ValueError(
                "method: direct climbs the action itself, by direct_step; give planner: {kind: action, preset: robust}"
            )
        if self.rounds > 1 and "value" not in teacher.needs:
            raise ValueError("rounds above 1 fit the value again; give a planner with critic_from: value, or one round")
        anchored = isinstance(teacher, PenalisedConfig) and teacher.asks_clone
        if self.rounds > 1 and anchored and self.improves == "bc":
            raise ValueError("rounds above 1 would anchor to the improved policy in place of bc; give another base")
        return self

    @property
    def teacher(self) -> PlannerConfig:
        """The planner's config."""
        return planner_config(self.planner)

    @property
    def improves(self) -> str:
        """Return the component whose policy is improved."""
        return self.teacher.base

    @property
    def builds_on(self) -> tuple[str, ...]:
        """Return the policy, the models of its episodes, and what the planner needs."""
        return tuple(dict.fromkeys((self.improves, "world_model", "reward", *self.teacher.needs)))

    @property
    def code_roots(self) -> tuple[str, ...]:
        """Also the planner's code."""
        teacher = self.teacher
        own = (planner_class(teacher).__module__, *teacher.code_roots)
        return tuple(dict.fromkeys((*super().code_roots, *own, "mpcwdwm.envs.termination")))

    def brief(self) -> Self:
        """Learn from few states, in one round."""
        return self.model_copy(update={"states": 64, "imagined": 2, "length": 5, "rounds": 1})


# ------------------------------------------------------------------------------------------ the policy


class Improved(ActorComponent):
    """S stacked deterministic policies."""

    config_class = ImprovedConfig
    config: ImprovedConfig
    actor: Actor
    rows = "all"

    def build(self, dtype: torch.dtype) -> None:
        """Make the policy."""
        hidden = [self.config.hidden_dim] * self.config.hidden_layers
        self.actor = Actor(self.stack, self.obs_dim, self.act_dim, hidden, dtype)
        self.extent = Normalizer(self.stack, self.obs_dim, dtype)  # of the data, to see which states leave it
        self.initialize(self.actor.net, "improved/actor", uniform_init(), uniform_init(1e-3))
        self.optimizers = {"actor": torch.optim.Adam(self.actor.parameters(), lr=self.config.lr, fused=True)}

    def fit(self, member: int, dataset: Dataset, rows: Tensor) -> None:
        """Standardise observations over the member's rows."""
        obs = torch.from_numpy(dataset.obs)[rows]
        self.extent.fit(member, obs)
        self.actor.normalizer.fit(member, obs)

    def learning_rates(self, step: int) -> Mapping[str, float]:
        """Fall to 0 along half a cosine."""
        return {"actor": self.config.lr * 0.5 * (1 + math.cos(math.pi * step / self.config.steps))}

    # ------------------------------------------------------------------------------- preparation

    def build_on(self, bases: Mapping[str, Component], context: Context) -> None:
        """Take the last round's policy, and ask the planner what to do at the states that are learnt from."""
        if self.config.rounds > 1:
            bases = self.next_round(bases, context)
        base = bases[self.config.improves]
        assert isinstance(base, ActorComponent)
        own, theirs = self.actor.state_dict(), base.actor.state_dict()
        if {name: value.shape for name, value in own.items()} == {name: v.shape for name, v in theirs.items()}:
            self.actor.load_state_dict(theirs)
        obs, counts = self.learnt_states(base, bases, context)
        parts = assemble(
            bases,
            self.config.improves,
            critic_from="value" if "value" in bases else None,
            device=obs.device,
            termination=context.termination,
            goal_reward=context.goal_reward,
            dataset=context.datasets[0],
        )
        self._obs, self._counts = obs, counts
        self._base = torch.cat([base.actor(some) for some in obs.split(PLANNED_ROWS, 1)], 1).detach()
        if self.config.method == "distil":
            self._target = self.planned(parts, obs)
        else:
            self._climbing = self.teacher_of(parts, self.config.batch_size)
            self._climbing.act(obs[:, :1].expand(-1, self.config.batch_size, -1).flatten(0, 1))  # prepares it

    def next_round(self, bases: Mapping[str, Component], context: Context) -> dict[str, Component]:
        """Return the bases of the last round: the policy of the round before it, and its value."""
        name, value, device = self.config.improves, bases["value"], self.extent.mean.device
        assert isinstance(value, Value)
        fewer = self.config.model_copy(update={"rounds": self.config.rounds - 1, "eval_episodes": 0})

        def trained(component: str, config: ComponentConfig, on: Mapping[str, Component]) -> Component:
            training = Training(
                component,
                config,
                context.datasets,
                self.seeds,
                bases=on,
                termination=context.termination,
                goal_reward=context.goal_reward,
                device=device,
                dtype=self.extent.mean.dtype,
            )
            training.run()
            return training.part.requires_grad_(False).eval()

        policy = trained("improved", fewer, bases)
        models = {model: bases[model] for model in ("world_model", "reward")}
        return {**bases, name: policy, "value": trained("value", value.config, {name: policy, **models})}

    @torch.no_grad()
    def learnt_states(
        self, base: ActorComponent, bases: Mapping[str, Component], context: Context
    ) -> tuple[Tensor, Tensor]:
        """Return recorded states and those of the base's imagined episodes, (S, R, obs_dim), and how many (S,)."""
        c, mean = self.config, self.extent.mean
        drawn, starts = list[Tensor](), list[Tensor]()
        for dataset, rows, seed in zip(context.datasets, context.rows, self.seeds, strict=True):
            picked = rows[
                torch.randint(len(rows), (c.states + c.imagined,), generator=generator(seed, "improved/start"))
            ]
            obs = torch.from_numpy(dataset.obs)[picked].to(mean)
            drawn.append(obs[: c.states])
            starts.append(obs[c.states :])
        found = drawn
        if c.imagined:
            rolled = imagined_episodes(
                base,
                bases,
                context,
                torch.stack(starts),
                self.act_dim,
                length=c.length,
                exploration=c.exploration,
                left=lambda obs: (self.extent(obs).abs() > c.halt).any(-1),
                streams=[generator(seed, "improved/episodes", device=mean.device) for seed in self.seeds],
            )
            episodes, alive = torch.stack(rolled.obs[:-1], 2), torch.stack(rolled.alive[:-1], 2)  # (S, n, T, …)
            found = [torch.cat([own, more[lives > 0]]) for own, more, lives in zip(drawn, episodes, alive, strict=True)]
        counts = torch.tensor([len(own) for own in found], device=mean.device)
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True), counts

    def teacher_of(self, parts: Parts, rows: int) -> Planner:
        """Return the planner with so many states of every member side by side, run eagerly."""
        teacher = self.config.teacher
        compute = ComputeConfig(capture="eager")
        return planner_class(teacher)(parts, teacher, seeds=self.seeds, episodes=rows, compute=compute)

    def planned(self, parts: Parts, obs: Tensor) -> Tensor:
        """Return the planner's actions at states (S, R, obs_dim), each as at an episode's start: (S, R, act_dim)."""
        rows = min(PLANNED_ROWS, obs.shape[1])
        planner, found = self.teacher_of(parts, rows), list[Tensor]()
        for some in obs.split(rows, 1):
            lacking = rows - some.shape[1]  # of the last ones: filled up with their first
            filled = torch.cat([some, some[:, :1].expand(-1, lacking, -1)], 1)
            planner.reset()
            action, _, _ = planner.act(filled.flatten(0, 1))
            found.append(action.detach().unflatten(0, (len(self.seeds), rows))[:, : some.shape[1]].clone())
        return torch.cat(found, 1)

    # ---------------------------------------------------------------------------------- training

    def noise(self, batch_size: int) -> Mapping[str, Normal | Integers]:
        """One state per row of the batch; of direct, the noise of its plan, too."""
        state = {"state": Integers(MANY, (batch_size,))}
        if self.config.method == "distil":
            return state
        return {**state, "plan": Normal((batch_size, *self._climbing.noise_shapes()[0]))}

    def advance(self, batch: Batch, noise: Mapping[str, Tensor], phase: int) -> dict[str, Tensor]:
        """One step on ‖π(s) − a‖², a the planner's action or the next one on the way there."""
        row = noise["state"] % self._counts.unsqueeze(-1)
        obs, base = rows_of(self._obs, row), rows_of(self._base, row)
        action = self.actor(obs)
        if self.config.method == "distil":
            target = rows_of(self._target, row)
        else:
            target = self.climbed(obs, action.detach(), base, noise["plan"])
        loss = (action - target).square().sum(-1).mean(-1)  # (S,)
        self.descend("actor", loss.sum())
        change = (action - base).detach().norm(dim=-1).mean(-1)
        return {"actor/loss": loss.detach(), "actor/change": change}

    def climbed(self, obs: Tensor, action: Tensor, base: Tensor, noise: Tensor) -> Tensor:
        """Return actions moved by `direct_step` along the gradient of the objective, within the ball and the bounds."""
        planner = self._climbing
        assert isinstance(planner, ActionAscent)
        planner.obs.copy_(obs.flatten(0, 1))
        plans = {"plan": action.flatten(0, 1).unsqueeze(1)}  # (N, 1, act_dim)
        _, gradient = ascent(planner.objective_of, plans, noise.flatten(0, 1), noise.shape[3])
        along = gradient["plan"].view_as(action)
        step = alpha_at_state(along.flatten(0, 1), self.config.direct_step).view_as(action[..., :1]) * along
        return within(action + step, base, self.config.radius).clamp(-1, 1)


def within(action: Tensor, base: Tensor, radius: float) -> Tensor:
    """Return the nearest actions that are at most `radius` from the base's."""
    away = action - base
    distance = away.norm(dim=-1, keepdim=True)
    return base + away * (radius / distance.clamp_min(radius))


def rows_of(values: Tensor, row: Tensor) -> Tensor:  # (S, R, n), (S, B) → (S, B, n)
    """Return the rows with these numbers, of every member."""
    return values.gather(1, row.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
