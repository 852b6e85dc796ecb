"""Mapped datasets equal those that were read, are made once, and mend themselves."""

import dataclasses
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from mpcwdwm.data import Dataset, dataset_path, find_task, mapped, read_dataset
from mpcwdwm.data.mapped import mapped_dataset
from mpcwdwm.errors import UserError

BUNDLED = dataset_path(find_task("hopper-medium-replay-mini-ppo-v0"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "mpcwdwm" / "arrays"


def assert_same(one: Dataset, other: Dataset) -> None:
    for field in dataclasses.fields(Dataset):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        else:
            assert ours == theirs


def test_it_equals_what_is_read_and_is_read_once(cache: Path, dataset: Dataset, monkeypatch) -> None:
    assert_same(mapped_dataset(BUNDLED), dataset)
    monkeypatch.setattr(mapped, "read_dataset", lambda path: pytest.fail("read again"))
    assert_same(mapped_dataset(BUNDLED), dataset)
    assert len(list(cache.iterdir())) == 1


def test_the_arrays_are_the_file_and_writing_to_them_changes_it_for_nobody(cache: Path, dataset: Dataset) -> None:
    mine, theirs = mapped_dataset(BUNDLED), mapped_dataset(BUNDLED)
    assert isinstance(mine.obs.base, np.memmap)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.from_numpy(mine.obs)[:] = 7.0
    assert (mine.obs == 7.0).all()
    assert_same(theirs, dataset)
    assert_same(mapped_dataset(BUNDLED), dataset)


@pytest.mark.parametrize("damage", ["shorter", "gone", "no sizes"])
def test_a_damaged_copy_is_made_anew(cache: Path, dataset: Dataset, damage: str) -> None:
    mapped_dataset(BUNDLED)
    (folder,) = cache.iterdir()
    if damage == "shorter":
        os.truncate(folder / "obs.npy", (folder / "obs.npy").stat().st_size - 4)
    elif damage == "gone":
        (folder / "reward.npy").unlink()
    else:
        (folder / "sizes.json").write_text("{")
    assert_same(mapped_dataset(BUNDLED), dataset)
    assert isinstance(mapped_dataset(BUNDLED).obs.base, np.memmap)
    assert len(list(cache.iterdir())) == 1


def test_copies_of_an_older_version_of_the_code_are_not_used_and_go(cache: Path, monkeypatch) -> None:
    mapped_dataset(BUNDLED)
    (old,) = cache.iterdir()
    monkeypatch.setattr(mapped, "_code", lambda: "newer")
    mapped_dataset(BUNDLED)
    (new,) = cache.iterdir()
    assert new.name == old.name.rsplit("-", 1)[0] + "-newer"


def test_another_file_of_the_same_name_is_another_dataset(cache: Path, tmp_path: Path, dataset: Dataset) -> None:
    import h5py

    file = tmp_path / "mine.hdf5"
    shutil.copyfile(BUNDLED, file)
    assert_same(mapped_dataset(file), dataclasses.replace(dataset, path=file))
    with h5py.File(file, "r+") as opened:
        opened["rewards"][0] = 123.0
    assert mapped_dataset(file).reward[0] == 123.0
    assert_same(mapped_dataset(file), read_dataset(file))


def test_where_the_cache_cannot_be_written_the_file_is_read(tmp_path: Path, dataset: Dataset, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert_same(mapped_dataset(BUNDLED), dataset)


def test_a_file_that_changes_while_it_is_read_is_not_taken_for_the_one_it_was(
    cache: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, hashed = tmp_path / "mine.hdf5", mapped.sha256_of
    shutil.copyfile(BUNDLED, path)

    def replaced_once_hashed(file: Path) -> str:
        sha256 = hashed(file)
        with path.open("ab") as opened:
            opened.write(b"more")
        return sha256

    monkeypatch.setattr(mapped, "sha256_of", replaced_once_hashed)
    with pytest.raises(UserError, match="was changed while it was read"):
        mapped_dataset(path)
    monkeypatch.setattr(mapped, "sha256_of", hashed)
    assert not cache.exists()
    assert mapped_dataset(path).sha256 == hashed(path) != dataset.sha256
