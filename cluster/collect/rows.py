"""Rows of a dataset with what else was recorded of them: joined, cut, and kept in files that nothing unpickles."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mpcwdwm.data.hdf5 import Arrays
from mpcwdwm.errors import UserError
from mpcwdwm.training.checkpoint import read_checkpoint, write_checkpoint

__all__ = ["Rows", "claim", "concatenated", "first_rows", "found_rows", "read_rows", "write_rows"]

INFO = "infos/"  # before the names of stored arrays that are no columns of a dataset

Rows = tuple[Arrays, dict[str, NDArray[Any]]]  # transitions in order, and further arrays of as many rows (qpos, qvel)


def concatenated(several: Sequence[Rows]) -> Rows:
    """Return all rows in order; all have the same columns."""
    columns = [_columns(rows) for rows in several]
    return _rows({name: np.concatenate([each[name] for each in columns]) for name in columns[0]})


def first_rows(rows: Rows, count: int) -> Rows:
    """Return the first rows; where an episode is cut, it ends with a timeout."""
    columns = {name: values[:count] for name, values in _columns(rows).items()}
    timeout = np.array(columns.get("timeout", np.zeros(count)), dtype=bool)
    timeout[-1] = not columns["terminal"][-1]
    return _rows({**columns, "timeout": timeout})


def _columns(rows: Rows) -> dict[str, NDArray[Any]]:
    """Return all arrays by name; those that `Arrays` may leave out are left out."""
    arrays, infos = rows
    columns = {name: values for name, values in vars(arrays).items() if values is not None}
    return {**columns, **{f"{INFO}{name}": values for name, values in infos.items()}}


def _rows(columns: Mapping[str, NDArray[Any]]) -> Rows:
    """Return what `_columns` was given."""
    arrays = Arrays(
        obs=columns["obs"],
        action=columns["action"],
        reward=columns["reward"],
        terminal=columns["terminal"],
        timeout=columns.get("timeout"),
        next_obs=columns.get("next_obs"),
    )
    infos = {name.removeprefix(INFO): values for name, values in columns.items() if name.startswith(INFO)}
    return arrays, infos


# Files


def write_rows(path: Path, rows: Rows) -> None:
    """Write rows as safetensors, atomically.

    Raises:
        UserError: the file cannot be written.
    """
    tensors = {name: torch.from_numpy(np.array(values)) for name, values in _columns(rows).items()}
    try:
        write_checkpoint(path, tensors, {})
    except OSError as error:
        raise UserError(f"folder '{path.parent}' cannot be written: {error.strerror}") from None


def read_rows(path: Path) -> Rows | None:
    """Return what was written; None if the file is absent or damaged."""
    found = read_checkpoint(path)
    return None if found is None else _rows({name: tensor.numpy() for name, tensor in found[0].items()})


def found_rows(path: Path) -> Rows:
    """Return what was written.

    Raises:
        UserError: the file is absent or damaged.
    """
    rows = read_rows(path)
    if rows is None:
        raise UserError(f"'{path}' is damaged or has gone: delete '{path.parent}' and repeat the command")
    return rows


def claim(path: Path, request: Mapping[str, str | int | float], what: str, mend: str) -> None:
    """Write down what a folder of work is for, or check that it is for the same.

    Args:
        path: the JSON file in the folder; the folder is made.
        request: what the work in the folder depends on.
        what: the work, and `mend`, what to do about another request, for the message.
        mend: see there.

    Raises:
        UserError: the folder is for something else, or cannot be written.
    """
    folder = path.parent
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            temporary.write_text(json.dumps(dict(request), indent=1), encoding="utf-8")
            temporary.replace(path)
            return
        before = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        raise UserError(f"'{path}' is damaged: delete '{folder}'") from None
    except OSError as error:
        raise UserError(f"folder '{folder}' cannot be written: {error.strerror}") from None
    for name in (*request, *before):
        if (was := before.get(name, "unset")) != (now := request.get(name, "unset")):
            raise UserError(f"'{folder}' holds {what} with {name} {was}, not {now}: {mend}")
