"""Replay: rows of a dataset stepped again in an environment, which shows whether they were recorded in it.

A row's state is `infos/qpos` and `infos/qvel` where the file has them, else read from the observation, where that
holds the state but for the root's place. From it the row's action is applied once. Next observation, reward and
termination are compared with the file's. Where they disagree, other readings of the file are tried on a few rows:
columns shifted by some rows, and other robots. The one that fits is named.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from numpy.typing import NDArray

from mpcwdwm.data.dataset import Dataset, from_arrays
from mpcwdwm.data.fingerprint import sha256_of
from mpcwdwm.data.hdf5 import Arrays, read_arrays
from mpcwdwm.envs.antmaze import AntMaze
from mpcwdwm.envs.factory import env_spec, make_env
from mpcwdwm.envs.registration import ANTMAZES
from mpcwdwm.errors import UserError

__all__ = ["Verdict", "recorded_env", "verify"]

ROWS = 5_000  # replayed by default, spread over the file
TRIAL_ROWS = 200  # replayed for each other reading of the file
TRIAL_FEW = 0.05  # of these may disagree with the reading that fits
AGREES = 1e-3  # error of a row, relative to max(1, |value|), above any rounding of float32 and below any other action's
FEW = 0.01  # of the rows may disagree: where rounding decides whether a foot touches the ground
QUANTILES = (0.5, 0.99, 0.999, 1.0)
CLIP = 10.0  # Hopper's and Walker2d's observations hold velocities no larger than this
SHIFTS = (-2, -1, 1, 2)  # rows by which a column may have slipped
ROBOTS = ("Hopper-v4", "HalfCheetah-v4", "Walker2d-v4", "Ant-v4", *(f"mpcwdwm/AntMaze-{name}-v2" for name in ANTMAZES))

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Verdict:
    """How the replayed rows compare with the file's; `render` gives it as text."""

    path: Path
    env_id: str
    state_from: str
    replayed: int
    clipped: int  # rows left out, because their observation holds a clipped velocity
    obs_error: Array  # (replayed,) largest over the observation's entries, relative to max(1, |value|)
    reward_error: Array | None  # (replayed,) likewise; None: the goal is not in the file
    terminals: tuple[int, ...]  # rows whose terminal flag is not the environment's
    named: str | None  # what is wrong, in one line; None: the rows are the environment's

    def render(self) -> str:
        """Return the findings as lines of text."""
        absent = "not compared: it depends on a goal, and the file has no infos/goal"
        reward = absent if self.reward_error is None else _quantiles(self.reward_error)
        lines = [
            f"{self.path} in {self.env_id}",
            f"  state             {self.state_from}",
            f"  replayed          {self.replayed:,} rows ({self.clipped:,} with clipped velocities left out)",
            f"  next observation  {_quantiles(self.obs_error)}",
            f"  reward            {reward}",
            f"  terminals         {len(self.terminals):,} rows disagree{_first(self.terminals)}",
            f"  verdict           {self.named or 'the rows are this environment’s'}",
        ]
        return "\n".join(lines)


def _quantiles(errors: Array) -> str:
    shares = ", ".join(f"{100 * q:g} % {np.quantile(errors, q):.1e}" for q in QUANTILES)
    return f"error {shares}; {(errors > AGREES).sum():,} rows above {AGREES:g}"


def _first(rows: tuple[int, ...]) -> str:
    return f" (first: {', '.join(map(str, rows[:5]))})" if rows else ""


