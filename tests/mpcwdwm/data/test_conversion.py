"""NPZ, HDF5 with other names and Minari's layout give the transitions that D4RL's layout gives."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import h5py
import numpy as np
import pytest

from mpcwdwm.data import custom_task, dataset_path, read_dataset
from mpcwdwm.data.conversion import dataset_file, in_d4rl_layout
from mpcwdwm.errors import UserError
from tests.support.synthetic import episodes, write_hdf5

RENAMED = {"observations": "obs", "terminals": "flags/done", "next_observations": "after"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def expected(tmp_path):
    return read_dataset(write_hdf5(tmp_path / "plain.hdf5", episodes()))


def assert_same(path, expected):
    found = read_dataset(path)
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array, err_msg=name)


def minari(path, lengths=(6, 4, 5, 7), ends="tott"):
    """Write `episodes` as Minari does, in groups out of order."""
    arrays, start = episodes(lengths, ends), 0
    with h5py.File(path, "w") as file:
        for index, (length, end) in enumerate(zip(lengths, ends, strict=True)):
            rows, group = slice(start, start + length), file.create_group(f"episode_{index}")
            obs = np.concatenate([arrays["observations"][rows], arrays["next_observations"][rows][-1:]])
            group["observations"], group["actions"] = obs, arrays["actions"][rows]
            group["rewards"] = arrays["rewards"][rows].astype(np.float64)
            last = np.arange(length) == length - 1
            group["terminations"], group["truncations"] = last & (end == "t"), last & (end == "o")
            start += length
    return path


def test_d4rls_own_layout_is_left_as_it_is(tmp_path):
    path = write_hdf5(tmp_path / "a.hdf5", episodes())
    assert in_d4rl_layout(path) == path


def test_an_npz_file(tmp_path, expected):
    np.savez(tmp_path / "a.npz", **episodes())
    copy = in_d4rl_layout(tmp_path / "a.npz")
    assert copy == tmp_path / "a.npz.d4rl.hdf5"
    assert_same(copy, expected)


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_other_names_are_mapped(tmp_path, expected, kind):
    arrays = {RENAMED.get(name, name): array for name, array in episodes().items()}
    path = tmp_path / f"a.{kind}"
    write_hdf5(path, arrays) if kind == "hdf5" else np.savez(path, **arrays)
    assert_same(dataset_path(custom_task("mine", path, "Hopper-v4", columns=RENAMED)), expected)


def test_minaris_episodes_are_joined(tmp_path, expected):
    assert_same(in_d4rl_layout(minari(tmp_path / "main_data.hdf5")), expected)


def test_minaris_episode_that_nothing_ended_ends_by_a_timeout(tmp_path, expected):
    path = minari(tmp_path / "m.hdf5")
    with h5py.File(path, "r+") as file:
        file["episode_1/truncations"][...] = False
    assert_same(in_d4rl_layout(path), expected)


def test_more_than_ten_episodes_keep_their_order(tmp_path):
    lengths, ends = [3] * 12, "t" * 12
    copy = in_d4rl_layout(minari(tmp_path / "m.hdf5", lengths, ends))
    np.testing.assert_array_equal(read_dataset(copy).obs, episodes(lengths, ends)["observations"])


def test_the_copy_is_made_once_and_again_when_the_file_has_changed(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **episodes())
    copy = in_d4rl_layout(path)
    before = copy.stat().st_mtime_ns
    assert in_d4rl_layout(path).stat().st_mtime_ns == before
    np.savez(path, **episodes(seed=1))
    np.testing.assert_array_equal(read_dataset(in_d4rl_layout(path)).obs, episodes(seed=1)["observations"])


@pytest.mark.parametrize("kind", [np.float64, np.uint8])
def test_observations_of_other_numbers_are_read(tmp_path, kind):
    arrays = episodes()
    for name in ("observations", "next_observations"):
        arrays[name] = np.abs(100 * arrays[name]).astype(kind)
    np.savez(tmp_path / "a.npz", **arrays)
    np.testing.assert_array_equal(
        read_dataset(in_d4rl_layout(tmp_path / "a.npz")).obs, arrays["observations"].astype(np.float32)
    )


@pytest.mark.parametrize(
    ("change", "columns", "says"),
    [
        ({}, {"obsevations": "obs"}, "did you mean 'observations'"),
        ({"rewards": None}, {}, "array 'rewards' is missing.*columns: {rewards: NAME}"),
        ({"rewards": np.array(["a"] * 22)}, {}, "not numeric"),
        ({"actions": np.full((22, 2), 3.0)}, {}, r"leaves \[-1, 1\]"),
        ({"rewards": np.array([{}] * 22)}, {}, "not an NPZ file of plain arrays"),
    ],
)
def test_an_unfit_file_is_one_line(tmp_path, change, columns, says):
    arrays = {name: array for name, array in {**episodes(), **change}.items() if array is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=says) as caught:
        in_d4rl_layout(tmp_path / "a.npz", columns)
    assert "\n" not in str(caught.value)


def test_what_has_no_end_or_cannot_be_is_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opened, it would wait for ever
    for path in (Path("/dev/zero"), tmp_path / "pipe", tmp_path):
        with pytest.raises(UserError, match="is not a file"):
            in_d4rl_layout(path)
    for name in ("a" * 1000 + ".hdf5", "a" * 1000):
        with pytest.raises(UserError, match="not found"):
            read_dataset(in_d4rl_layout(tmp_path / name))


def test_minaris_dict_observations_are_refused_in_one_line(tmp_path):
    path = minari(tmp_path / "m.hdf5")
    with h5py.File(path, "a") as file:
        del file["episode_1/observations"]
        file["episode_1/observations/goal"] = np.zeros(3)
    with pytest.raises(UserError, match="'episode_1/observations' is missing or not an array"):
        in_d4rl_layout(path)


class Stored:
    """In place of Minari's library: one dataset, in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def load_dataset(self, dataset_id):
        if dataset_id != "mine/test-v0":
            raise FileNotFoundError(f"Dataset {dataset_id} not found locally")
        return SimpleNamespace(storage=SimpleNamespace(data_path=self.folder))


