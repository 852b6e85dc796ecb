"""Replay: rows of a dataset stepped again in an environment on MuJoCo.

A row's state is `infos/qpos` and `infos/qvel` where the file has them, else read from the observation, where that
holds the state but for the root's place. From it the row's action is applied once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from numpy.typing import NDArray

from mpcwdwm.data.dataset import Dataset, from_arrays
from mpcwdwm.data.fingerprint import sha256_of
from mpcwdwm.data.hdf5 import Arrays
from mpcwdwm.data.opening import opened
from mpcwdwm.envs.antmaze import AntMaze
from mpcwdwm.envs.factory import env_spec, make_env
from mpcwdwm.errors import UserError

__all__ = ["AGREES", "Array", "Recording", "Replayed", "Rows", "Simulator", "States", "dims_of", "error_of_rows"]

AGREES = 1e-3  # error of a row, relative to max(1, |value|), above any rounding of float32 and below any other action's
CLIP = 10.0  # Hopper's and Walker2d's observations hold velocities no larger than this

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Recording:
    """A dataset with the simulator's states and goals, where the file has them."""

    data: Dataset
    qpos: Array | None
    qvel: Array | None
    goal: Array | None

    @property
    def dims(self) -> tuple[int, int]:
        """Dimensions of observation and action."""
        return self.data.obs_dim, self.data.act_dim

    @classmethod
    def read(cls, path: Path, arrays: Arrays) -> "Recording":
        """Return the recording in a file in D4RL's layout, of which these are the arrays."""
        data = from_arrays(arrays, sha256_of(path), path)
        found: dict[str, Array | None] = {}
        with opened(path) as file:
            for name in ("qpos", "qvel", "goal"):
                stored = file.get(f"infos/{name}")
                fits = isinstance(stored, h5py.Dataset) and stored.ndim == 2 and len(stored) == len(data.obs)
                found[name] = np.asarray(stored[()], np.float64) if fits else None
        return cls(data, **found)


@dataclass(frozen=True)
class States:
    """Where each row's state comes from."""

    source: str
    qpos: Array  # (N, nq)
    qvel: Array  # (N, nv)
    clipped: NDArray[np.bool_]  # (N,) the state cannot be had


@dataclass(frozen=True)
class Replayed:
    """What the environment made of the replayed rows."""

    next_obs: Array  # (rows, o)
    reward: Array  # (rows,)
    terminal: NDArray[np.bool_]  # (rows,)


class Simulator:
    """An environment on MuJoCo that is put into given states."""

    def __init__(self, env_id: str) -> None:
        env_spec(env_id)
        self.env = make_env(env_id)
        inner = self.env.unwrapped
        if not isinstance(inner, MujocoEnv):
            self.env.close()
            raise UserError(f"environment '{env_id}' cannot be put into a state: only those on MuJoCo can (set_state)")
        self.inner = inner
        self.dims = self.env.observation_space.shape[0], self.env.action_space.shape[0]
        self.sizes = int(inner.model.nq), int(inner.model.nv)

    def __enter__(self) -> "Simulator":
        return self

    def __exit__(self, *_: object) -> None:
        self.env.close()

    def knows_goal(self, recording: Recording) -> bool:
        """Return whether rewards can be compared: a maze's depend on the goal."""
        return not isinstance(self.inner, AntMaze) or recording.goal is not None

    def states_of(self, recording: Recording) -> States:
        """Return every row's state; raises UserError where neither file nor observations hold it."""
        data, (nq, nv) = recording.data, self.sizes
        qpos, qvel = recording.qpos, recording.qvel
        if qpos is None or qvel is None or (qpos.shape[1], qvel.shape[1]) != (nq, nv):
            read = self.from_observations(data.obs)
            if read is None:
                raise UserError(
                    f"dataset '{data.path}' holds no states: 'infos/qpos' (N, {nq}) and 'infos/qvel' (N, {nv}) are"
                    " missing, and an observation does not hold them"
                )
            return read
        clear = np.zeros(len(qpos), dtype=bool)
        return States("infos/qpos and infos/qvel", qpos, qvel, clear)

    def from_observations(self, obs: NDArray[np.floating[Any]]) -> States | None:
        """Return the states in the observations (qpos but for the root's place, qvel), None if they hold none."""
        nq, nv = self.sizes
        unseen = nq + nv - obs.shape[1]
        if not 0 <= unseen <= 2:
            return None
        seen, _ = self.env.reset(seed=0)
        state = np.concatenate([self.inner.data.qpos[unseen:], self.inner.data.qvel])
        if np.abs(seen - state).max() > AGREES:
            return None
        qpos = np.zeros((len(obs), nq))
        qpos[:, unseen:] = obs[:, : nq - unseen]
        qvel = obs[:, nq - unseen :].astype(np.float64)
        source = "the observations" if not unseen else "the observations, the root placed at 0"
        clipped = np.asarray((np.abs(np.abs(qvel) - CLIP) < AGREES).any(axis=1))
        return States(source, qpos, qvel, clipped)

    def replay(
        self, states: States, rows: Rows, recording: Recording, *, late: Mapping[str, int] | None = None
    ) -> Replayed:
        """Apply each row's action to its state; ``late``: columns (state, action) read from so many rows later."""
        shift = {"state": 0, "action": 0, **(late or {})}
        next_obs, reward, terminal = [], [], []
        self.env.reset(seed=0)
        for row in rows:
            if isinstance(self.inner, AntMaze) and recording.goal is not None:
                self.inner.goal = recording.goal[row]
            at = row + shift["state"]
            self.inner.set_state(states.qpos[at], states.qvel[at])
            obs, gained, ended, cut, _ = self.env.step(recording.data.action[row + shift["action"]])
            next_obs.append(obs)
            reward.append(float(gained))
            terminal.append(bool(ended))
            if cut or ended:
                self.env.reset()
        return Replayed(np.array(next_obs, dtype=np.float64), np.array(reward), np.array(terminal))


def dims_of(env_id: str) -> tuple[int, int]:
    """Return the dimensions of an environment's observation and action."""
    env = make_env(env_id)
    dims = env.observation_space.shape[0], env.action_space.shape[0]
    env.close()
    return dims


def error_of_rows(found: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]]) -> Array:
    """Return each row's largest difference, relative to max(1, |expected|): (rows,)."""
    difference = np.abs(found.astype(np.float64) - expected)
    return np.asarray((difference / np.maximum(1, np.abs(expected))).max(axis=1))