def recorded_env(path: Path | str) -> str | None:
    """Return the Gymnasium id that the file's attribute ``env_id`` names, None without one."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            named = file.attrs.get("env_id")
    except OSError as error:
        raise UserError(f"dataset '{path}' cannot be read: {error}") from None
    return named if isinstance(named, str) else None


def verify(path: Path | str, env_id: str, *, rows: int = ROWS, seed: int = 0) -> Verdict:
    """Replay rows of a dataset in an environment and say whether they were recorded there.

    Args:
        path: a file in D4RL's layout.
        env_id: Gymnasium id of an environment on MuJoCo.
        rows: how many are replayed at most, drawn evenly.
        seed: of the draw.

    Raises:
        UserError: the file or the environment is unfit, the environment cannot be put into a state, or the file holds
            no states.
    """
    path = Path(path)
    if rows < 1:
        raise UserError(f"rows must be at least 1, not {rows}")
    recording = _Recording.read(path)
    fits = [other for other in ROBOTS if other != env_id and _dims(other) == recording.dims]
    with _Simulator(env_id) as simulator:
        if simulator.dims != recording.dims:
            raise UserError(
                f"dataset '{path}' is of another environment than '{env_id}': observations and actions have"
                f" {recording.dims} dimensions, not {simulator.dims}{_as_those_of(fits)}"
            )
        where = simulator.states_of(recording)
        usable = np.flatnonzero(recording.data.has_next_obs & ~where.clipped)
        if not len(usable):
            raise UserError(f"dataset '{path}': no row has a next observation and a state, so none can be replayed")
        picked = np.sort(np.random.default_rng(seed).permutation(usable)[:rows])
        replayed = simulator.replay(where, picked, recording)
        obs_error = _error(replayed.next_obs, recording.data.next_obs[picked])
        reward_error = _error(replayed.reward[:, None], recording.data.reward[picked][:, None])
        terminals = tuple(picked[replayed.terminal != recording.data.terminal[picked]].tolist())
        compared = simulator.knows_goal(recording)
        named = None
        wrong = (obs_error > AGREES).mean() > FEW or (compared and (reward_error > AGREES).mean() > FEW)
        if wrong or where.shifted:
            named = where.shifted or _named(simulator, where, recording, usable, fits, seed)
        elif len(terminals) > FEW * len(picked) and compared:
            named = f"next observations and rewards are those of '{env_id}', terminals are not"
    return Verdict(
        path,
        env_id,
        where.source,
        len(picked),
        int((where.clipped & recording.data.has_next_obs).sum()),
        obs_error,
        reward_error if compared else None,
        terminals if compared else (),
        named,
    )


def _as_those_of(names: list[str]) -> str:
    return f", as those of {' and '.join(names)} have" if names else ""


def _error(found: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]]) -> Array:
    """Return each row's largest difference, relative to max(1, |expected|): (rows,)."""
    difference = np.abs(found.astype(np.float64) - expected)
    return np.asarray((difference / np.maximum(1, np.abs(expected))).max(axis=1))


# ── What the file holds, and what an environment makes of it ──────────────────


@dataclass(frozen=True)
class _Recording:
    """A dataset with the simulator's states and goals, where the file has them."""

    data: Dataset
    qpos: Array | None
    qvel: Array | None
    goal: Array | None

    @property
    def dims(self) -> tuple[int, int]:
        return self.data.obs_dim, self.data.act_dim

    @classmethod
    def read(cls, path: Path) -> "_Recording":
        arrays = read_arrays(path)
        _refuse_slipped(arrays, path)
        data = from_arrays(arrays, sha256_of(path), path)
        found: dict[str, Array | None] = {}
        with h5py.File(path, "r", locking=False) as file:
            for name in ("qpos", "qvel", "goal"):
                stored = file.get(f"infos/{name}")
                fits = isinstance(stored, h5py.Dataset) and stored.ndim == 2 and len(stored) == len(data.obs)
                found[name] = np.asarray(stored[()], np.float64) if fits else None
        return cls(data, **found)


@dataclass(frozen=True)
class _States:
    """Where each row's state comes from."""

    source: str
    qpos: Array  # (N, nq)
    qvel: Array  # (N, nv)
    clipped: NDArray[np.bool_]  # (N,) the state cannot be had
    shifted: str | None = None  # infos and observations are of different rows


@dataclass(frozen=True)
class _Replayed:
    next_obs: Array  # (rows, o)
    reward: Array  # (rows,)
    terminal: NDArray[np.bool_]  # (rows,)


def _dims(env_id: str) -> tuple[int, int]:
    env = make_env(env_id)
    dims = env.observation_space.shape[0], env.action_space.shape[0]
    env.close()
    return dims


class _Simulator:
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

    def __enter__(self) -> "_Simulator":
        return self

    def __exit__(self, *_: object) -> None:
        self.env.close()

    def knows_goal(self, recording: _Recording) -> bool:
        """Return whether rewards can be compared: a maze's depend on the goal."""
        return not isinstance(self.inner, AntMaze) or recording.goal is not None

    def states_of(self, recording: _Recording) -> _States:
        """Return every row's state; raises UserError where neither file nor observations hold it."""
        data, (nq, nv) = recording.data, self.sizes
        read = self._from_observations(data.obs)
        qpos, qvel = recording.qpos, recording.qvel
        if qpos is None or qvel is None or (qpos.shape[1], qvel.shape[1]) != (nq, nv):
            if read is None:
                raise UserError(
                    f"dataset '{data.path}' holds no states: 'infos/qpos' (N, {nq}) and 'infos/qvel' (N, {nv}) are"
                    " missing, and an observation does not hold them"
                )
            return read
        clear = np.zeros(len(qpos), dtype=bool)
        shifted = None if read is None else _slipped(read, qpos)
        return _States("infos/qpos and infos/qvel", qpos, qvel, clear, shifted)

    def _from_observations(self, obs: NDArray[np.floating[Any]]) -> _States | None:
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
        return _States(source, qpos, qvel, clipped)

    def replay(
        self, states: _States, rows: Rows, recording: _Recording, *, late: Mapping[str, int] | None = None
    ) -> _Replayed:
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
        return _Replayed(np.array(next_obs, dtype=np.float64), np.array(reward), np.array(terminal))


