"""Ends of episodes as the states show them, where a file's flags may be wrong.

A robot's rule says from the next observation whether it has fallen. Where a file stores none, the next observation of
an episode's last row is predicted by a linear fit; and where the following row is far from its prediction, the episode
has ended unmarked. A task may ask to be read so (``terminals: rule``, ``ends: jumps``): `reread` makes the copy.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mpcwdwm.data.dataset import continues
from mpcwdwm.data.fingerprint import sha256_of
from mpcwdwm.data.hdf5 import Arrays, Flags, read_arrays
from mpcwdwm.data.opening import opened
from mpcwdwm.data.writing import write_arrays
from mpcwdwm.errors import UserError

__all__ = ["JUMP", "Ends", "EndsBy", "TerminalsBy", "ends_of", "reread"]

TerminalsBy = Literal["file", "rule"]
EndsBy = Literal["flags", "jumps"]

# A row's error is divided by the 99th percentile of its coordinate. Hopper, Walker2d and the bundled file stay below 16
# within an episode, and lie above 19 at a reset; a robot that has hardly moved is reset by less, and is missed.
JUMP = 18.0
SCALE_QUANTILE = 0.99
TRUSTED = 0.9  # share of the rows, those best predicted, that the fit and the scale are of: resets are in the rest
FITS = 4  # rounds of fitting and leaving out
LEAST_SCALE = 1e-3  # of an error, relative to the coordinate's spread: some are exactly linear
# An episode has more than one row, so resets do not follow each other at once. Where jumps do, they are the robot's
# own, such as those of a ball at a wall (PointMaze), and nothing is known of resets.
RUNS = 0.1  # share of the jumps that may follow directly on another
ROWS_PER_UNKNOWN = 10  # fewer rows than this for each coefficient say nothing


@dataclass(frozen=True)
class Ends:
    """What the states show of every row."""

    jump: Flags  # (N,) the following observation is none that could follow, and no flag says so
    fallen: Flags  # (N,) the rule ends the episode here
    compared: Flags  # (N,) the rule could be asked
    predicted: Flags  # (N,) it was asked about a predicted observation


def ends_of(arrays: Arrays, rule: str | None) -> Ends:
    """Return what the states show.

    Args:
        arrays: of the file.
        rule: name of a termination rule; without one no row is compared.
    """
    rows = len(arrays.obs)
    none = np.zeros(rows, dtype=bool)
    fit = _predicted(arrays)
    marked = np.append(arrays.marked_ends[:-1], True)
    jump = none.copy()
    if fit is not None:
        jump[:-1] = fit[1] > JUMP
        jump &= ~marked
        if (jump[1:] & jump[:-1]).sum() > RUNS * jump.sum():
            jump[:] = False
    if rule is None:
        return Ends(jump, none, none, none)
    if arrays.next_obs is None:
        following, unseen = np.append(arrays.obs[1:], arrays.obs[-1:], axis=0), marked | jump
    else:  # at an end, going on means: the state after the reset
        following, unseen = arrays.next_obs.copy(), marked & continues(arrays)
    if fit is not None:
        following[unseen] = fit[0][unseen]
    compared = ~none if fit is not None else ~unseen
    return Ends(jump, _fallen(rule, following) & compared, compared, unseen & compared)


def _fallen(rule: str, next_obs: NDArray[np.floating]) -> Flags:
    import torch  # only needed here

    from mpcwdwm.envs.termination import RULES

    return np.asarray(RULES[rule](torch.from_numpy(next_obs)).numpy())


def _predicted(arrays: Arrays) -> tuple[NDArray[np.float32], NDArray[np.float64]] | None:
    """Return predicted next observations (N, o), and the error of each but the last, (N - 1,); None: too few rows.

    The change of the observation is linear in observation and action, least squares over the rows that it fits.
    """
    rows, columns = len(arrays.obs), arrays.obs.shape[1] + arrays.action.shape[1] + 1
    if rows < ROWS_PER_UNKNOWN * columns:
        return None
    inputs = np.column_stack([arrays.obs, arrays.action, np.ones(rows)]).astype(np.float64)
    change = np.diff(arrays.obs.astype(np.float64), axis=0)
    least = np.maximum(LEAST_SCALE * arrays.obs.std(axis=0), np.finfo(np.float32).tiny)
    trusted = np.ones(rows - 1, dtype=bool)
    for _ in range(FITS):
        weights = np.linalg.lstsq(inputs[:-1][trusted], change[trusted], rcond=None)[0]
        error = np.abs(change - inputs[:-1] @ weights)
        scale = np.maximum(np.quantile(error[trusted], SCALE_QUANTILE, axis=0), least)
        relative = (error / scale).max(axis=1)
        trusted = relative <= np.quantile(relative, TRUSTED)
    return (arrays.obs + inputs @ weights).astype(np.float32), relative


# ── Reading a file by them ────────────────────────────────────────────────────


def reread(path: Path, *, terminals: TerminalsBy, ends: EndsBy, rule: str | None) -> Path:
    """Return a file in D4RL's layout that is read as a task asks: itself, or a copy beside it with other flags.

    Args:
        path: of the file.
        terminals: "rule": a row is terminal where the rule says so, and other marked ends are timeouts; rows that
            cannot be compared stay as they are.
        ends: "jumps": an episode ends where the observation jumps, too.
        rule: name of the termination rule.

    Raises:
        UserError: the file is unfit, there is no rule, or the copy cannot be written.
    """
    if (terminals, ends) == ("file", "flags"):
        return path
    if terminals == "rule" and rule is None:
        raise UserError("terminals: rule needs a termination rule, and none is known: give termination: NAME")
    reading = "-".join(["terminals", rule or ""] * (terminals == "rule") + ["jumps"] * (ends == "jumps"))
    copy = path.with_name(f"{path.name}.{reading.replace(':', '-')}.d4rl.hdf5")
    made_of: Mapping[str, str] = {"read_from_sha256": sha256_of(path), "reading": json.dumps([terminals, ends, rule])}
    with contextlib.suppress(UserError), opened(copy) as file:
        if all(file.attrs.get(name) == value for name, value in made_of.items()):
            return copy
    write_arrays(copy, _read_by(read_arrays(path), terminals, ends, rule), attributes=made_of)
    return copy


def _read_by(arrays: Arrays, terminals: TerminalsBy, ends: EndsBy, rule: str | None) -> Arrays:
    shown = ends_of(arrays, rule)
    ended = arrays.marked_ends | shown.jump if ends == "jumps" else arrays.marked_ends
    terminal = np.where(shown.compared, shown.fallen, arrays.terminal) if terminals == "rule" else arrays.terminal
    return replace(arrays, terminal=terminal, timeout=ended & ~terminal)
