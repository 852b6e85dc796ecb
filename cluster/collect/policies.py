"""Gaussian policies as plain arrays, and the episodes they play.

A policy here needs neither RLlib nor torch to act: what training made is kept as weights (safetensors), so that a
dataset of another kind can be rolled from it later, in any process.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.collect.rows import Rows, concatenated
from mpcwdwm.data.hdf5 import Arrays
from mpcwdwm.envs.factory import make_env
from mpcwdwm.random import derive_seed

__all__ = ["OBS_CLIP", "Policy", "Recorder", "Rolling", "episode_returns"]

OBS_CLIP = 10.0  # normalised observations beyond this are clipped
LOG_STD_RANGE = (-5.0, 2.0)  # of a log standard deviation that depends on the observation, as RLlib clips it

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Policy:
    """A network that gives the mean of a normal distribution, and its standard deviation.

    The action is the sample clipped to [-1, 1] where `log_std` is a constant (PPO), and its tanh where the network
    gives mean and log standard deviation, one after the other (SAC).
    """

    weights: tuple[Array, ...]  # (out, in) of each layer
    biases: tuple[Array, ...]  # (out,)
    log_std: Array | None  # (a,); None: the second half of the network's output
    obs_mean: NDArray[np.float64]  # (o,)
    obs_std: NDArray[np.float64]  # (o,)

    def distribution(self, obs: NDArray[Any]) -> tuple[Array, Array]:
        """Return mean (a,) and standard deviation (a,) at one observation (o,), before clipping or tanh."""
        scaled = (obs - self.obs_mean) / self.obs_std
        hidden = np.clip(scaled, -OBS_CLIP, OBS_CLIP).astype(np.float32)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = weight @ hidden + bias
            hidden = np.maximum(hidden, 0) if self.log_std is None else np.tanh(hidden)
        output = self.weights[-1] @ hidden + self.biases[-1]
        if self.log_std is not None:
            return output, np.exp(self.log_std)
        mean, log_std = np.split(output, 2)
        return mean, np.exp(np.clip(log_std, *LOG_STD_RANGE))

    def act(self, obs: NDArray[Any], noise: np.random.Generator) -> Array:
        """Return an action (a,) drawn at one observation (o,)."""
        mean, std = self.distribution(obs)
        drawn = mean + std * noise.standard_normal(mean.shape, dtype=np.float32)
        return np.tanh(drawn) if self.log_std is None else np.clip(drawn, -1, 1)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return everything by name."""
        arrays: dict[str, NDArray[Any]] = {"obs_mean": self.obs_mean, "obs_std": self.obs_std}
        arrays |= {f"weights.{layer}": weight for layer, weight in enumerate(self.weights)}
        arrays |= {f"biases.{layer}": bias for layer, bias in enumerate(self.biases)}
        if self.log_std is not None:
            arrays["log_std"] = self.log_std
        return {name: torch.from_numpy(np.array(values)) for name, values in arrays.items()}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> "Policy":
        """Return what `to_tensors` was called on."""
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        layers = range(sum(name.startswith("weights.") for name in arrays))
        return Policy(
            weights=tuple(arrays[f"weights.{layer}"] for layer in layers),
            biases=tuple(arrays[f"biases.{layer}"] for layer in layers),
            log_std=arrays.get("log_std"),
            obs_mean=arrays["obs_mean"],
            obs_std=arrays["obs_std"],
        )


# ── Episodes ──────────────────────────────────────────────────────────────────


class Recorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps every transition of an environment whose actions lie in [-1, 1], and MuJoCo's state before it.

    Args:
        env: the environment.
        episodes: every finished episode is appended here.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], episodes: list[Rows]) -> None:
        super().__init__(env)
        self.episodes = episodes
        self._obs: NDArray[Any] = np.empty(0)
        self._steps: list[tuple[Any, ...]] = []
        self._states: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []

    @property
    def steps(self) -> int:
        """Return how many transitions the episode that is being played has so far."""
        return len(self._steps)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; one that was not finished ends with a timeout."""
        self.cut()
        self._obs, info = self.env.reset(seed=seed, options=options)
        return self._obs, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take a step with the action as it is recorded: float32, within [-1, 1]."""
        action = np.clip(np.asarray(action, dtype=np.float32), -1, 1)
        self._keep_state()
        next_obs, reward, terminal, truncated, info = self.env.step(action)
        timeout = truncated and not terminal  # an end on the last step of the limit is an end
        self._steps.append((self._obs, action, reward, next_obs, terminal, timeout))
        self._obs = next_obs
        if terminal or truncated:
            self._finish()
        return next_obs, reward, terminal, truncated, info

    def cut(self) -> None:
        """End the episode that is being played, if it has a transition, with a timeout."""
        if self._steps:
            *before, terminal, _ = self._steps[-1]
            self._steps[-1] = (*before, terminal, not terminal)
            self._finish()

    def _keep_state(self) -> None:
        from gymnasium.envs.mujoco import MujocoEnv

        robot = self.env.unwrapped
        if isinstance(robot, MujocoEnv):
            self._states.append((robot.data.qpos.copy(), robot.data.qvel.copy()))

    def _finish(self) -> None:
        *floats, terminals, timeouts = zip(*self._steps, strict=True)
        obs, action, reward, next_obs = (np.asarray(values, dtype=np.float32) for values in floats)
        arrays = Arrays(obs, action, reward, np.asarray(terminals, bool), np.asarray(timeouts, bool), next_obs)
        names = ("qpos", "qvel") if self._states else ()
        infos = {name: np.asarray(values) for name, values in zip(names, zip(*self._states, strict=True), strict=True)}
        self.episodes.append((arrays, infos))
        self._steps, self._states = [], []


@dataclass(frozen=True, eq=False)
class Rolling:
    """Rolls pieces of a policy's episodes: `cluster.collect.pieces.Roll`."""

    env_id: str
    policy: Policy

    def __call__(self, rows: int, seed: int) -> Rows:
        """Return at least `rows` rows; an episode that goes on for as many again is cut there."""
        episodes: list[Rows] = []
        for count, recorder in enumerate(_played(self.env_id, self.policy, episodes, seed), 1):
            if count == 2 * rows:
                recorder.cut()
            if count >= rows and not recorder.steps:
                break
        return concatenated(episodes)


def episode_returns(env_id: str, policy: Policy, count: int, seed: int) -> list[float]:
    """Return the undiscounted returns of `count` episodes, played as `Rolling` plays them."""
    episodes: list[Rows] = []
    for _ in _played(env_id, policy, episodes, seed):
        if len(episodes) == count:
            break
    return [float(arrays.reward.sum(dtype=np.float64)) for arrays, _ in episodes]


def _played(env_id: str, policy: Policy, episodes: list[Rows], seed: int) -> Iterator[Recorder]:
    """Yield the recorder after every step, without end."""
    noise = np.random.default_rng(derive_seed(seed, "actions"))
    recorder = Recorder(make_env(env_id), episodes)
    try:
        obs, _ = recorder.reset(seed=derive_seed(seed, "starts") % 2**31)
        while True:
            obs, *_ = recorder.step(policy.act(obs, noise))
            yield recorder
            if not recorder.steps:
                obs, _ = recorder.reset()
    finally:
        recorder.close()
