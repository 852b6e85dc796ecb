"""A D4RL dataset as an installed d4rl reads it: its own `get_dataset`, called by an interpreter that has d4rl and gym.

d4rl does not import beside a current Gymnasium and MuJoCo, so `d4rl_side` runs in that interpreter's process and hands
the arrays over as NPZ. They are kept in D4RL's layout in the cache folder, so d4rl is asked once. The transitions that
its `qlearning_dataset` forms are compared with those read here; the file's attributes say how many are read otherwise.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from mpcwdwm.data import d4rl_side
from mpcwdwm.data.dataset import Dataset, read_dataset
from mpcwdwm.data.fingerprint import cache_folder
from mpcwdwm.data.hdf5 import ACTION_EXCESS
from mpcwdwm.data.opening import opened
from mpcwdwm.data.writing import named_arrays, write_arrays
from mpcwdwm.errors import UserError
from mpcwdwm.paths import user_path

__all__ = ["Told", "ask_d4rl", "interpreter", "package_path"]

SIDE = Path(d4rl_side.__file__)
INSTALL = "pip install --no-deps d4rl==1.1, and pip install 'gym<0.25' h5py tqdm numpy"
QLEARNING, INFOS = "qlearning/", "infos/"  # how names of arrays begin

Stored = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Told:
    """What d4rl says of a dataset."""

    version: str
    transitions: int  # of its `qlearning_dataset`
    otherwise: int  # of these, how many are read otherwise here

    @classmethod
    def recorded(cls, path: Path) -> Self:
        """Return what is recorded in a file that `ask_d4rl` wrote."""
        with opened(path) as file:
            kept = file.attrs
            return cls(str(kept["d4rl"]), int(kept["qlearning_transitions"]), int(kept["qlearning_otherwise"]))


def interpreter(name: str, folder: Path) -> str:
    """Return the path of a Python interpreter: a path, relative to ``folder``, or the name of a command.

    Raises:
        UserError: there is no such program.
    """
    named = os.path.sep in name or name.startswith("~")
    found = folder / user_path(name) if named else Path(shutil.which(name) or "")
    if not (found.is_file() and os.access(found, os.X_OK)):
        raise UserError(f"python: '{found if named else name}' is no program: name an interpreter that has d4rl")
    return str(found.absolute())  # a link is kept: an environment is found beside it


def package_path(task: str, python: str) -> Path:
    """Return where the dataset of a task lies as the d4rl of an interpreter gave it."""
    return cache_folder() / "d4rl-package" / f"{task}-{hashlib.sha256(python.encode()).hexdigest()[:8]}.hdf5"


def ask_d4rl(task: str, python: str, max_episode_steps: int) -> Path:
    """Have d4rl read a task's dataset, downloading it where it has none, and return the path of the copy.

    Args:
        task: D4RL's name.
        python: an interpreter that has d4rl.
        max_episode_steps: to which d4rl counts in files without timeouts.

    Raises:
        UserError: the interpreter cannot be run, has no d4rl, or d4rl fails; or the arrays are unfit.
    """
    target = package_path(task, python)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "arrays.npz"
        _run(task, python, [task, str(max_episode_steps), str(file)], folder)
        stored = _loaded(file, python)
    arrays = named_arrays(stored)  # d4rl has checked that the first four are there
    rows = len(arrays.reward)
    named = {name.removeprefix(INFOS): values for name, values in stored.items() if name.startswith(INFOS)}
    infos = {name: values for name, values in named.items() if values.ndim and len(values) == rows}
    told: dict[str, str | int] = {
        "d4rl": str(stored["version"]),
        "qlearning_transitions": len(stored[f"{QLEARNING}rewards"]),
    }
    draft = target.with_name(f".{target.name}.draft{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(draft, arrays, infos=infos, attributes={**told, "task": task, "read_by": python})
        otherwise = read_otherwise(stored, read_dataset(draft))
        with h5py.File(draft, "a") as kept:
            kept.attrs["qlearning_otherwise"] = otherwise
        os.replace(draft, target)
    except OSError as error:
        raise UserError(f"dataset '{target}' cannot be written: {error.strerror or error}") from None
    finally:
        draft.unlink(missing_ok=True)
    return target


def read_otherwise(stored: Stored, ours: Dataset) -> int:
    """Return how many of d4rl's transitions differ from the same rows read here.

    Next observations of terminal rows are not compared: d4rl's is the state after the reset.
    """
    theirs = {name.removeprefix(QLEARNING): values for name, values in stored.items() if name.startswith(QLEARNING)}
    rows, terminal = theirs["rewards"].astype(np.int64), theirs["terminals"].astype(bool)
    same = (theirs["observations"] == ours.obs[rows]).all(1) & (terminal == ours.terminal[rows])
    same &= (np.abs(theirs["actions"] - ours.action[rows]) <= ACTION_EXCESS).all(1)
    following = (theirs["next_observations"] == ours.next_obs[rows]).all(1) & ours.has_next_obs[rows]
    return int((~(same & (terminal | following))).sum())


def _run(task: str, python: str, arguments: list[str], folder: str) -> None:
    """Run `d4rl_side` there, as standard input: none of this package's modules is beside it."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        ended = subprocess.run(
            [python, "-", *arguments],
            input=SIDE.read_text(encoding="utf-8"),
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # what that interpreter prints is shown, and may be in another encoding
            cwd=folder,
            env=env,
        )
    except OSError as error:
        raise UserError(f"python: '{python}' cannot be run: {error.strerror}") from None
    if ended.returncode == 0:
        return
    said = ended.stderr.strip().splitlines()
    reason = said[-1].strip() if said else f"exit code {ended.returncode}"
    if ended.returncode == d4rl_side.ABSENT:
        raise UserError(f"d4rl cannot be imported by '{python}' ({reason}): install it there, {INSTALL}")
    raise UserError(f"d4rl of '{python}' does not give '{task}': {reason}")


def _loaded(file: Path, python: str) -> Stored:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"'{python}' wrote no arrays ({type(error).__name__}): is it a Python with d4rl?") from None
