"""Datasets mapped into memory: the processes of a machine share one copy, and HDF5 is read once.

The first process that needs a file writes the arrays that `mpcwdwm.data.dataset` makes of it, uncompressed, into the
user's cache folder, under the hashes of the file and of that code. The others map them, so that only pages in use are
loaded, once for all. The mapping is copy-on-write, as torch requires: a process that changes its arrays changes
nothing for others.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np

from mpcwdwm.data import dataset as dataset_module
from mpcwdwm.data import hdf5 as hdf5_module
from mpcwdwm.data.dataset import Dataset, read_dataset
from mpcwdwm.data.fingerprint import cache_folder, sha256_of
from mpcwdwm.errors import UserError

__all__ = ["mapped_dataset"]

SIZES = "sizes.json"  # file name → bytes; beside the arrays


def mapped_dataset(path: Path | str) -> Dataset:
    """Return the dataset in a file as `read_dataset` does, its arrays mapped from the cache.

    Where the cache cannot be written the arrays are this process's own.

    Raises:
        UserError: as `read_dataset`, and if the file changes while it is read.
    """
    path = Path(path)
    if not path.is_file():
        return read_dataset(path)  # raises the error
    sha256 = sha256_of(path)
    folder = cache_folder() / "arrays" / f"{sha256[:32]}-{_code()}"
    with contextlib.suppress(OSError, ValueError, TypeError):  # absent or damaged: made anew
        return _mapped(folder, sha256, path)
    read = read_dataset(path)
    if read.sha256 != sha256:  # its arrays may be of either version, or of both
        raise UserError(f"{path}: the file was changed while it was read: run this again once it is complete")
    with contextlib.suppress(OSError, ValueError, TypeError):  # no room, or no right to write
        _write(folder, read)
        return _mapped(folder, sha256, path)
    return read


@functools.cache
def _code() -> str:
    """Return the hash of the code that makes the arrays: another version makes its own."""
    sources = (Path(str(module.__file__)).read_bytes() for module in (hdf5_module, dataset_module))
    return hashlib.sha256(b"\n".join(sources)).hexdigest()[:8]


def _mapped(folder: Path, sha256: str, path: Path) -> Dataset:
    """Return the dataset whose arrays lie in a folder; raises OSError, ValueError or TypeError if it is damaged."""
    arrays = {}
    for name, size in json.loads((folder / SIZES).read_text(encoding="utf-8")).items():
        file = folder / name
        if file.stat().st_size != size:
            raise ValueError(f"{file} has {file.stat().st_size} bytes, not {size}")
        arrays[file.stem] = np.load(file, mmap_mode="c", allow_pickle=False).view(np.ndarray)
    return Dataset(**arrays, sha256=sha256, path=path)


def _write(folder: Path, read: Dataset) -> None:
    """Write a dataset's arrays into a folder that is renamed when complete; older ones of the file are deleted."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name, array in read.arrays.items():
            with (partial / f"{name}.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())  # a rename must not outrun the content
        sizes = {file.name: file.stat().st_size for file in sorted(partial.iterdir())}
        (partial / SIZES).write_text(json.dumps(sizes), encoding="utf-8")
        for old in folder.parent.glob(f"{read.sha256[:32]}-*"):  # processes that have mapped them keep them
            shutil.rmtree(old, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process came first
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