def _refuse_slipped(arrays: Arrays, path: Path) -> None:
    """Raise UserError if next observations are those of other rows: such a file cannot be read as episodes."""
    if (next_obs := arrays.next_obs) is None:
        return
    most = max(SHIFTS)
    middle = slice(most, len(arrays.obs) - most - 1)

    def follows(shift: int) -> bool:
        after = arrays.obs[middle.start + 1 + shift : middle.stop + 1 + shift]
        return bool(np.median(_error(next_obs[middle], after)) <= AGREES)

    if follows(0):
        return
    for shift in SHIFTS:
        if follows(shift):
            rows = _rows(-shift)
            raise UserError(
                f"dataset '{path}': shifted rows: 'next_observations' are {rows} against 'observations';"
                " store what belongs together in the same row"
            )


def _slipped(read: _States, qpos: Array) -> str | None:
    """Return how the infos are shifted against the observations, None if they are not."""
    seen = (read.qpos != 0).any(axis=0)  # the root's place is not in the observations

    def apart(shift: int) -> float:
        observed = read.qpos[max(0, -shift) : len(qpos) - max(0, shift)]
        stored = qpos[max(0, shift) : len(qpos) - max(0, -shift)]
        return float(np.median(_error(stored[:, seen], observed[:, seen])))

    if apart(0) <= AGREES:
        return None
    for shift in SHIFTS:
        if apart(shift) <= AGREES:
            return f"shifted rows: 'infos/qpos' and 'infos/qvel' are {_rows(shift)} against the observations"
    return "'infos/qpos' and 'observations' are of different states"


# ── Naming what is wrong ──────────────────────────────────────────────────────


def _named(
    simulator: _Simulator, states: _States, recording: _Recording, usable: Rows, fits: list[str], seed: int
) -> str:
    """Return the reading of the file under which the rows are an environment's, in one line."""
    data, most = recording.data, max(SHIFTS)
    inside = usable[(usable >= most) & (usable < len(data.obs) - most)]
    inside = inside[data.episode[inside - most] == data.episode[inside + most]]
    rows = np.sort(np.random.default_rng(seed).permutation(inside)[:TRIAL_ROWS])
    if not len(rows):
        return "the rows are not this environment's (episodes are too short to look for shifted rows)"
    for what in _shifts(simulator, states, recording, rows):
        return f"shifted rows: {what}"
    for other in fits:
        with _Simulator(other) as elsewhere:
            found = elsewhere.replay(elsewhere.states_of(recording), rows, recording)
            if _fits(found.next_obs, data.next_obs[rows]):
                return f"another environment: the rows are those of '{other}'"
    return "another environment, or altered rows: no shift of a column and no other known robot fits"


def _shifts(simulator: _Simulator, states: _States, recording: _Recording, rows: Rows) -> Iterator[str]:
    """Yield the columns whose shift by some rows makes the file agree with the environment."""
    data = recording.data
    here = simulator.replay(states, rows, recording)
    stays = _fits(here.next_obs, data.next_obs[rows])
    for shift in SHIFTS:
        if stays:
            if _fits(here.reward[:, None], data.reward[rows + shift][:, None]):
                yield f"'rewards' are {_rows(shift)} against the other columns"
            continue
        if _fits(here.next_obs, data.next_obs[rows + shift]):
            yield f"'next_observations' are {_rows(shift)} against the other columns"
        for column in ("action", "state"):
            found = simulator.replay(states, rows, recording, late={column: shift})
            if _fits(found.next_obs, data.next_obs[rows]):
                name = "actions" if column == "action" else "observations"
                yield f"'{name}' are {_rows(shift)} against the other columns"


def _fits(found: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]]) -> bool:
    return bool((_error(found, expected) > AGREES).mean() <= TRIAL_FEW)


def _rows(shift: int) -> str:
    count = abs(shift)
    return f"{count} row{'s' if count > 1 else ''} {'late' if shift > 0 else 'early'}"
