"""Adaptive MPC: Algorithm 1 of MPCwDWM (arXiv 2603.22430).

At every real step the policy's parameters ψ ascend the return of M imagined rollouts through the differentiable world
model, E times, with the noise held fixed; then the adapted policy acts. Every row has its own ψ. The defaults are the
paper's method; the other options limit the adaptation to what the models support (docs/algorithm.md).
"""

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from mpcwdwm.config import Real, setting
from mpcwdwm.planning.ascent import Objective, climb, restored
from mpcwdwm.planning.evaluations import passes
from mpcwdwm.planning.objectives import ObjectiveConfig, check_objective, imagine, objective, worth
from mpcwdwm.planning.parts import Params, Parts
from mpcwdwm.planning.presets import POLICY, filled
from mpcwdwm.planning.step_size.alpha import SteppingPlanner, StepSizeConfig, in_unit, slope_of_policy
from mpcwdwm.planning.trust.gate import ErrorSlopes, error_slopes
from mpcwdwm.planning.trust.region import action_change, shrunk

__all__ = ["AdaptiveMpc", "MpcConfig", "adapt", "imagine", "objective"]

COMPARED_ROLLOUTS = 4  # on whose states the trust region and the gate compare actions


class MpcConfig(ObjectiveConfig, StepSizeConfig):
    """Settings of adaptive MPC; the paper's versions disagree, see `docs/deviations.md`."""

    kind: Literal["policy"] = setting("policy", "kind of planner", paper="policy")
    preset: Literal["none", "v1", "v2", "robust"] = setting(
        "none",
        "named values of the other fields, where they are not given: the paper's versions, or ours that gained "
        "(docs/algorithm.md)",
        paper="v1 or v2",
    )
    trust_region: Real | None = setting(
        None,
        "bound on the action's change at the real and at imagined states; unset: none",
        unit="action",
        paper="none",
        gt=0,
    )
    gate: Real | None = setting(
        None,
        "act adapted only where the promised gain exceeds so many standard errors of model and critic; unset: always",
        unit="standard errors",
        paper="none",
        ge=0,
    )

    @property
    def uses_dataset(self) -> bool:
        """For the gate's errors, too."""
        return self.gate is not None or super().uses_dataset

    @property
    def idle_modules(self) -> tuple[str, ...]:
        """The gate and the trust region, where they are off."""
        idle = {
            "mpcwdwm.planning.trust.gate": self.gate is None,
            "mpcwdwm.planning.trust.region": self.gate is None and self.trust_region is None,
        }
        return (*super().idle_modules, *(module for module, yes in idle.items() if yes))

    def unmeasured(self) -> Self:
        """Return the config without the gate, too."""
        return super().unmeasured().model_copy(update={"gate": None})

    def unlimited(self) -> Self:
        """Return the config without the trust region, too."""
        return super().unlimited().model_copy(update={"trust_region": None})

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("preset") == "paper":
            raise ValueError(
                "preset: paper mixed the paper's two versions; give v1 (M 10, E 5, α 1e-3) or v2 (M 4096, E 1)"
            )
        if isinstance(given, dict) and given.get("preset") == "v2" and "step_size" not in given:
            raise ValueError("preset: v2 names no step_size; the paper's second version takes 5e-7, 5e-6, 5e-5 or 5e-4")
        return filled(cls, given, POLICY)


# ------------------------------------------------------------------------------------- Algorithm 1


def adapt(
    parts: Parts,
    psi: Params,
    psi0: Params,
    obs: Tensor,
    noises: Sequence[Tensor],
    config: MpcConfig,
    chunk: int | None = None,
    step_size: float | Tensor | None = None,
) -> tuple[Params, Tensor, Tensor]:
    """E steps of plain gradient ascent on ψ: ψ ← ψ + α ∇Ĵ(ψ), each within the trust region if there is one.

    A row whose objective or gradient is not finite falls back to the pretrained ψ₀.

    Args:
        parts: what to imagine with.
        psi: where to start, one set per row.
        psi0: the pretrained parameters.
        obs: (N, obs_dim).
        noises: the noise of each of the E steps.
        config: the planner's.
        chunk: rollouts per backward pass; None for all.
        step_size: as `SteppingPlanner.alpha`; None for the config's.

    Returns:
        The adapted parameters, Ĵ before the last step (N,), and which rows fell back (N,).
    """
    size = config.step_size if step_size is None else step_size
    assert not isinstance(size, str)
    alpha = in_unit(config, size, lambda own, gradient: slope_of_policy(parts.policy, own, gradient, obs))
    at = _objective_at(parts, obs, config)
    if config.trust_region is None or not noises:
        return climb(at, psi, psi0, noises, alpha, chunk=chunk)
    bound, states = config.trust_region, compared_states(parts, psi0, obs, noises[0], config)
    return climb(
        at, psi, psi0, noises, alpha, chunk=chunk, within=lambda moved: shrunk(parts, psi0, moved, states, bound)
    )


