"""Whether a file holds its arrays itself.

HDF5 can have an array lie in other files, by links, as a view, or in raw bytes of any file whatever. A dataset's hash,
which is in every key, does not cover those, and a file from elsewhere could have this machine read what it likes.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py

from mpcwdwm.data.opening import DAMAGE
from mpcwdwm.errors import UserError

__all__ = ["check_own", "check_whole"]


def check_whole(path: Path, names: Iterable[str]) -> None:
    """Raise UserError if one of these arrays lies in other files; what lacks them is left to its reader."""
    arrays = dict[str, str]()  # name → how it lies in other files
    with contextlib.suppress(*DAMAGE), h5py.File(path, "r", locking=False) as file:
        for name in names:
            if isinstance(node := file.get(name), h5py.Dataset) and (way := _elsewhere(file, node)):
                arrays[name] = way
    for name, way in arrays.items():
        raise _lies_elsewhere(path, name, way)


def check_own(path: Path, file: Any, node: Any, name: str) -> None:
    """Raise UserError if an array of an open file lies in other files."""
    if way := _elsewhere(file, node):
        raise _lies_elsewhere(path, name, way)


def _elsewhere(file: Any, node: Any) -> str:
    """Return how an array lies in other files; "" if it does not."""
    if node.file.filename != file.filename:
        return "behind a link"
    return "as a view of them" if node.is_virtual else "as their raw bytes" if node.external else ""


def _lies_elsewhere(path: Path, name: str, way: str) -> UserError:
    return UserError(
        f"dataset '{path}': array '{name}' lies in other files, {way}, which its hash does not cover:"
        " store the numbers in the file itself"
    )
