"""What every planner shares: settings, noise, the tensors of a step, and the fallback to the pretrained policy.

All episodes of an evaluation (seeds × episodes = N rows) are planned in one batch. A planner is a config and a class
with one method, `plan`: from the observation and the noise of every row to its action. An action that is not finite
is replaced by the pretrained policy's, row by row.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from mpcwdwm.components.component import CriticComponent
from mpcwdwm.components.registry import COMPONENTS, CriticSource, PolicyName
from mpcwdwm.config import Config, Flag, Int, Real, setting
from mpcwdwm.errors import UserError
from mpcwdwm.nn.compute import Captured, arithmetic, execution_of, library_of
from mpcwdwm.nn.compute_config import ComputeConfig
from mpcwdwm.planning.evaluations import counted_evaluations
from mpcwdwm.planning.interface import check_answers, check_methods
from mpcwdwm.planning.parts import Params, Parts
from mpcwdwm.random import generator

__all__ = ["AdaptingConfig", "LookaheadConfig", "Planner", "PlannerConfig"]

NO_CRITIC = (
    "horizon 0 needs a critic: nothing is left to maximise; "
    "give a horizon of 1 or more, or a critic (critic_from: rebrac or iql)"
)
STATES_ONLY = (
    "horizon 0 needs a critic of actions, and critic_from: value is one of states only; "
    "give a horizon of 1 or more, or critic_from: base, rebrac or iql"
)


class PlannerConfig(Config):
    """Settings of every planner."""

    kind: str
    base: PolicyName = setting("rebrac", "component whose policy acts", paper="rebrac")

    @property
    def code_roots(self) -> tuple[str, ...]:
        """Modules whose code shapes the result and that the planner's own does not import."""
        return ("mpcwdwm.evaluation.evaluate", "mpcwdwm.planning.assemble")

    @property
    def idle_modules(self) -> tuple[str, ...]:
        """Modules that the planner's imports, but that do not run with this config: a key leaves them out."""
        return ()

    @property
    def needs(self) -> tuple[str, ...]:
        """The components that are used beside the base."""
        return ()

    @property
    def uses_dataset(self) -> bool:
        """Whether something is measured on the dataset before the first step."""
        return False

    def unmeasured(self) -> "PlannerConfig":
        """Return a config of about the same cost per step that measures nothing first, to predict that cost."""
        return self


class LookaheadConfig(PlannerConfig):
    """Settings of planners that imagine; the paper's versions disagree, see `docs/deviations.md`."""

    horizon: Int = setting(5, "imagined steps", unit="steps", paper=5, alias="H", ge=0, le=1000)
    rollouts: Int = setting(
        10, "imagined rollouts per real step", paper="10 (v1), 4096 (v2)", alias="M", ge=1, le=10**6
    )
    critic: Literal["min", "mean", "first"] = setting("min", "how the twin critics are reduced", paper="min (v2)")
    critic_from: CriticSource = setting(
        "base",
        "whose critic ends the plan, with its discount and reward scale; bc has none; value: the component value, the "
        "base policy's own value in imagination, averaged over its networks as critic says",
        paper="base",
    )
    memory_gb: Real = setting(2.0, "memory of a plan; what goes beyond it takes further passes", unit="GB", gt=0)
    terminate: Flag = setting(
        True, "end imagined rollouts by the known termination rule, and at the goal", paper="unknown"
    )

    @property
    def code_roots(self) -> tuple[str, ...]:
        """With the rules that end an imagined rollout."""
        return (*super().code_roots, *(("mpcwdwm.envs.termination",) if self.terminate else ()))

    @property
    def needs(self) -> tuple[str, ...]:
        """The models, and the component of a borrowed critic."""
        return ("world_model", "reward", *({self.critic_from} - {"base", "none"}))

    @property
    def draws(self) -> int:
        """Sets of the model's noise in a real step."""
        return 1

    @property
    def lender(self) -> str:
        """The component whose critic ends the plan, or "none"."""
        return self.base if self.critic_from == "base" else self.critic_from

    @model_validator(mode="after")
    def _something_to_maximise(self) -> "LookaheadConfig":
        if self.horizon == 0 and self.lender == "value":
            raise ValueError(STATES_ONLY)
        if self.horizon == 0 and (self.lender == "none" or not issubclass(COMPONENTS[self.lender], CriticComponent)):
            raise ValueError(NO_CRITIC)
        return self


