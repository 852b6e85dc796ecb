"""Arrays that lie in other files are refused, whatever way HDF5 has them lie there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mpcwdwm.data import custom_task, dataset_path, read_dataset
from mpcwdwm.errors import UserError
from tests.support.synthetic import episodes, write_hdf5

ROWS = 22
Make = Callable[[Any, Path], None]


def external_link(file: Any, other: Path) -> None:
    file["rewards"] = h5py.ExternalLink(str(other), "/rewards")


def link_to_an_external_link(file: Any, other: Path) -> None:
    file["elsewhere"] = h5py.ExternalLink(str(other), "/")
    file["rewards"] = h5py.SoftLink("/elsewhere/rewards")


def raw_bytes(file: Any, other: Path) -> None:
    file.create_dataset("rewards", (ROWS,), dtype="f4", external=[(str(other), 0, 4 * ROWS)])


def view(file: Any, other: Path) -> None:
    layout = h5py.VirtualLayout((ROWS,), "f4")
    layout[:] = h5py.VirtualSource(str(other), "rewards", (ROWS,))
    file.create_virtual_dataset("rewards", layout)


def view_of_a_file_that_is_gone(file: Any, other: Path) -> None:
    """HDF5 fills in zeros, and says nothing."""
    view(file, other.with_name("gone.hdf5"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("make", "way"),
    [
        (external_link, "behind a link"),
        (link_to_an_external_link, "behind a link"),
        (raw_bytes, "as their raw bytes"),
        (view, "as a view of them"),
        (view_of_a_file_that_is_gone, "as a view of them"),
    ],
)
@pytest.mark.parametrize("columns", [{}, {"rewards": "rewards"}], ids=["own names", "named"])
def test_an_array_in_another_file_is_refused(make: Make, way: str, columns: dict[str, str], tmp_path: Path) -> None:
    path = hollow(make, tmp_path)
    task = custom_task("mine", path, "Hopper-v4", columns=columns)
    with pytest.raises(UserError, match=f"array 'rewards' lies in other files, {way}, which its hash does not cover"):
        dataset_path(task)


def test_links_within_a_file_are_read(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "linked.hdf5", episodes())
    with h5py.File(path, "a") as file:
        file["kept/here"] = file["rewards"][()]
        del file["rewards"]
        file["rewards"] = h5py.SoftLink("/kept/here")
    found = dataset_path(custom_task("mine", path, "Hopper-v4"))
    np.testing.assert_array_equal(read_dataset(found).reward, episodes()["rewards"])


def hollow(make: Make, folder: Path) -> Path:
    """Write a dataset whose rewards are elsewhere."""
    other = write_hdf5(folder / "other.hdf5", episodes())
    path = write_hdf5(folder / "hollow.hdf5", episodes())
    with h5py.File(path, "a") as file:
        del file["rewards"]
        make(file, other)
    return path
