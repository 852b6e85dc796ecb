"""Ends of episodes as the states show them: flags that disagree with a robot's rule, and resets that none announces."""

from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from mpcwdwm.data import audit, custom_task, dataset_path, find_task, read_dataset
from mpcwdwm.data.audit import doubts
from mpcwdwm.data.ends import ends_of
from mpcwdwm.data.hdf5 import Arrays, read_arrays
from mpcwdwm.data.writing import write_arrays
from mpcwdwm.errors import UserError
from tests.support.parts import BUNDLED

ARRAYS = read_arrays(dataset_path(find_task(BUNDLED)))  # its flags are right, its next observations stored
NEVER = np.zeros_like(ARRAYS.terminal)
BARE = replace(ARRAYS, next_obs=None)  # as many files are


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def halfcheetah(episodes: int = 20, length: int = 100) -> Arrays:
    """Episodes that all end as terminal, of a robot that never terminates; as files are that merge both flags."""
    env, rng = gymnasium.make("HalfCheetah-v4"), np.random.default_rng(0)
    obs, action, reward = [], [], []
    for seed in range(episodes):
        seen, _ = env.reset(seed=seed)
        for _ in range(length):
            obs.append(seen)
            action.append(rng.uniform(-1, 1, 6).astype(np.float32))
            seen, gained, *_ = env.step(action[-1])
            reward.append(gained)
    last = np.arange(episodes * length) % length == length - 1
    return Arrays(np.array(obs, np.float32), np.array(action), np.array(reward, np.float32), last, None, None)


# What is found


def test_the_audit_shows_numbers_of_any_size_and_columns_that_hardly_vary(tmp_path: Path) -> None:
    tiny = ARRAYS.obs.copy()
    tiny[:, 4] *= 1e-4
    write_arrays(tmp_path / "a.hdf5", replace(ARRAYS, obs=tiny, reward=ARRAYS.reward * np.float32(1e-6), next_obs=None))
    shown = audit(read_dataset(tmp_path / "a.hdf5")).render()
    mean, low, high = (1e-6 * float(f(ARRAYS.reward)) for f in (np.mean, np.min, np.max))
    assert f"reward            mean {mean:.4g}, from {low:.4g} to {high:.4g}" in shown
    assert "1 × column of the observation with a standard deviation below 0.01 (first: 4)" in shown
    assert "sd 0.0 " not in shown


def test_nothing_is_found_in_a_file_whose_flags_are_right() -> None:
    shown = ends_of(ARRAYS, "hopper")
    np.testing.assert_array_equal(shown.fallen, ARRAYS.terminal)
    assert not shown.jump.any()
    assert shown.compared.all()
    assert doubts(read_dataset(dataset_path(find_task(BUNDLED))), "hopper") == []


def test_without_next_observations_the_last_of_an_episode_is_predicted_and_judged() -> None:
    shown = ends_of(BARE, "hopper")
    np.testing.assert_array_equal(shown.predicted, np.append(ARRAYS.marked_ends[:-1], True))
    assert (shown.fallen != ARRAYS.terminal).sum() <= 0.02 * ARRAYS.terminal.sum()
    assert not shown.jump.any()


def test_unmarked_resets_are_jumps_and_no_step_is() -> None:
    shown = ends_of(replace(BARE, terminal=NEVER, timeout=NEVER), None)
    np.testing.assert_array_equal(shown.jump[:-1], ARRAYS.marked_ends[:-1])
    assert not shown.compared.any()


def test_too_few_rows_say_nothing() -> None:
    few = Arrays(*(part[:60] for part in (ARRAYS.obs, ARRAYS.action, ARRAYS.reward, NEVER, NEVER)), None)
    shown = ends_of(few, "hopper")
    assert not shown.jump.any()
    np.testing.assert_array_equal(~shown.compared, np.arange(60) == 59)


# What is said


