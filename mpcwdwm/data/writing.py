"""Writing a dataset in D4RL's HDF5 layout: what `mpcwdwm.data.hdf5` reads.

A file is written under a temporary name, read back as training would read it, and then renamed. It holds no time
stamps: the same arrays give the same bytes, and so the same hash in every key.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mpcwdwm.data.hdf5 import Arrays, read_arrays
from mpcwdwm.errors import UserError

__all__ = ["named_arrays", "refuse_unfit_target", "write_arrays"]


def refuse_unfit_target(path: Path | str) -> None:
    """Make the folder of a dataset that is to be written; call it before the work that fills the dataset.

    Raises:
        UserError: there is something at the path already, or its folder cannot be written to.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"'{path}' exists already: give another name, or delete it first")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder '{path.parent}' cannot be made: {error.strerror}") from None
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"folder '{path.parent}' is not writable: give another place for '{path.name}'")


def named_arrays(stored: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return the arrays that have D4RL's names; the first four have to be there."""
    return Arrays(
        stored["observations"],
        stored["actions"],
        stored["rewards"],
        stored["terminals"],
        stored.get("timeouts"),
        stored.get("next_observations"),
    )


def write_arrays(
    path: Path | str,
    arrays: Arrays,
    *,
    infos: Mapping[str, NDArray[Any]] | None = None,
    attributes: Mapping[str, str | int | float] | None = None,
) -> None:
    """Write the arrays as one compressed HDF5 file, atomically.

    Args:
        path: the file; an existing one is replaced.
        arrays: N transitions in the order in which they were recorded.
        infos: further arrays of N rows, stored as ``infos/<name>`` in their own precision.
        attributes: where the data come from; attributes of the file.

    Raises:
        UserError: the arrays would be refused by `read_arrays`, or the file cannot be written.
        ValueError: an array of `infos` has another number of rows.
    """
    path = Path(path)
    stored: dict[str, NDArray[Any] | None] = {
        "observations": arrays.obs,
        "actions": arrays.action,
        "rewards": arrays.reward,
        "next_observations": arrays.next_obs,
        "terminals": arrays.terminal,
        "timeouts": arrays.timeout,
    }
    for name, array in (infos or {}).items():
        if len(array) != len(arrays.obs):
            raise ValueError(f"infos '{name}' has {len(array)} rows, the observations have {len(arrays.obs)}")
        stored[f"infos/{name}"] = array
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with h5py.File(partial, "w") as file:
            for name, values in stored.items():
                if values is not None:
                    file.create_dataset(name, data=np.asarray(values), compression="gzip")
            file.attrs.update(attributes or {})
        read_arrays(partial)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"dataset '{path}' cannot be written: {error.strerror or error}") from None
    except UserError as error:
        raise UserError(str(error).replace(str(partial), str(path))) from None
    finally:
        partial.unlink(missing_ok=True)