def _objective_at(parts: Parts, obs: Tensor, config: MpcConfig) -> Objective:
    return lambda psi, noise: objective(parts, psi, obs, noise, config)


@torch.no_grad()
def compared_states(parts: Parts, psi0: Params, obs: Tensor, noise: Tensor, config: MpcConfig) -> Tensor:
    """Return the real state and those that the pretrained policy would reach, (N, 1 + H · B, obs_dim).

    A state behind a termination is replaced by the real one.
    """
    imagined = imagine(parts, psi0, obs, noise[:, :, :COMPARED_ROLLOUTS], config)
    real = obs.unsqueeze(1)
    later = zip(imagined.obs[1:], imagined.alive[1:], strict=True)
    return torch.cat([real, *(torch.where(alive.unsqueeze(-1) > 0, state, real) for state, alive in later)], 1)


@torch.no_grad()
def promised_gain(
    parts: Parts, psi: Params, psi0: Params, obs: Tensor, noise: Tensor, config: MpcConfig, chunk: int | None = None
) -> Tensor:
    """Return what the objective gains from ψ₀ to ψ under the same noise, (N,), in the critic's unit.

    Terms whose gradient stops at the states are evaluated at those that ψ₀ reaches, for both.
    """
    rollouts = noise.shape[2]
    gain = torch.zeros_like(obs[:, 0])
    for part in passes(noise, chunk or rollouts):
        before, after = (imagine(parts, own, obs, part, config) for own in (psi0, psi))
        difference = worth(parts, psi, after, before, config) - worth(parts, psi0, before, before, config)
        gain = gain + difference * (part.shape[2] / rollouts)
    return gain


# ------------------------------------------------------------------------------------- the planner


class AdaptiveMpc(SteppingPlanner):
    """The planner: keeps every row's ψ from step to step and acts with it."""

    config_class = MpcConfig
    config: MpcConfig
    slopes: ErrorSlopes | None = None

    @property
    def psi(self) -> Params:
        """Every row's policy parameters as they are now."""
        return self.kept or self.psi0

    def initial(self) -> Params:
        """Return the pretrained ψ₀."""
        return self.psi0

    def objective_of(self, variables: Params, noise: Tensor) -> Tensor:
        """Return Ĵ(ψ), (N,)."""
        return objective(self.parts, variables, self.obs, noise, self.config)

    def climbed(self) -> Params:
        """Return ψ₀."""
        return self.psi0

    def prepare(self) -> None:
        """Measure the models' errors, too."""
        check_objective(self.parts, self.config)
        super().prepare()
        if self.config.gate is not None:
            self.slopes = error_slopes(self.parts, self.config, self.seeds)

    def plan(self) -> tuple[Tensor, Tensor, Tensor]:
        """Adapt every row's ψ and act with it, where the gate lets it."""
        if self.afresh is not None:
            start = restored(self.psi, self.psi0, self.afresh)
        else:
            start = self.psi0 if self.config.reset == "step" else self.psi
        psi, value, fallen = adapt(
            self.parts, start, self.psi0, self.obs, self.held_noises(), self.config, self._chunk, self.alpha
        )
        with torch.no_grad():
            action = self.parts.policy(psi, self.obs.unsqueeze(1)).squeeze(1)
        overflown = ~action.isfinite().all(1)  # finite parameters can still overflow in the network
        psi = restored(psi, self.psi0, overflown)
        if self.slopes is not None:
            action = torch.where(self.accepted(psi).unsqueeze(1), action, self.pretrained_action())
        self.keep(psi)
        return action, value, fallen | overflown

    def accepted(self, psi: Params) -> Tensor:
        """Return the rows (N,) whose promised gain exceeds the models' errors."""
        config, noise, gate = self.config, self.noises[-1], self.config.gate
        assert self.slopes is not None
        assert gate is not None
        gain = promised_gain(self.parts, psi, self.psi0, self.obs, noise, config, self._chunk)
        states = compared_states(self.parts, self.psi0, self.obs, noise, config)
        with torch.no_grad():
            change = action_change(self.parts, self.psi0, psi, states).square().mean(1).sqrt()  # (N,)
        error = self.slopes.total.repeat_interleave(self.episodes)
        return gain > gate * error * change

    def findings(self) -> list[dict[str, Any] | None]:
        """Return the error slopes, too."""
        slopes = [None] * len(self.seeds) if self.slopes is None else self.slopes.total.tolist()
        measured = zip(super().findings(), slopes, strict=True)
        return [own and {**own, "error_slope": slope} for own, slope in measured]