@pytest.mark.parametrize(
    ("arrays", "env", "says"),
    [
        (
            replace(ARRAYS, terminal=NEVER, timeout=ARRAYS.marked_ends),
            "Hopper-v4",
            "201 × row not terminal though",
        ),
        (replace(BARE, terminal=NEVER, timeout=ARRAYS.marked_ends), "Hopper-v4", "× row not terminal though 'hopper'"),
        (replace(BARE, terminal=NEVER, timeout=NEVER), "Hopper-v4", "205 × jump of the observation"),
        (halfcheetah(), "HalfCheetah-v4", "20 × row terminal though 'halfcheetah' does not end there"),
    ],
    ids=["falls as timeouts", "and no next observations", "no flags at all", "time limits as terminals"],
)
def test_audit_and_sweep_say_how_many_rows_disagree(tmp_path: Path, arrays: Arrays, env: str, says: str) -> None:
    flagged = arrays.marked_ends.copy()
    flagged[-1] = True  # a file without any end is refused
    write_arrays(tmp_path / "a.hdf5", replace(arrays, timeout=flagged & ~arrays.terminal))
    dataset, task = read_dataset(tmp_path / "a.hdf5"), custom_task("mine", tmp_path / "a.hdf5", env)
    assert says in audit(dataset, task).render()
    assert any(says in line for line in doubts(dataset, task.termination))


def test_a_file_alone_is_not_compared_and_the_audit_says_so(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.hdf5", ARRAYS)
    assert "not compared: no termination rule is known (--env" in audit(read_dataset(tmp_path / "a.hdf5")).render()


# How a task reads it


def read_as(path: Path, env: str, **reading):
    return read_dataset(dataset_path(custom_task("mine", path, env, **reading)))


def test_flags_by_the_rule_are_those_of_the_file_that_was_right(tmp_path: Path) -> None:
    wrong = replace(ARRAYS, terminal=NEVER, timeout=ARRAYS.marked_ends)
    write_arrays(tmp_path / "a.hdf5", wrong)
    assert not read_as(tmp_path / "a.hdf5", "Hopper-v4").terminal.any()
    found = read_as(tmp_path / "a.hdf5", "Hopper-v4", terminals="rule")
    np.testing.assert_array_equal(found.terminal, ARRAYS.terminal)
    assert sorted(path.name for path in tmp_path.glob("*.hdf5")) == [
        "a.hdf5",
        "a.hdf5.terminals-hopper.d4rl.hdf5",
    ]


def test_time_limits_that_were_flagged_terminal_become_timeouts(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.hdf5", replace(halfcheetah(), timeout=NEVER[:2000]))
    found = read_as(tmp_path / "a.hdf5", "HalfCheetah-v4", terminals="rule")
    assert not found.terminal.any()
    np.testing.assert_array_equal(found.lengths, [100] * 20)


def test_ends_at_jumps_are_the_episodes_that_were_recorded(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.hdf5", replace(BARE, terminal=NEVER, timeout=NEVER))
    found = read_as(tmp_path / "a.hdf5", "Hopper-v4", terminals="rule", ends="jumps")
    np.testing.assert_array_equal(found.lengths, read_dataset(dataset_path(find_task(BUNDLED))).lengths)
    assert (found.terminal != ARRAYS.terminal).sum() <= 0.02 * ARRAYS.terminal.sum()


def test_the_copy_follows_its_file(tmp_path: Path) -> None:
    for shift in (0, 1):
        terminal = np.roll(ARRAYS.terminal, shift)
        write_arrays(tmp_path / "a.hdf5", replace(ARRAYS, terminal=terminal, next_obs=None))
        first = read_as(tmp_path / "a.hdf5", "Hopper-v4", ends="jumps")
        np.testing.assert_array_equal(first.terminal, terminal)


def test_a_rule_has_to_be_known(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.hdf5", ARRAYS)
    with pytest.raises(UserError, match="terminals: rule needs a termination rule"):
        read_as(tmp_path / "a.hdf5", "Pendulum-v1", terminals="rule")
