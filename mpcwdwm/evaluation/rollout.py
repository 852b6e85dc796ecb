"""Real environments, stepped in lockstep: the policy or planner acts on one batch per step.

An episode that has ended keeps its row, so that the others' numbers do not depend on its length.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor

from mpcwdwm.envs.factory import make_env
from mpcwdwm.errors import UserError
from mpcwdwm.random import derive_seed

__all__ = ["Rollout", "episode_seeds", "rollout"]

Act = Callable[[Tensor, Tensor], Tensor]
"""(obs (N, obs_dim), alive (N,) bool) → action (N, act_dim)."""


@dataclass(frozen=True)
class Rollout:
    """One finished episode."""

    env_seed: int
    return_: float  # undiscounted, in the environment's unit
    length: int  # steps
    ms_per_step: float  # time to act: wall milliseconds per step of the batch, over the batch's size
    rewards: tuple[float, ...] = ()  # of every step, in the environment's unit


def episode_seeds(env_seed: int, episodes: int, purpose: str = "evaluation") -> list[int]:
    """Return the reset seed of each episode; the same for every method, so that comparisons are paired."""
    return [derive_seed(env_seed, purpose, episode) % 2**31 for episode in range(episodes)]


def rollout(
    env_id: str,
    act: Act,
    env_seeds: Sequence[int],
    *,
    max_steps: int,
    env_kwargs: Mapping[str, JsonValue] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> list[Rollout]:
    """Run one episode per seed and return them in order.

    Args:
        env_id: Gymnasium id.
        act: the policy; it acts in ended episodes, too, where its actions are ignored.
        env_seeds: one reset seed per episode, N in all.
        max_steps: episodes are cut here at the latest.
        env_kwargs: what the environment is made with.
        device: where observations are put.
        dtype: of the observations.
        on_step: called with the number of steps done and which episodes are still running.

    Raises:
        UserError: the environment gives a reward, or in a running episode an observation, that is not finite.
    """
    envs = [make_env(env_id, env_kwargs) for _ in env_seeds]
    try:
        obs = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, env_seeds, strict=True)])
        _check_finite(obs, f"environment '{env_id}', reset")
        alive = np.ones(len(envs), dtype=bool)
        returns, lengths = np.zeros(len(envs)), np.zeros(len(envs), dtype=int)
        rewards: list[list[float]] = [[] for _ in envs]
        milliseconds = np.zeros(len(envs))
        for step in range(max_steps):
            running = torch.from_numpy(alive.copy())
            started = time.perf_counter()
            # the copy to the host waits for the device, so its work is timed
            actions = act(torch.from_numpy(obs).to(device, dtype), running.to(device)).cpu().double().numpy()
            milliseconds[alive] += 1000 * (time.perf_counter() - started) / len(envs)
            for i in np.flatnonzero(alive):
                obs[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
                returns[i] += float(reward)
                rewards[i].append(float(reward))
                lengths[i] += 1
                alive[i] = not (terminated or truncated)
                if not np.isfinite(returns[i]):
                    raise UserError(f"environment '{env_id}', step {lengths[i]}: the reward is {reward}")
                if alive[i]:
                    _check_finite(obs[i], f"environment '{env_id}', step {lengths[i]}")
                elif not np.isfinite(obs[i]).all():
                    obs[i] = 0  # nobody acts on it any more
            if on_step is not None:
                on_step(step + 1, torch.from_numpy(alive.copy()))
            if not alive.any():
                break
    finally:
        for env in envs:
            env.close()
    return [
        Rollout(int(seed), float(r), int(n), float(ms / n), tuple(each))
        for seed, r, n, ms, each in zip(env_seeds, returns, lengths, milliseconds, rewards, strict=True)
    ]


def _check_finite(obs: NDArray[np.number[Any]], where: str) -> None:
    """Raise UserError unless all numbers of an observation are finite: no policy has an action for others."""
    finite = np.isfinite(obs)
    if not finite.all():
        place = np.argwhere(~finite)[0]
        raise UserError(f"{where}: entry {place[-1]} of the observation is {obs[tuple(place)]}")