class AdaptingConfig(LookaheadConfig):
    """Settings of planners that improve a plan E times before they act."""

    updates: Int = setting(
        1, "improvements of the plan per real step", paper="5 (v1), 1 (v2)", alias="E", ge=0, le=1000
    )
    noise: Literal["held", "redrawn"] = setting("held", "noise over the E updates of a real step", paper="held")

    @property
    def draws(self) -> int:
        """One set, or one for each update."""
        return 1 if self.noise == "held" else max(1, self.updates)


class Planner:
    """The base class of planners. A step reads and writes tensors in place, so that a GPU can replay it.

    A kind of planner defines `plan` and, if needed, `noise_shapes` (its random numbers), `initial` (what it keeps from
    step to step) and `prepare` (what is measured before the first step).

    Args:
        parts: policy, world model, reward, critic.
        config: the planner's.
        seeds: one per member; the noise of a member's plans follows from its seed alone.
        episodes: rows per member.
        compute: how a step is run.

    Raises:
        UserError: the config is another planner's, the parts are not enough for it, the seeds are not one per member,
            or there are no episodes.
    """

    config_class: ClassVar[type[PlannerConfig]] = PlannerConfig
    follows_gradient: ClassVar[bool] = False  # through the parts: then they must not be detached
    config: PlannerConfig

    def __init__(
        self,
        parts: Parts,
        config: PlannerConfig | None = None,
        *,
        seeds: Sequence[int] = (0,),
        episodes: int = 1,
        compute: ComputeConfig | None = None,
    ) -> None:
        self.config, self.episodes, self.seeds = config or self.config_class.model_validate({}), episodes, tuple(seeds)
        if not isinstance(self.config, self.config_class):
            own, named = self.config_class.__name__, type(self.config).__name__
            raise UserError(f"{type(self).__name__} is configured by {own}, not by {named}: give it one of those")
        self.parts = _sufficient(parts, self.config)
        if episodes < 1:
            raise UserError(f"episodes should be 1 or more, not {episodes}")
        if len(self.seeds) != parts.members:
            raise UserError(f"{len(self.seeds)} seeds for {parts.members} members: give one seed per member")
        check_methods(parts)
        self.rows = parts.members * episodes
        self.compute = compute or ComputeConfig()
        self.path = execution_of(self.compute, parts.device)
        self.library = library_of(self.compute, parts.device)
        self.psi0 = parts.policy.initial(episodes)  # the pretrained policy's parameters, one set per row
        self.dtype = next(iter(self.psi0.values())).dtype
        self.obs = torch.empty(0)  # (N, obs_dim) from the first step on
        self.act_dim = 0  # known from the first step on
        self.evaluations = float("nan")  # of networks in a step, per row; counted at the first step
        # how far the last action lies from the pretrained policy's, (N,); 0 exactly where that acts
        self.change = torch.zeros(self.rows, dtype=self.dtype, device=parts.device)
        self.kept: Params = {}  # from step to step; there from the first step on
        self.noises: list[Tensor] = []  # drawn for this real step, each (N, *shape), by `noise_shapes`
        step = self._plan_or_fall_back
        self._step = Captured(step, parts.device) if self.path == "graph" else step
        self.rewind()

    # What a kind of planner defines

    def plan(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions (N, act_dim), imagined returns (N,), and which rows failed (N,).

        Reads `obs`, `noises` and `kept`; no row may influence another. On a GPU it is recorded once and replayed:
        `keep` writes what is kept, nothing waits for the device, and no Python branch depends on a tensor's values.
        """
        raise TypeError(f"{type(self).__name__} defines no plan")

    def noise_shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes, per row, of the standard normal numbers of a real step: (H, M, *noise_shape) first."""
        if not isinstance(self.config, LookaheadConfig):
            return []
        own = () if self.parts.world_model is None else self.parts.world_model.noise_shape
        return [(self.config.horizon, self.config.rollouts, *own)] * self.config.draws

    def initial(self) -> Params:
        """Return what is kept from step to step as it is at an episode's start, one (N, …) for every row."""
        return {}

    def prepare(self) -> None:
        """Measure or allocate; called once, at the first step, after `obs`, `noises` and `kept` are set."""

    def findings(self) -> list[dict[str, Any] | None]:
        """Return what was measured for each member before the first step, for its manifest; usually nothing."""
        return [None] * len(self.seeds)

    # What all planners have

    def reset(self) -> None:
        """Begin new episodes: what is kept from step to step is reset, the noise goes on."""
        self.keep(self.initial() if self.kept else {})

    def rewind(self) -> None:
        """Begin again: `reset`, with the same noise as from the first step on."""
        self._generators = [generator(seed, "plan", device=self.parts.device) for seed in self.seeds]
        self.reset()

    def keep(self, tensors: Params) -> None:
        """Write what is kept, in place."""
        for name, tensor in tensors.items():
            self.kept[name].copy_(tensor)

    def draw_noise(self) -> list[Tensor]:
        """Draw the noise of one real step in place and return it."""
        if not self.noises:
            sizes = [(self.rows, *shape) for shape in self.noise_shapes()]
            self.noises = [torch.empty(size, dtype=self.dtype, device=self.parts.device) for size in sizes]
        for noise in self.noises:
            for own, g in zip(noise.split(self.episodes), self._generators, strict=True):
                own.normal_(generator=g)  # each member's rows from its own stream
        return self.noises

    def act(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Plan at `obs` (N, obs_dim) and act.

        Returns:
            Actions (N, act_dim), imagined returns (N,), and which rows fell back to the pretrained policy
            (N,). They are overwritten by the next call.
        """
        first = not self.act_dim
        if first:
            check_answers(self.parts, self.psi0, obs, gradient=self.follows_gradient)
            self.obs = obs.clone()
            self.act_dim = self.pretrained_action().shape[-1]
            self.noises = []  # its shapes may depend on the number of actions
            self.kept = {name: tensor.clone() for name, tensor in self.initial().items()}
        self.obs.copy_(obs)
        self.draw_noise()
        if first:
            self.prepare()
        with arithmetic(self.compute, self.library):
            if not first:
                return self._step()
            with counted_evaluations() as evaluations:  # never a captured step: those before are run eagerly
                planned = self._step()
            self.evaluations = evaluations.total / self.rows
            return planned

    @torch.no_grad()
    def pretrained_action(self) -> Tensor:
        """Return the action (N, act_dim) of the policy as it was trained."""
        return self.parts.policy(self.psi0, self.obs.unsqueeze(1)).squeeze(1)

    def _plan_or_fall_back(self) -> tuple[Tensor, Tensor, Tensor]:
        action, value, failed = self.plan()
        fallen = failed | ~action.isfinite().all(1)
        pretrained = self.pretrained_action()
        action = torch.where(fallen.unsqueeze(1), pretrained, action)
        self.change.copy_((action - pretrained).norm(dim=1))
        return action, value, fallen

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Plan at one observation (obs_dim,) and return one action (act_dim,): for a single environment.

        Raises:
            UserError: it is no vector, not as long as the one before or not finite, or the planner has several rows.
        """
        if self.rows > 1:
            raise UserError(f"this planner has {self.rows} rows: call act() with an observation for each")
        try:
            rows = torch.as_tensor(obs, dtype=self.dtype, device=self.parts.device)
        except (TypeError, ValueError, RuntimeError) as error:
            given = type(obs).__name__
            raise UserError(f"planner(obs) takes the observation alone, a vector of numbers, not a {given}") from error
        if rows.dim() != 1 or (self.act_dim and rows.shape != self.obs.shape[1:]):
            before = f" of {self.obs.shape[1]} numbers" if self.act_dim else ""
            raise UserError(f"planner(obs) takes one vector{before}, not one of shape {tuple(rows.shape)}")
        if not rows.isfinite().all():  # here, because imagined observations that `act` sees may diverge
            entry = int((~rows.isfinite()).nonzero()[0])
            raise UserError(
                f"planner(obs): entry {entry} is {rows[entry].item()}, and no policy has an action for that"
            )
        return self.act(rows.unsqueeze(0))[0].squeeze(0).cpu().numpy()


def _sufficient(parts: Parts, config: PlannerConfig) -> Parts:
    """Return the parts that the config uses, after checking that they match it."""
    if parts.base not in (None, config.base):
        raise UserError(
            f"the parts hold the policy of {parts.base}, the config says base: {config.base}: "
            f"give it base='{parts.base}', or parts of {config.base} (mpcwdwm.load(…, planner=config))"
        )
    if not isinstance(config, LookaheadConfig):
        return parts
    wanted = config.lender
    if wanted == "none":
        parts = replace(parts, critic=None)
    elif parts.critic_of not in (None, wanted) or (parts.critic is None and config.critic_from != "base"):
        held = f"the critic of {parts.critic_of}" if parts.critic_of else "no critic"
        raise UserError(
            f"the parts hold {held}, the config wants that of {wanted}: give parts with it "
            f"(mpcwdwm.load(…, planner=config) or assemble(…, critic_from='{wanted}')), or another critic_from"
        )
    if config.horizon > 0 and (parts.world_model is None or parts.reward is None):
        raise UserError("a horizon above 0 needs a world model and a reward: set parts.world_model and parts.reward")
    if config.horizon == 0 and parts.critic is None:
        raise UserError(NO_CRITIC)
    return parts
