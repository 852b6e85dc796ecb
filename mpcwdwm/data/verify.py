"""Verification: whether the rows of a dataset were recorded in an environment, and what is wrong if they were not.

The rows are replayed, and next observation, reward and termination are compared with the file's. Where they disagree,
other readings of the file are tried on a few rows: columns shifted by some rows, and other robots. The one that fits is
named.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpcwdwm.data.hdf5 import Arrays, read_arrays
from mpcwdwm.data.opening import opened
from mpcwdwm.data.replay import AGREES, Array, Recording, Rows, Simulator, States, dims_of, error_of_rows
from mpcwdwm.envs.registration import MAZE_IDS
from mpcwdwm.errors import UserError

__all__ = ["Verdict", "recorded_env", "verify"]

ROWS = 5_000  # replayed by default, spread over the file
TRIAL_ROWS = 200  # replayed for each other reading of the file
TRIAL_FEW = 0.05  # of these may disagree with the reading that fits
FEW = 0.01  # of the rows may disagree: where rounding decides whether a foot touches the ground
QUANTILES = (0.5, 0.99, 0.999, 1.0)
SHIFTS = (-2, -1, 1, 2)  # rows by which a column may have slipped
ROBOTS = ("Hopper-v4", "HalfCheetah-v4", "Walker2d-v4", "Ant-v4", *MAZE_IDS)


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
    with opened(path) as file:
        named = file.attrs.get("env_id")
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
    arrays = read_arrays(path)
    _refuse_slipped(arrays, path)
    recording = Recording.read(path, arrays)
    fits = [other for other in ROBOTS if other != env_id and dims_of(other) == recording.dims]
    with Simulator(env_id) as simulator:
        if simulator.dims != recording.dims:
            raise UserError(
                f"dataset '{path}' is of another environment than '{env_id}': observations and actions have"
                f" {recording.dims} dimensions, not {simulator.dims}{_as_those_of(fits)}"
            )
        where, shifted = simulator.states_of(recording), _slipped(simulator, recording)
        usable = np.flatnonzero(recording.data.has_next_obs & ~where.clipped)
        if not len(usable):
            raise UserError(f"dataset '{path}': no row has a next observation and a state, so none can be replayed")
        picked = np.sort(np.random.default_rng(seed).permutation(usable)[:rows])
        replayed = simulator.replay(where, picked, recording)
        obs_error = error_of_rows(replayed.next_obs, recording.data.next_obs[picked])
        reward_error = error_of_rows(replayed.reward[:, None], recording.data.reward[picked][:, None])
        terminals = tuple(picked[replayed.terminal != recording.data.terminal[picked]].tolist())
        compared = simulator.knows_goal(recording)
        named = None
        wrong = (obs_error > AGREES).mean() > FEW or (compared and (reward_error > AGREES).mean() > FEW)
        if wrong or shifted:
            named = shifted or _named(simulator, where, recording, usable, fits, seed)
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


# ── Naming what is wrong ──────────────────────────────────────────────────────


def _refuse_slipped(arrays: Arrays, path: Path) -> None:
    """Raise UserError if next observations are those of other rows: such a file cannot be read as episodes."""
    if (next_obs := arrays.next_obs) is None:
        return
    most = max(SHIFTS)
    middle = slice(most, len(arrays.obs) - most - 1)

    def follows(shift: int) -> bool:
        after = arrays.obs[middle.start + 1 + shift : middle.stop + 1 + shift]
        return bool(np.median(error_of_rows(next_obs[middle], after)) <= AGREES)

    if follows(0):
        return
    for shift in SHIFTS:
        if follows(shift):
            rows = _rows(-shift)
            raise UserError(
                f"dataset '{path}': shifted rows: 'next_observations' are {rows} against 'observations';"
                " store what belongs together in the same row"
            )


def _slipped(simulator: Simulator, recording: Recording) -> str | None:
    """Return how the infos are shifted against the observations, None if they are not, or one of the two is absent."""
    read, qpos = simulator.from_observations(recording.data.obs), recording.qpos
    if read is None or qpos is None or recording.qvel is None or qpos.shape != read.qpos.shape:
        return None
    seen = (read.qpos != 0).any(axis=0)  # the root's place is not in the observations

    def apart(shift: int) -> float:
        observed = read.qpos[max(0, -shift) : len(qpos) - max(0, shift)]
        stored = qpos[max(0, shift) : len(qpos) - max(0, -shift)]
        return float(np.median(error_of_rows(stored[:, seen], observed[:, seen])))

    if apart(0) <= AGREES:
        return None
    for shift in SHIFTS:
        if apart(shift) <= AGREES:
            return f"shifted rows: 'infos/qpos' and 'infos/qvel' are {_rows(shift)} against the observations"
    return "'infos/qpos' and 'observations' are of different states"


def _named(simulator: Simulator, states: States, recording: Recording, usable: Rows, fits: list[str], seed: int) -> str:
    """Return the reading of the file under which the rows are an environment's, in one line."""
    data, most = recording.data, max(SHIFTS)
    inside = usable[(usable >= most) & (usable < len(data.obs) - most)]
    inside = inside[data.episode[inside - most] == data.episode[inside + most]]
    rows = np.sort(np.random.default_rng(seed).permutation(inside)[:TRIAL_ROWS])
    if not len(rows):
        return "the rows are not this environment's (episodes are too short to look for shifted rows)"
    for what in _shifts(simulator, states, recording, rows):
        return f"shifted rows: {what}"
    wrong: dict[str, float] = {}  # environment whose steps fit → share of rows that disagree, in rewards, too
    for other in fits:
        with Simulator(other) as elsewhere:
            found = elsewhere.replay(elsewhere.states_of(recording), rows, recording)
        if _fits(found.next_obs, data.next_obs[rows]):
            both = np.column_stack([found.next_obs, found.reward]), np.column_stack([data.next_obs, data.reward])[rows]
            wrong[other] = float((error_of_rows(*both) > AGREES).mean())
    if wrong:  # several mazes may fit, away from their walls
        return f"another environment: the rows are those of '{min(wrong, key=lambda other: wrong[other])}'"
    return "another environment, or altered rows: no shift of a column and no other known robot fits"


def _shifts(simulator: Simulator, states: States, recording: Recording, rows: Rows) -> Iterator[str]:
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
    return bool((error_of_rows(found, expected) > AGREES).mean() <= TRIAL_FEW)


def _rows(shift: int) -> str:
    count = abs(shift)
    return f"{count} row{'s' if count > 1 else ''} {'late' if shift > 0 else 'early'}"
