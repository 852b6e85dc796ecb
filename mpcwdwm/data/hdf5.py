"""D4RL's HDF5 layout, read and validated row by row.

Flat arrays of equal length N: `observations` (N, o), `actions` (N, a), `rewards` (N,) or (N, 1), `terminals`
likewise (the environment ended the episode), and usually `timeouts` (something else did, such as the time
limit) and `next_observations` (N, o). Everything else in the file (`infos/*`, `metadata/*`) is ignored.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mpcwdwm.data.opening import DAMAGE, opened, reason
from mpcwdwm.errors import UserError

__all__ = ["Arrays", "read_arrays"]

ACTION_EXCESS = 1e-3  # how far beyond [-1, 1] an action may lie, for rounding; it is clipped then
MIN_ROWS = 10  # fewer transitions than this are a mistake, not a dataset

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Arrays:
    """A dataset's arrays as the file has them, validated and of equal length."""

    obs: Floats  # (N, o)
    action: Floats  # (N, a), within [-1, 1]
    reward: Floats  # (N,)
    terminal: Flags  # (N,)
    timeout: Flags | None  # (N,), None where the file has none
    next_obs: Floats | None  # (N, o), None where the file has none

    @property
    def marked_ends(self) -> Flags:
        """Return where a flag says that an episode ends: (N,)."""
        return self.terminal if self.timeout is None else self.terminal | self.timeout


def read_arrays(path: Path | str) -> Arrays:
    """Return the validated arrays of a file in D4RL's layout.

    Raises:
        UserError: the file is absent, not HDF5, truncated or damaged; an array is missing, not numeric, of the wrong
            shape or length, holds a NaN or an infinity, an action outside [-1, 1], or a flag that is neither
            0 nor 1; or there are too few rows. The message names the file, the array and the row.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise UserError(f"dataset '{path}' {'is not a file' if os.path.exists(path) else 'not found'}")
    with opened(path) as file:
        obs = _numbers(path, file, "observations", ndim=2)
        rows = len(obs)
        action = _numbers(path, file, "actions", ndim=2, rows=rows)
        reward = _numbers(path, file, "rewards", ndim=1, rows=rows)
        terminal = _flags(path, file, "terminals", rows)
        timeout = _flags(path, file, "timeouts", rows) if "timeouts" in file else None
        given = "next_observations" in file
        next_obs = _numbers(path, file, "next_observations", ndim=2, rows=rows) if given else None
    if next_obs is not None and next_obs.shape != obs.shape:
        raise UserError(
            f"dataset '{path}': array 'next_observations' has {next_obs.shape[1]} columns,"
            f" 'observations' has {obs.shape[1]}"
        )
    if rows < MIN_ROWS:
        raise UserError(f"dataset '{path}' has only {rows} transitions, at least {MIN_ROWS} are needed")
    return Arrays(obs, _within_bounds(path, action), reward, terminal, timeout, next_obs)


def _stored(path: Path, file: Any, name: str, ndim: int, rows: int | None) -> NDArray[Any]:
    """Return an array as stored, after checking that it is there, numeric, and of the right shape."""
    if name not in file:
        present = ", ".join(sorted(key for key in file if isinstance(file.get(key), h5py.Dataset))) or "none"
        raise UserError(f"dataset '{path}': array '{name}' is missing (present: {present})")
    node = file[name]
    if not isinstance(node, h5py.Dataset):
        raise UserError(f"dataset '{path}': '{name}' is a group, not an array")
    if node.dtype.kind not in "fiub":
        raise UserError(f"dataset '{path}': array '{name}' is not numeric (dtype {node.dtype})")
    try:
        array = np.asarray(node[()])
    except DAMAGE as error:
        raise UserError(f"dataset '{path}': array '{name}' cannot be read: {reason(error)}") from None
    shape = array.shape
    if ndim == 1 and array.ndim == 2 and shape[1] == 1:
        array = array[:, 0]  # D4RL stores some rewards and terminals as columns
    if array.ndim != ndim or (ndim == 2 and shape[1] == 0):
        wanted = "(N,) or (N, 1)" if ndim == 1 else "(N, dimensions)"
        raise UserError(f"dataset '{path}': array '{name}' has shape {shape}, expected {wanted}")
    if len(array) == 0:
        raise UserError(f"dataset '{path}' has no transitions: array '{name}' is empty")
    if rows is not None and len(array) != rows:
        raise UserError(f"dataset '{path}': array '{name}' has {len(array)} rows, 'observations' has {rows}")
    return array


def _numbers(path: Path, file: Any, name: str, ndim: int, rows: int | None = None) -> Floats:
    """Return an array as finite float32."""
    stored = _stored(path, file, name, ndim, rows)
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes inf, reported below
        array = np.ascontiguousarray(stored, dtype=np.float32)
    finite = np.isfinite(array) if ndim == 1 else np.isfinite(array).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        bad = array[row] if ndim == 1 else array[row][~np.isfinite(array[row])][0]
        count = int((~finite).sum())
        raise UserError(f"dataset '{path}': array '{name}' holds {bad} in row {row} ({count} such rows)")
    return array


def _flags(path: Path, file: Any, name: str, rows: int) -> Flags:
    """Return an array of 0s and 1s, stored as bool, integer or float, as bool."""
    stored = _stored(path, file, name, 1, rows)
    flag = (stored == 0) | (stored == 1)
    if not flag.all():
        row = int(np.argmin(flag))
        raise UserError(f"dataset '{path}': array '{name}' holds {stored[row]} in row {row}, expected 0 or 1")
    return np.asarray(stored == 1)


def _within_bounds(path: Path, action: Floats) -> Floats:
    """Return the actions clipped to [-1, 1], refusing any that lies clearly outside."""
    beyond = np.abs(action).max(axis=1)
    row = int(np.argmax(beyond > 1 + ACTION_EXCESS))
    if beyond[row] > 1 + ACTION_EXCESS:
        raise UserError(
            f"dataset '{path}': array 'actions' leaves [-1, 1] in row {row} ({beyond[row]:.4g}):"
            " divide the actions by the environment's bound"
        )
    return np.clip(action, -1.0, 1.0)
