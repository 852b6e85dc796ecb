"""The step of a gradient ascent, on parameters or on actions: given, in units of the action, or chosen.

A raw α multiplies a gradient whose size depends on the rewards, the critic and the network, so that it means something
else on every task. In units of the action, α is how far one real step's adaptation moves the action, in the median
over held-out states. Where the median moves by a hundredth, states before a fall move by a multiple of it; in units of
the state every real state has its own α, with which the action moves by the same distance everywhere.

Planners that climb share all of it, so that they can be compared at equal steps.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge
from pydantic import AfterValidator, Strict, model_validator
from torch import Tensor
from torch.func import jvp

from mpcwdwm.config import Int, Real, setting
from mpcwdwm.errors import UserError
from mpcwdwm.planning.ascent import StepSize, rollouts_per_pass
from mpcwdwm.planning.parts import Params, Policy
from mpcwdwm.planning.planner import AdaptingConfig, Planner
from mpcwdwm.planning.step_size.choice import ESTIMATORS, StepSizeChoice, check_judge, choose_step_sizes
from mpcwdwm.planning.step_size.windows import heldout_windows
from mpcwdwm.random import generator

__all__ = [
    "StepSizeChosen",
    "StepSizeConfig",
    "SteppingPlanner",
    "action_unit",
    "alpha_at_state",
    "in_unit",
    "sizes",
    "slope_of_policy",
    "step_sizes",
]

PROBED_ROWS = 64  # held-out states on which the change of the action is measured
PROBED_ROLLOUTS = 16  # at most: more need memory and hardly change the size of a mean gradient
PROBE = 0.01  # change of the action aimed at: small enough to be proportional to α, far above rounding
FIRST_ALPHA = 1e-5
PROBES = 8  # at most
LARGEST_CORRECTION = 1e3  # factor by which a probe may correct α
WINDOWS = 24  # held-out stretches per member: with their length, a tenth of the steps of ten episodes
WINDOW_LENGTH = 32  # steps of a stretch: long enough that a ψ that is carried over drifts
BOTH_RESETS = ("step", "episode")  # of equal scores the one whose ψ cannot drift


StepSizeChosen = Annotated[Real, Ge(0)] | Literal["auto"]


class StepSizeConfig(AdaptingConfig):
    """How α is found, and when what is climbed starts afresh."""

    step_size: StepSizeChosen = setting(
        1e-5, "α, step of the gradient ascent, 0 or more; auto: chosen by `judge`", paper="1e-3 (v1), 5e-7 to 5e-4 (v2)"
    )
    step_unit: Literal["raw", "action", "state"] = setting(
        "raw",
        "raw: α itself; action: how far a real step's adaptation moves the action, in the median over held-out states; "
        "state: how far each update moves it at every real state, to first order: α follows the gradient's size there",
        paper="raw",
    )
    judge: Annotated[str, Strict(), AfterValidator(check_judge)] = setting(
        "imagination",
        "of step_size: auto: the estimator that chooses; imagination rolls the planner itself through the world model, "
        "far beyond its horizon; the scores of the others are recorded, too",
        paper="none",
    )
    smallest: Real = setting(0.01, "of step_size: auto: the smallest step size tried beside 0", unit="action", gt=0)
    largest: Real = setting(0.3, "of step_size: auto: the largest", unit="action", gt=0)
    candidates: Int = setting(4, "of step_size: auto: how many, in equal ratios", ge=2, le=100)
    candidate_resets: Literal["given", "both"] = setting(
        "given",
        "of step_size: auto: given: all with the reset as given; both: each with either, and it is chosen, too",
        paper="none",
    )
    reset: Literal["episode", "step"] = setting(
        "episode", "when ψ returns to the pretrained one; in between it is carried over", paper="unknown"
    )

    @property
    def uses_dataset(self) -> bool:
        """For a step size that is measured on held-out episodes."""
        return self.step_unit == "action" or self.step_size == "auto"

    @property
    def code_roots(self) -> tuple[str, ...]:
        """With the module of the estimator that chooses the step size, which may be of another package."""
        estimator = (ESTIMATORS[self.judge].__module__,) if self.step_size == "auto" else ()
        return (*super().code_roots, *estimator)

    @property
    def idle_modules(self) -> tuple[str, ...]:
        """The choice of a step size, where it is given."""
        chosen = self.step_size == "auto"
        return () if chosen else ("mpcwdwm.planning.step_size.choice", "mpcwdwm.planning.step_size.windows")

    def unmeasured(self) -> Self:
        """Return the config with a raw step size."""
        return self.model_copy(update={"step_unit": "raw", "step_size": 0.0})

    def unlimited(self) -> Self:
        """Return the config with a raw step size, and without what limits a step."""
        return self.unmeasured()

    @model_validator(mode="after")
    def _rising(self) -> Self:
        tried = sizes(self) if self.step_size == "auto" else [0.0]
        if tried != sorted(set(tried)):
            raise ValueError(
                f"smallest, largest and candidates give step sizes that do not rise: {', '.join(map(str, tried))}; "
                "give a largest above the smallest, or fewer candidates"
            )
        return self


class SteppingPlanner(Planner):
    """A planner that climbs with a step size α. It defines `objective_of` and `climbed`."""

    follows_gradient = True
    config: StepSizeConfig
    # α, or the change of the action where every state has its own α: one, or one per row (N,); None: not yet known
    alpha: float | Tensor | None = None
    choice: StepSizeChoice | None = None
    afresh: Tensor | None = None  # the rows (N,) that start afresh at every step; None: `reset` holds for all

    def objective_of(self, variables: Params, noise: Tensor) -> Tensor:
        """Return what is climbed, Ĵ (N,), for variables of every row."""
        raise TypeError(f"{type(self).__name__} defines no objective")

    def climbed(self) -> Params:
        """Return variables of the shapes that are climbed, to measure with."""
        raise TypeError(f"{type(self).__name__} defines nothing to climb")

    def prepare(self) -> None:
        """Measure how many rollouts a backward pass may have, and the step size."""
        self._chunk = rollouts_per_pass(self.objective_of, self.climbed(), self.noises[0], self.config.memory_gb)
        if self.alpha is None:
            self.alpha, self.choice = step_sizes(self)
        if self.choice is not None and self.config.candidate_resets == "both":
            each_step = [reset == "step" for reset in self.choice.chosen_resets]
            self.afresh = torch.tensor(each_step, device=self.parts.device).repeat_interleave(self.episodes)

    def held_noises(self) -> list[Tensor]:
        """Return the noise of each of the E updates."""
        return [self.noises[e % len(self.noises)] for e in range(self.config.updates)]

    def twin(self, episodes: int, config: StepSizeConfig) -> Self:
        """Return a planner with the same parts and seeds and other rows and settings, to measure on: run eagerly."""
        compute = self.compute.model_copy(update={"capture": "eager"})
        return type(self)(self.parts, config, seeds=self.seeds, episodes=episodes, compute=compute)

    def findings(self) -> list[dict[str, Any] | None]:
        """Return every member's α and reset as chosen or measured, and the estimators' scores."""
        if not isinstance(self.alpha, Tensor):
            return super().findings()
        alpha = self.alpha.view(len(self.seeds), -1)[:, 0].tolist()
        judged = [None] * len(alpha) if self.choice is None else self.choice.by_member()
        resets = [self.config.reset] * len(alpha) if self.choice is None else self.choice.chosen_resets
        return [
            {"step_size": a, "reset": reset, "judges": one} for a, reset, one in zip(alpha, resets, judged, strict=True)
        ]


def step_sizes(planner: SteppingPlanner) -> tuple[float | Tensor, StepSizeChoice | None]:
    """Return α, one or one per row (N,), and how it was chosen, if it was.

    Raises:
        UserError: it has to be measured, and there is no dataset or nothing held out.
    """
    config = planner.config
    if config.step_unit != "action" and config.step_size != "auto":
        return float(config.step_size), None
    own_unit = config.step_unit == "state"  # then sizes need no conversion
    unit = torch.ones(len(planner.seeds), dtype=planner.dtype) if own_unit else action_unit(planner)  # (S,)
    unit = unit.to(planner.parts.device)
    if config.step_size != "auto":
        return (unit * config.step_size).repeat_interleave(planner.episodes), None

    windows = heldout_windows(planner.parts, planner.seeds, WINDOWS, WINDOW_LENGTH)
    rows = windows.per_member

    def stepping(size: float, reset: str) -> Planner:
        step_unit = "state" if own_unit else "raw"
        twin = planner.twin(rows, config.unmeasured().model_copy(update={"step_unit": step_unit, "reset": reset}))
        twin.alpha = (unit * size).repeat_interleave(rows)
        return twin

    resets = BOTH_RESETS if config.candidate_resets == "both" else (config.reset,)
    parts = planner.parts if config.terminate else replace(planner.parts, termination=None, goal_reward=None)
    choice = choose_step_sizes(
        parts, windows, sizes(config), stepping, judge=config.judge, seeds=planner.seeds, resets=resets
    )
    return (unit * unit.new_tensor(choice.chosen)).repeat_interleave(planner.episodes), choice


def in_unit(config: StepSizeConfig, size: float | Tensor, slope: Callable[[Params, Params], Tensor]) -> StepSize:
    """Return α for `climb`: the size itself, or with `step_unit: state` what moves the action by it.

    Args:
        config: the planner's.
        size: one, or one per row (N,).
        slope: variables and their gradient → how the action moves along it, per α, to first order: (N, act_dim).
    """
    if config.step_unit != "state":
        return size
    return lambda variables, gradient: alpha_at_state(slope(variables, gradient), size)


def alpha_at_state(slope: Tensor, size: float | Tensor) -> Tensor:
    """Return the α of every row with which its action moves by `size`, to first order: (N,); 0 where none moves it.

    Args:
        slope: how the action moves per α, (N, act_dim).
        size: one, or one per row (N,), in units of the action.
    """
    change = slope.norm(dim=1)
    return torch.where(change > 0, size / change, 0.0)


@torch.no_grad()
def slope_of_policy(policy: Policy, psi: Params, gradient: Params, obs: Tensor) -> Tensor:
    """Return ∂π_ψ(s)/∂ψ · g, (N, act_dim): exact, by forward-mode differentiation.

    Args:
        policy: π.
        psi: ψ, one set per row.
        gradient: g, alike.
        obs: s, (N, obs_dim).
    """
    along = jvp(lambda moved: policy(moved, obs.unsqueeze(1)), (psi,), (gradient,))
    slope: Tensor = along[1]  # (N, 1, act_dim)
    return slope.squeeze(1)


def sizes(config: StepSizeConfig) -> list[float]:
    """Return the step sizes among which `auto` chooses, in units of the action: 0, and a geometric row.

    To two digits, so that the same numbers can be written in a YAML.
    """
    ratio = (config.largest / config.smallest) ** (1 / (config.candidates - 1))
    return [0.0, *(float(f"{config.smallest * ratio**i:.2g}") for i in range(config.candidates))]


def action_unit(planner: SteppingPlanner) -> Tensor:
    """Return the α at which one real step's adaptation moves the action by 1, extrapolated from small steps.

    In the median over held-out states, starting from the pretrained policy: one for every member, (S,). 0 where the
    action does not move whatever α is.
    """
    dataset = planner.parts.dataset
    if dataset is None or not dataset.heldout.any():
        raise UserError("step_unit: action is measured on held-out episodes: set parts.dataset to one that has some")
    rows = torch.from_numpy(dataset.heldout.nonzero()[0])
    picked = [
        rows[torch.randint(len(rows), (PROBED_ROWS,), generator=generator(seed, "step_size"))] for seed in planner.seeds
    ]
    obs = torch.from_numpy(dataset.obs)[torch.cat(picked)].to(planner.parts.device, planner.dtype)
    rollouts = min(planner.config.rollouts, PROBED_ROLLOUTS)
    probed = planner.config.unlimited().model_copy(update={"reset": "step", "rollouts": rollouts})
    twin = planner.twin(PROBED_ROWS, probed)
    alpha = obs.new_full((len(planner.seeds),), FIRST_ALPHA)
    change = torch.zeros_like(alpha)
    for probe in range(PROBES):
        twin.alpha = alpha.repeat_interleave(PROBED_ROWS)
        twin.rewind()
        action = twin.act(obs)[0]
        moved = (action - twin.pretrained_action()).norm(dim=-1)
        change = moved.unflatten(0, (-1, PROBED_ROWS)).median(1).values  # (S,)
        near = (change > PROBE / 2) & (change < PROBE * 2)
        if near.all() or probe == PROBES - 1:
            break
        correction = (PROBE / change).clamp(1 / LARGEST_CORRECTION, LARGEST_CORRECTION)
        alpha = torch.where(near, alpha, alpha * correction)
    return torch.where(change > 0, alpha / change, 0.0)