def test_minaris_library_says_where_its_dataset_lies(tmp_path, monkeypatch, expected):
    minari(tmp_path / "main_data.hdf5")
    monkeypatch.setitem(sys.modules, "minari", Stored(tmp_path))
    assert_same(in_d4rl_layout(dataset_file("minari:mine/test-v0", tmp_path / "elsewhere")), expected)
    with pytest.raises(UserError, match="not found locally; fetch it with `minari download no/such-v0`"):
        dataset_file("minari:no/such-v0", tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning:minari")  # of metadata that nobody gave
def test_a_dataset_that_minaris_own_library_wrote(tmp_path, monkeypatch):
    library = pytest.importorskip("minari", reason="the extra minari is not installed")
    from minari.data_collector import EpisodeBuffer  # it exists where the library does

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    env, noise, buffers, rows = gymnasium.make("Hopper-v4", max_episode_steps=12), np.random.default_rng(0), [], []
    for episode in range(3):
        seen, over, own = [env.reset(seed=episode)[0]], False, []
        while not over:
            action = noise.uniform(-1, 1, 3).astype(np.float32)
            now, reward, ended, cut, _ = env.step(action)
            own.append((seen[-1], action, reward, ended, cut, now))
            seen, over = [*seen, now], ended or cut
        _, actions, rewards, terminations, truncations, _ = (list(column) for column in zip(*own, strict=True))
        columns = {"rewards": rewards, "terminations": terminations, "truncations": truncations}
        buffers.append(EpisodeBuffer(id=episode, observations=np.stack(seen), actions=np.stack(actions), **columns))
        rows += own
    library.create_dataset_from_buffers("mine/hopper-v0", buffers, env=env, data_format="hdf5", description="three")
    found = read_dataset(in_d4rl_layout(dataset_file("minari:mine/hopper-v0", tmp_path))).arrays
    names = ("obs", "action", "reward", "terminal", "timeout", "next_obs")
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        np.testing.assert_array_equal(found[name], np.asarray(column, dtype=found[name].dtype), err_msg=name)
    with pytest.raises(UserError, match=r"dataset 'minari:mine/other-v0': .*`minari download mine/other-v0`"):
        dataset_file("minari:mine/other-v0", tmp_path)


def test_without_minaris_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(UserError, match=r"mpcwdwm\[minari\]"):
        dataset_file("minari:mine/test-v0", tmp_path)
    assert dataset_file("a.npz", tmp_path) == tmp_path / "a.npz"
