"""Adaptive MPC: Algorithm 1 of MPCwDWM (arXiv 2603.22430).

At every real step the policy's own parameters ψ ascend the return of M imagined rollouts through
the differentiable world model, E times, with the noise held fixed; then the adapted policy acts.
All episodes of an evaluation (seeds × episodes = N rows) are planned for in one batch, each with
its own ψ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mpcwdwm.compute import Captured, ComputeConfig, matmul_precision, path_of
from mpcwdwm.config import Config, Flag, Int, Real, setting
from mpcwdwm.errors import UserError
from mpcwdwm.planning.parts import Params, Parts
from mpcwdwm.random import generator
from mpcwdwm.weight_gradients import gathered_weight_gradients

__all__ = ["AdaptiveMpc", "Imagined", "MpcConfig", "adapt", "ascent", "imagine", "objective", "rollouts_per_pass"]

# Of the memory a plan may take, the share for what autograd keeps. Gradients on their way and the gaps
# of the allocator between passes take the rest: the measured peak was 2.2 to 2.5 times what is kept.
KEPT_SHARE = 0.35


class MpcConfig(Config):
    """Run-time hyper-parameters; readings of the paper disagree, see `docs/deviations.md`."""

    needs: ClassVar[tuple[str, ...]] = ("world_model", "reward")

    kind: Literal["policy"] = setting("policy", "kind of planner", paper="policy")
    base: Literal["rebrac", "iql"] = setting(
        "rebrac", "component whose policy is adapted and whose critic ends the plan", paper="rebrac"
    )
    horizon: Int = setting(5, "imagined steps", unit="steps", paper=5, alias="H", ge=0, le=1000)
    rollouts: Int = setting(
        10, "imagined rollouts per real step", paper="10 (v1), 4096 (v2)", alias="M", ge=1, le=10**6
    )
    updates: Int = setting(1, "gradient steps per real step", paper="5 (v1), 1 (v2)", alias="E", ge=0, le=1000)
    step_size: Real = setting(1e-5, "step of the gradient ascent", paper="1e-3 (v1), 5e-7 to 5e-4 (v2)", ge=0)
    reset: Literal["episode", "step"] = setting(
        "episode", "when ψ returns to the pretrained one; in between it is carried over", paper="unknown"
    )
    noise: Literal["held", "redrawn"] = setting("held", "noise over the E gradient steps of a real step", paper="held")
    critic: Literal["min", "mean", "first"] = setting("min", "how the twin critics are reduced", paper="min (v2)")
    memory_gb: Real = setting(2.0, "memory of a plan; rollouts beyond it take further backward passes", unit="GB", gt=0)
    terminate: Flag = setting(True, "end imagined rollouts by the known termination rule", paper="unknown")


# -------------------------------------------------------------------------------------- imagination


@dataclass(frozen=True)
class Imagined:
    """M rollouts of H steps for each of N rows."""

    obs: list[Tensor]  # H + 1 of (N, M, obs_dim)
    action: list[Tensor]  # H + 1 of (N, M, act_dim)
    alive: list[Tensor]  # H + 1 of (N, M): 1 until the rollout has terminated


def imagine(parts: Parts, psi: Params, obs: Tensor, noise: Tensor, config: MpcConfig) -> Imagined:
    """Roll the policy through the world model: s̃_0 = s, ã_j = π_ψ(s̃_j), s̃_{j+1} = f(s̃_j, ã_j, ε_j).

    Args:
        parts: policy and world model.
        psi: one set of policy parameters per row.
        obs: the real observation, (N, obs_dim).
        noise: (N, H, M, *noise_shape).
        config: horizon, termination.
    """
    n, m = obs.shape[0], noise.shape[2]
    state = obs.unsqueeze(1)  # (N, 1, obs_dim): before the first transition all rollouts are one
    action = parts.policy(psi, state)
    states = [state.expand(n, m, -1)]
    actions = [action.expand(n, m, -1)]
    alive = [obs.new_ones(n, m)]
    for j in range(config.horizon):
        assert parts.world_model is not None
        state = parts.world_model.sample(states[j], actions[j], noise[:, j])
        ended = parts.termination(state) if config.terminate and parts.termination else None
        alive.append(alive[j] if ended is None else alive[j] * ~ended)
        states.append(state)
        actions.append(parts.policy(psi, state))
    return Imagined(states, actions, alive)


def objective(parts: Parts, psi: Params, obs: Tensor, noise: Tensor, config: MpcConfig) -> Tensor:
    """Ĵ(ψ) = mean over rollouts of Σ_j γ^j r(s̃_j, ã_j) + γ^H Q(s̃_H, ã_H), terms behind a termination dropped.

    Returns:
        (N,), in the critic's unit.
    """
    imagined = imagine(parts, psi, obs, noise, config)
    total = obs.new_zeros(obs.shape[0], noise.shape[2])
    for j in range(config.horizon):
        assert parts.reward is not None
        reward = parts.reward(imagined.obs[j], imagined.action[j])  # (N, M)
        total = total + parts.discount**j * imagined.alive[j] * reward
    if parts.critic is not None:
        q = parts.critic(imagined.obs[-1], imagined.action[-1])  # (N, C, M)
        value = {"min": q.amin(1), "mean": q.mean(1), "first": q[:, 0]}[config.critic]
        total = total + parts.discount**config.horizon * imagined.alive[-1] * value
    return total.mean(1)


# --------------------------------------------------------------------------------------- adaptation


def ascent(
    parts: Parts, psi: Params, obs: Tensor, noise: Tensor, config: MpcConfig, chunk: int
) -> tuple[Tensor, Params]:
    """Return Ĵ (N,) and ∇Ĵ of every row, at most `chunk` rollouts at a time.

    Ĵ of a row depends on no other row's ψ, so the gradient of the sum over rows is every row's own.
    """
    leaves = {name: p.detach().requires_grad_() for name, p in psi.items()}
    value = obs.new_zeros(obs.shape[0])
    gradient: Params = {}
    for part in noise.split(chunk, dim=2):
        with gathered_weight_gradients():
            share = objective(parts, leaves, obs, part, config) * (part.shape[2] / noise.shape[2])
        gradients = torch.autograd.grad(share.sum(), list(leaves.values()))
        value += share.detach()
        gradient = {n: gradient[n] + g if gradient else g for n, g in zip(leaves, gradients, strict=True)}
    return value, gradient


def rollouts_per_pass(parts: Parts, psi: Params, obs: Tensor, noise: Tensor, config: MpcConfig) -> int:
    """Return how many rollouts of every row one backward pass may have within `config.memory_gb`.

    What autograd keeps for one more rollout is measured, so it holds for any objective and any part.
    """

    def kept(rollouts: int) -> int:  # bytes
        storages: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        leaves = {name: p.detach().requires_grad_() for name, p in psi.items()}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            value = objective(parts, leaves, obs, noise[:, :, :rollouts], config)
        assert value.requires_grad  # keeps the graph, and with it the storages, alive until here
        return sum(storages.values())

    if config.rollouts < 3:
        return config.rollouts
    return max(1, int(KEPT_SHARE * config.memory_gb * 1e9 / max(1, kept(3) - kept(2))))


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
    fallen = torch.zeros(obs.shape[0], dtype=torch.bool, device=obs.device)
    value = obs.new_full((obs.shape[0],), float("nan"))
    for noise in noises:
        value, gradient = ascent(parts, psi, obs, noise, config, chunk or noise.shape[2])
        finite = value.isfinite()
        for g in gradient.values():
            finite = finite & g.flatten(1).sum(1).isfinite()  # one pass: nan and inf survive a sum
        fallen = fallen | ~finite
        # the sum takes the gradient's place: ψ is the largest tensor here, and new memory costs page faults
        psi = {n: torch.add(p, gradient[n], alpha=config.step_size, out=gradient[n]) for n, p in psi.items()}
        psi = restored(psi, psi0, fallen)
    return psi, value, fallen


def restored(psi: Params, psi0: Params, fallen: Tensor) -> Params:
    """Return ψ, with the pretrained ψ₀ in the rows that fell back."""
    # On a CPU looking first is free and spares a pass over ψ; on an accelerator it would wait for the device.
    if fallen.device.type == "cpu" and not fallen.any():
        return psi
    return {name: torch.where(fallen.view(-1, *[1] * (p.dim() - 1)), psi0[name], p) for name, p in psi.items()}


class AdaptiveMpc:
    """The planner: keeps every row's ψ from step to step and acts with it.

    What a step reads and writes (observation, noise, ψ) stays where it is, so that on a GPU the whole
    step, E updates and the action, is one captured graph.

    Args:
        parts: policy, world model, reward, critic.
        config: the planner's.
        seeds: one per member; the noise of a member's plans follows from its seed alone.
        episodes: rows per member.
        compute: how a step is run.
    """

    def __init__(
        self,
        parts: Parts,
        config: MpcConfig | None = None,
        *,
        seeds: Sequence[int] = (0,),
        episodes: int = 1,
        compute: ComputeConfig | None = None,
    ) -> None:
        self.parts, self.config, self.episodes = parts, config or MpcConfig(), episodes
        self.seeds = tuple(seeds)
        if len(self.seeds) != parts.members:
            raise UserError(f"{len(self.seeds)} seeds for {parts.members} members: give one seed per member")
        if self.config.horizon > 0 and (parts.world_model is None or parts.reward is None):
            raise UserError(
                "a horizon above 0 needs a world model and a reward: set parts.world_model and parts.reward"
            )
        if self.config.horizon == 0 and parts.critic is None:
            raise UserError("horizon 0 needs a critic: nothing is left to maximise")
        self.compute = compute or ComputeConfig()
        self.path = path_of(self.compute, parts.device)
        self.psi0 = parts.policy.initial(episodes)
        self.psi = {name: p.clone() for name, p in self.psi0.items()}
        like = next(iter(self.psi0.values()))
        self._obs: Tensor | None = None  # (N, obs_dim)
        shape = () if parts.world_model is None else parts.world_model.noise_shape
        size = (parts.members * episodes, self.config.horizon, self.config.rollouts, *shape)
        draws = min(self.config.updates, 1) if self.config.noise == "held" else self.config.updates
        self._noises = [torch.empty(size, dtype=like.dtype, device=parts.device) for _ in range(max(draws, 1))]
        self._chunk: int | None = None  # measured at the first step
        self._step = Captured(self._adapt_and_act, parts.device) if self.path == "graph" else self._adapt_and_act
        self.reset()

    def reset(self) -> None:
        """Begin new episodes: the pretrained ψ, and the noise from its start."""
        self._assign(self.psi0)
        self._generators = [generator(seed, "plan", device=self.parts.device) for seed in self.seeds]

    def draw_noise(self) -> list[Tensor]:
        """Draw the noise of one real step in place and return it: one (N, H, M, *noise_shape), or one per update."""
        for noise in self._noises:
            for own, g in zip(noise.split(self.episodes), self._generators, strict=True):
                own.normal_(generator=g)  # each member's rows from its own stream
        return self._noises

    def act(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Adapt at `obs` (N, obs_dim) and act.

        Returns:
            Actions (N, act_dim), Ĵ (N,), and which rows fell back to the pretrained policy (N,). They are
            overwritten by the next call.
        """
        if self.config.reset == "step":
            self._assign(self.psi0)
        self.draw_noise()
        if self._obs is None:
            self._obs = obs.clone()
            self._chunk = rollouts_per_pass(self.parts, self.psi0, obs, self._noises[0], self.config)
        self._obs.copy_(obs)
        with matmul_precision(self.compute):
            return self._step()

    def _adapt_and_act(self) -> tuple[Tensor, Tensor, Tensor]:
        assert self._obs is not None
        noises = [self._noises[e % len(self._noises)] for e in range(self.config.updates)]
        psi, value, fallen = adapt(self.parts, self.psi, self.psi0, self._obs, noises, self.config, self._chunk)
        with torch.no_grad():
            action = self._policy_action(psi)
            overflown = ~action.isfinite().all(1)  # finite parameters can still overflow in the network
            psi = restored(psi, self.psi0, overflown)
            action = torch.where(overflown.unsqueeze(1), self._policy_action(self.psi0), action)
        self._assign(psi)
        return action, value, fallen | overflown

    def _policy_action(self, psi: Params) -> Tensor:
        assert self._obs is not None
        return self.parts.policy(psi, self._obs.unsqueeze(1)).squeeze(1)

    def _assign(self, psi: Params) -> None:
        for name, p in self.psi.items():
            p.copy_(psi[name])

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Adapt at one observation (obs_dim,) and return one action (act_dim,): for a single environment."""
        rows = torch.as_tensor(obs, dtype=next(iter(self.psi0.values())).dtype, device=self.parts.device)
        return self.act(rows.unsqueeze(0))[0].squeeze(0).cpu().numpy()
