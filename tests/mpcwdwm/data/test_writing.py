"""Datasets written in D4RL's layout: what is written is what is read, atomically and in the same bytes."""

import os
from dataclasses import replace

import h5py
import numpy as np
import pytest

from mpcwdwm.data.hdf5 import Arrays, read_arrays
from mpcwdwm.data.writing import write_arrays
from mpcwdwm.errors import UserError
from tests.support.synthetic import episodes


def arrays_of(made: dict[str, np.ndarray]) -> Arrays:
    return Arrays(
        made["observations"],
        made["actions"],
        made["rewards"],
        made["terminals"],
        made["timeouts"],
        made["next_observations"],
    )


def test_what_is_written_is_what_is_read(tmp_path):
    arrays = arrays_of(episodes())
    positions = np.random.default_rng(0).normal(size=(22, 4))
    path = tmp_path / "mine.hdf5"
    write_arrays(path, arrays, infos={"qpos": positions}, attributes={"seed": 3, "env_id": "Hopper-v4"})
    found = read_arrays(path)
    for name in ("obs", "action", "reward", "next_obs", "terminal", "timeout"):
        np.testing.assert_array_equal(getattr(found, name), getattr(arrays, name), err_msg=name)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["infos/qpos"], positions)
        assert dict(file.attrs) == {"seed": 3, "env_id": "Hopper-v4"}
    assert os.listdir(tmp_path) == ["mine.hdf5"]


def test_the_same_arrays_give_the_same_bytes(tmp_path):
    for name in ("a.hdf5", "b.hdf5"):
        write_arrays(tmp_path / name, arrays_of(episodes()), attributes={"seed": 3})
    assert (tmp_path / "a.hdf5").read_bytes() == (tmp_path / "b.hdf5").read_bytes()


def test_unfit_arrays_leave_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "mine.hdf5"
    path.write_bytes(b"old")
    arrays = arrays_of(episodes())
    arrays.obs[7, 1] = np.nan
    with pytest.raises(UserError, match=r"mine.hdf5': array 'observations' holds nan in row 7"):
        write_arrays(path, arrays)
    with pytest.raises(ValueError, match="infos 'qpos' has 3 rows"):
        write_arrays(path, arrays_of(episodes()), infos={"qpos": np.zeros((3, 2))})
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["mine.hdf5"]


def test_an_array_that_is_absent_is_not_written(tmp_path):
    write_arrays(tmp_path / "mine.hdf5", replace(arrays_of(episodes()), next_obs=None))
    assert read_arrays(tmp_path / "mine.hdf5").next_obs is None
