"""Adaptive MPC: Algorithm 1 of MPCwDWM (arXiv 2603.22430).

At every real step the policy's own parameters ψ ascend the return of M imagined rollouts through
the differentiable world model, E times, with the noise held fixed; then the adapted policy acts.
Every row has its own ψ.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mpcwdwm.config import Real, setting
from mpcwdwm.planning.ascent import Objective, climb, restored, rollouts_per_pass
from mpcwdwm.planning.imagination import Imagined, returns_of, unroll
from mpcwdwm.planning.parts import Params, Parts
from mpcwdwm.planning.planner import AdaptingConfig, LookaheadConfig, Planner

__all__ = ["AdaptiveMpc", "MpcConfig", "adapt", "imagine", "objective"]


class MpcConfig(AdaptingConfig):
    """Run-time hyper-parameters; readings of the paper disagree, see `docs/deviations.md`."""

    kind: Literal["policy"] = setting("policy", "kind of planner", paper="policy")
    step_size: Real = setting(1e-5, "step of the gradient ascent", paper="1e-3 (v1), 5e-7 to 5e-4 (v2)", ge=0)
    reset: Literal["episode", "step"] = setting(
        "episode", "when ψ returns to the pretrained one; in between it is carried over", paper="unknown"
    )


def imagine(parts: Parts, psi: Params, obs: Tensor, noise: Tensor, config: LookaheadConfig) -> Imagined:
    """Roll the policy through the world model: s̃_0 = s, ã_j = π_ψ(s̃_j), s̃_{j+1} = f(s̃_j, ã_j, ε_j).

    Args:
        parts: policy and world model.
        psi: one set of policy parameters per row.
        obs: the real observation, (N, obs_dim).
        noise: (N, H, M, *noise_shape).
        config: termination.
    """
    return unroll(parts, obs, noise, lambda _, state: parts.policy(psi, state), terminate=config.terminate)


def objective(parts: Parts, psi: Params, obs: Tensor, noise: Tensor, config: LookaheadConfig) -> Tensor:
    """Ĵ(ψ) = mean over rollouts of Σ_j γ^j r(s̃_j, ã_j) + γ^H Q(s̃_H, ã_H), terms behind a termination dropped.

    Returns:
        (N,), in the critic's unit.
    """
    return returns_of(parts, imagine(parts, psi, obs, noise, config), config).mean(1)


def adapt(
    parts: Parts,
    psi: Params,
    psi0: Params,
    obs: Tensor,
    noises: Sequence[Tensor],
    config: MpcConfig,
    chunk: int | None = None,
) -> tuple[Params, Tensor, Tensor]:
    """E steps of plain gradient ascent on ψ: ψ ← ψ + α ∇Ĵ(ψ).

    A row whose objective or gradient is not finite falls back to the pretrained ψ₀; no other row
    notices.

    Args:
        parts: what to imagine with.
        psi: where to start, one set per row.
        psi0: the pretrained parameters.
        obs: (N, obs_dim).
        noises: the noise of each of the E steps.
        config: the planner's.
        chunk: rollouts per backward pass; None for all.

    Returns:
        The adapted parameters, Ĵ before the last step (N,), and which rows fell back (N,).
    """
    return climb(_objective_at(parts, obs, config), psi, psi0, noises, config.step_size, chunk=chunk)


def _objective_at(parts: Parts, obs: Tensor, config: MpcConfig) -> Objective:
    return lambda psi, noise: objective(parts, psi, obs, noise, config)


class AdaptiveMpc(Planner):
    """The planner: keeps every row's ψ from step to step and acts with it."""

    config_class = MpcConfig
    config: MpcConfig

    @property
    def psi(self) -> Params:
        """Every row's policy parameters as they are now."""
        return self.kept or self.psi0

    def initial(self) -> Params:
        """Return the pretrained ψ₀."""
        return self.psi0

    def prepare(self) -> None:
        """Measure how many rollouts a backward pass may have."""
        at = _objective_at(self.parts, self.obs, self.config)
        self._chunk = rollouts_per_pass(at, self.psi0, self.noises[0], self.config.memory_gb)

    def plan(self) -> tuple[Tensor, Tensor, Tensor]:
        """Adapt every row's ψ and act with it."""
        start = self.psi0 if self.config.reset == "step" else self.psi
        noises = [self.noises[e % len(self.noises)] for e in range(self.config.updates)]
        psi, value, fallen = adapt(self.parts, start, self.psi0, self.obs, noises, self.config, self._chunk)
        with torch.no_grad():
            action = self.parts.policy(psi, self.obs.unsqueeze(1)).squeeze(1)
        overflown = ~action.isfinite().all(1)  # finite parameters can still overflow in the network
        self.keep(restored(psi, self.psi0, overflown))
        return action, value, fallen | overflown
