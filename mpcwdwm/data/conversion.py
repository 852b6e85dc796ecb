"""Datasets in other layouts, rewritten once in D4RL's: NPZ, HDF5 with other names, and Minari's group per episode.

The copy lies beside the original as ``<file>.d4rl.hdf5`` and says in its attributes of which bytes and names it was
made; when either changes, it is made again. Everything else reads the copy.
"""

import contextlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mpcwdwm.data.fingerprint import sha256_of
from mpcwdwm.data.hdf5 import Arrays
from mpcwdwm.data.opening import DAMAGE, opened
from mpcwdwm.data.whole import check_own, check_whole
from mpcwdwm.data.writing import named_arrays, write_arrays
from mpcwdwm.errors import UserError, did_you_mean
from mpcwdwm.paths import user_path

__all__ = ["COLUMNS", "dataset_file", "in_d4rl_layout"]

COLUMNS = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
NEEDED = COLUMNS[:4]
EPISODE = "episode_"  # how the groups of a Minari file begin
MINARI = "minari:"  # before the id of a dataset that Minari's library has stored

Stored = Mapping[str, NDArray[Any]]


def dataset_file(name: str, folder: Path) -> Path:
    """Return the file that a dataset's name means: a path, relative to ``folder``, or ``minari:ID``.

    Raises:
        UserError: Minari's library is not installed, or has no such dataset on this machine.
    """
    if not name.startswith(MINARI):
        return folder / user_path(name)
    dataset_id = name.removeprefix(MINARI)
    try:
        import minari  # an extra
    except ImportError:
        raise UserError(f"dataset '{name}' needs the extra minari: pip install 'mpcwdwm[minari]'") from None
    try:
        return Path(minari.load_dataset(dataset_id).storage.data_path) / "main_data.hdf5"
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"dataset '{name}': {reason}; fetch it with `minari download {dataset_id}`") from None


def in_d4rl_layout(path: Path, columns: Mapping[str, str] | None = None) -> Path:
    """Return the path of the dataset in D4RL's layout: the file itself if it has it, else a copy beside it.

    Args:
        path: an NPZ or HDF5 file.
        columns: D4RL's name → the file's name, for arrays that have another.

    Raises:
        UserError: the file cannot be read, an array is missing or unfit, or the copy cannot be written.
    """
    columns = dict(columns or {})
    for name in columns:
        if name not in COLUMNS:
            raise UserError(
                f"columns: unknown array '{name}'{did_you_mean(name, COLUMNS)}; known: {', '.join(COLUMNS)}"
            )
    if os.path.exists(path) and not path.is_file():  # a device such as /dev/zero would be read without end
        raise UserError(f"dataset '{path}' is not a file")
    read = _reader(path, columns)
    check_whole(path, {*COLUMNS, *columns.values()})
    if read is None:
        return path
    copy = path.with_name(f"{path.name}.d4rl.hdf5")
    made_of = {"converted_from_sha256": sha256_of(path), "columns": json.dumps(columns, sort_keys=True)}
    if not _made_of(copy, made_of):
        write_arrays(copy, _arrays(path, read(path, columns)), attributes=made_of)
    return copy


def _made_of(copy: Path, origin: Mapping[str, str]) -> bool:
    with contextlib.suppress(UserError), opened(copy) as file:
        return all(file.attrs.get(name) == value for name, value in origin.items())
    return False


def _reader(path: Path, columns: Mapping[str, str]) -> Callable[[Path, Mapping[str, str]], Stored] | None:
    """Return what reads this layout, None for D4RL's own (and for what is no dataset at all: its reader says so)."""
    if zipfile.is_zipfile(path):
        return _from_npz
    with contextlib.suppress(UserError), opened(path) as file:
        if f"{EPISODE}0" in file:
            return _from_minari
    return _from_hdf5 if columns else None


# ── The layouts ───────────────────────────────────────────────────────────────


def _from_npz(path: Path, columns: Mapping[str, str]) -> Stored:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[columns.get(name, name)] for name in COLUMNS if columns.get(name, name) in file}
    except (*DAMAGE, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"dataset '{path}' is not an NPZ file of plain arrays: {error}") from None


def _from_hdf5(path: Path, columns: Mapping[str, str]) -> Stored:
    with opened(path) as file:
        nodes = {name: file.get(columns.get(name, name)) for name in COLUMNS}
        return {name: node[()] for name, node in nodes.items() if isinstance(node, h5py.Dataset)}


def _from_minari(path: Path, columns: Mapping[str, str]) -> Stored:
    """Return Minari's episodes joined; each has one observation more than it has actions."""
    if columns:
        raise UserError(f"dataset '{path}' has Minari's layout, whose names are fixed: leave 'columns' out")
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in COLUMNS}
    with opened(path) as file:
        for name in sorted((name for name in file if name.startswith(EPISODE)), key=lambda name: int(name[8:])):
            episode = file[name]
            for needed in ("observations", "actions", "rewards", "terminations", "truncations"):
                node = episode.get(needed)
                if isinstance(node, h5py.Dataset):
                    check_own(path, file, node, f"{name}/{needed}")
                else:
                    raise UserError(
                        f"dataset '{path}': '{name}/{needed}' is missing or not an array; observations of several"
                        " parts (Dict spaces) have to be joined into one vector first"
                    )
            obs, terminal = episode["observations"][()], episode["terminations"][()].astype(bool)
            timeout = episode["truncations"][()].astype(bool) & ~terminal
            if len(terminal):
                timeout[-1] = not terminal[-1]  # whatever cut it, the episode ends here
            found = (obs[:-1], episode["actions"][()], episode["rewards"][()], terminal, timeout, obs[1:])
            for column, values in zip(COLUMNS, found, strict=True):
                parts[column].append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def _arrays(path: Path, stored: Stored) -> Arrays:
    """Return the arrays for `write_arrays`, which validates them by reading them back."""
    for name in NEEDED:
        if name not in stored:
            raise UserError(
                f"dataset '{path}': array '{name}' is missing; if it has another name, add columns: {{{name}: NAME}}"
            )
    for name, values in stored.items():
        if values.dtype.kind not in "fiub":
            raise UserError(f"dataset '{path}': array '{name}' is not numeric (dtype {values.dtype})")
    return named_arrays(stored)
