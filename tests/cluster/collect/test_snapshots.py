"""Data of one's own: the writer alone, rolling out without RLlib, and the whole command with it."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace

import gymnasium
import h5py
import numpy as np
import pytest

from cluster.collect.snapshots import collect, roll, train_snapshots
from mpcwdwm.data import audit, custom_task, dataset_path, read_dataset
from mpcwdwm.data.hdf5 import Arrays, read_arrays
from mpcwdwm.data.writing import write_arrays
from mpcwdwm.envs.factory import check_env, make_env
from mpcwdwm.errors import UserError
from tests.support import ROOT
from tests.support.synthetic import episodes

HAS_RLLIB = all(importlib.util.find_spec(name) for name in ("tree", "lz4", "ormsgpack"))  # what ray[rllib] adds
ARGUMENTS = {"transitions": 100, "train_steps": 500, "noise_sd": 0.3, "seed": 0, "snapshots": 2}


def arrays_of(made: dict[str, np.ndarray]) -> Arrays:
    return Arrays(
        made["observations"],
        made["actions"],
        made["rewards"],
        made["terminals"],
        made["timeouts"],
        made["next_observations"],
    )


class Still:
    """A policy whose mean action never changes, in place of a snapshot."""

    def __init__(self, action):
        self.action = np.asarray(action, dtype=np.float64)

    def mean_action(self, obs):
        return self.action


# ── The writer ────────────────────────────────────────────────────────────────


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


# ── Rolling out ───────────────────────────────────────────────────────────────


def test_episodes_end_where_the_robot_falls_and_where_a_share_ends(tmp_path):
    env = make_env("Hopper-v4")
    arrays, infos = roll(env, [Still([0, 0, 0]), Still([1, 1, 1])], transitions=401, noise_sd=0.1, seed=0)
    env.close()
    assert arrays.obs.shape == (401, 11)
    assert arrays.timeout is not None
    assert arrays.terminal.sum() > 2
    np.testing.assert_array_equal(np.flatnonzero(arrays.timeout), [199, 400])  # Hopper falls long before its limit
    write_arrays(tmp_path / "mine.hdf5", arrays, infos=infos)
    task = custom_task("mine", tmp_path / "mine.hdf5", "Hopper-v4")
    assert audit(read_dataset(dataset_path(task)), task).faults == ()


def test_a_recorded_state_and_action_give_the_recorded_step_again():
    env = make_env("Hopper-v4")
    arrays, infos = roll(env, [Still([0.2, -0.1, 0.3])], transitions=150, noise_sd=0.3, seed=1)
    assert arrays.next_obs is not None
    for row in (0, 17, 99, 149):
        env.reset()
        env.unwrapped.set_state(infos["qpos"][row], infos["qvel"][row])
        next_obs, reward, terminal, _, _ = env.step(arrays.action[row])
        np.testing.assert_allclose(next_obs, arrays.next_obs[row], atol=1e-5)
        assert reward == pytest.approx(arrays.reward[row], abs=1e-5)
        assert terminal == arrays.terminal[row]
    env.close()


def test_noise_has_the_asked_width_and_stays_within_bounds():
    env = make_env("Pendulum-v1")
    arrays, infos = roll(env, [Still([0.0])], transitions=3000, noise_sd=0.3, seed=0)
    clipped, _ = roll(env, [Still([0.9])], transitions=500, noise_sd=0.3, seed=0)
    exact, _ = roll(env, [Still([0.5])], transitions=50, noise_sd=0.0, seed=0)
    env.close()
    assert arrays.action.std() == pytest.approx(0.3, rel=0.05)
    assert clipped.action.max() == 1
    assert (exact.action == 0.5).all()
    assert infos == {}  # no simulator state to keep


def test_a_time_limit_is_a_timeout_and_a_fall_on_it_is_terminal():
    class Falls(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        action_space = gymnasium.spaces.Box(-1, 1, (1,))

        def __init__(self):
            self.episode = 0

        def reset(self, *, seed=None, options=None):
            self.step_count, self.episode = 0, self.episode + 1
            return np.array([self.episode, 0], dtype=np.float32), {}

        def step(self, action):
            self.step_count += 1
            fallen = self.episode % 2 == 0 and self.step_count == 5  # every other episode, with the limit
            obs = np.array([self.episode, self.step_count], dtype=np.float32)
            return obs, 1.0, fallen, False, {}

    env = gymnasium.wrappers.TimeLimit(Falls(), 5)
    arrays, _ = roll(env, [Still([0.0])], transitions=20, noise_sd=0.0, seed=0)
    assert arrays.timeout is not None
    assert arrays.next_obs is not None
    np.testing.assert_array_equal(np.flatnonzero(arrays.timeout), [4, 14])
    np.testing.assert_array_equal(np.flatnonzero(arrays.terminal), [9, 19])
    np.testing.assert_array_equal(arrays.next_obs[4], [1, 5])  # the state reached, not the one after the reset


# ── The command ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"snapshots": 0}, "snapshots must be at least 1"),
        ({"transitions": 9}, "transitions must be at least 10 with 2 snapshots, not 9"),
        ({"train_steps": 63}, "train-steps must be at least 64 with 2 snapshots, not 63"),
        ({"noise_sd": -0.1}, "noise-sd must be 0 or more"),
        ({"noise_sd": float("nan")}, "noise-sd must be 0 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_numbers_without_sense_are_refused_first(tmp_path, change, says):
    with pytest.raises(UserError, match=says):
        collect("No-Such-Env", tmp_path / "mine.hdf5", **{**ARGUMENTS, **change})


@pytest.mark.skipif(HAS_RLLIB, reason="RLlib is installed")
def test_without_rllib_one_line_says_what_to_install(tmp_path):
    with pytest.raises(UserError, match=r'pip install "mpcwdwm\[rllib\]"$'):
        collect("Pendulum-v1", tmp_path / "mine.hdf5", **ARGUMENTS)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not HAS_RLLIB, reason="RLlib is not installed: the extra rllib")
def test_nothing_is_trained_for_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "mine.hdf5").write_bytes(b"")
    with pytest.raises(UserError, match="exists already"):
        collect("Pendulum-v1", tmp_path / "mine.hdf5", **ARGUMENTS)
    with pytest.raises(UserError, match="cannot be made"):
        collect("Pendulum-v1", tmp_path / "mine.hdf5" / "deeper.hdf5", **ARGUMENTS)
    with pytest.raises(UserError, match="not known to gymnasium"):
        collect("Pendulun-v1", tmp_path / "other.hdf5", **ARGUMENTS)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RLLIB, reason="RLlib is not installed: the extra rllib")
def test_snapshots_are_evenly_spaced_copies_of_a_policy_that_learns():
    first, second, third = train_snapshots("Pendulum-v1", 300, 3, seed=0)
    assert [snapshot.steps for snapshot in (first, second, third)] == [100, 200, 300]
    obs = np.array([0.6, 0.8, 1.0])
    actions = [float(snapshot.mean_action(obs)[0]) for snapshot in (first, second, third)]
    assert len(set(actions)) == 3
    for snapshot in (first, second, third):  # normalised by what was seen: a cosine, a sine, an angular velocity
        assert ((snapshot.obs_std > 0.05) & (snapshot.obs_std < [1, 1, 8])).all()
        assert (np.abs(snapshot.obs_mean) <= [1, 1, 8]).all()
    # A shift of observation and mean together changes nothing.
    shifted = replace(first, obs_mean=first.obs_mean + 3)
    assert shifted.mean_action(obs + 3) == pytest.approx(first.mean_action(obs), abs=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RLLIB, reason="RLlib is not installed: the extra rllib")
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Hopper-v4"])
def test_the_command_writes_a_dataset_that_is_a_task(tmp_path, env_id):
    path = tmp_path / "data" / "mine.hdf5"
    command = [sys.executable, "-c", "from sweeps.cli import main; main()", "data", "collect", env_id]
    command += ["--out", str(path), "--transitions", "600", "--train-steps", "500", "--snapshots", "2"]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert "600 (observation" in ended.stdout
    assert len(ended.stderr.splitlines()) < 5, ended.stderr  # bars, but nothing of what libraries say
    task = custom_task("mine", path, env_id)
    dataset = read_dataset(dataset_path(task))
    assert audit(dataset, task).faults == ()
    check_env(task.env_id, dataset.obs_dim, dataset.act_dim)
    assert len(dataset.obs) == 600
    assert (dataset.timeout | dataset.terminal)[[299, 599]].all()  # a share ends with its episode
    with h5py.File(path) as file:
        assert file.attrs["provenance"].startswith("PPO snapshots at 250,500 steps")
        assert file.attrs["noise_sd"] == 0.3
        assert ("infos/qpos" in file) == (env_id == "Hopper-v4")
        assert len(np.unique(file["actions"][:300], axis=0)) > 290
    assert os.listdir(path.parent) == ["mine.hdf5"]
    assert not list((tmp_path / "ray_results").glob("*"))  # RLlib's own record of the run is gone
