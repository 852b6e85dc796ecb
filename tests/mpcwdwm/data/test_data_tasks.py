import os

import numpy as np
import pytest

from mpcwdwm.data import (
    TASKS,
    custom_task,
    dataset_path,
    find_task,
    published_config,
    read_dataset,
    sha256_of,
)
from mpcwdwm.data.audit import audit
from mpcwdwm.envs.factory import env_spec
from mpcwdwm.errors import UserError
from tests.support.synthetic import episodes, write_hdf5

MINI = "hopper-medium-replay-mini-ppo-v0"
REFERENCES = {"halfcheetah": (-280.178953, 12135.0), "hopper": (-20.272305, 3234.3), "walker2d": (1.629008, 4592.3)}
KINDS = ("random", "medium", "expert", "medium-expert", "medium-replay", "full-replay")
POINT_REFERENCES = {  # from d4rl's infos.py
    "open-v0": (0.01, 20.66, 150),
    "umaze-v1": (23.85, 161.86, 300),
    "medium-v1": (13.13, 277.39, 600),
    "large-v1": (6.7, 273.99, 800),
    "open-dense-v0": (11.17817, 27.166538620695782, 150),
    "umaze-dense-v1": (68.537689, 193.66285642381482, 300),
    "medium-dense-v1": (44.264742, 297.4552547777125, 600),
    "large-dense-v1": (30.569041, 303.4857382709002, 800),
}
MAZES = ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))


# ── The registry ──────────────────────────────────────────────────────────────


def test_the_registry_holds_18_locomotion_14_maze_and_the_bundled_task():
    expected = {f"{robot}-{kind}-v2" for robot in REFERENCES for kind in KINDS}
    expected |= {f"antmaze-{maze}-v2" for maze in MAZES} | {f"maze2d-{maze}" for maze in POINT_REFERENCES} | {MINI}
    assert set(TASKS) == expected
    assert all(task.name == name for name, task in TASKS.items())


@pytest.mark.parametrize("name", sorted(name for name in TASKS if "maze" not in name))
def test_a_locomotion_task_agrees_with_d4rl_and_gymnasium(name):
    task, robot = find_task(name), name.split("-")[0]
    assert task.env_id.endswith("-v4")
    assert task.env_id.removesuffix("-v4").lower() == robot
    assert (task.termination, task.reference) == (robot, REFERENCES[robot])
    assert task.max_episode_steps == env_spec(task.env_id).max_episode_steps == 1000


def test_addresses_and_reference_scores_are_those_of_d4rl():
    task = find_task("walker2d-medium-replay-v2")
    folder = "https://rail.eecs.berkeley.edu/datasets/offline_rl/gym_mujoco_v2"
    assert task.url == f"{folder}/walker2d_medium_replay-v2.hdf5"
    assert task.reference == (1.629008, 4592.3)
    assert len({task.url.rsplit("/", 1)[1] for task in TASKS.values() if task.url}) == 32  # one cache folder


@pytest.mark.parametrize("maze", MAZES)
def test_an_antmaze_task_is_judged_in_our_environment_by_successes(maze):
    task = find_task(f"antmaze-{maze}-v2")
    assert task.env_id == f"mpcwdwm/AntMaze-{maze}-v2"
    assert task.max_episode_steps == env_spec(task.env_id).max_episode_steps == (700 if "umaze" in maze else 1000)
    assert (task.reference, task.termination) == ((0.0, 1.0), None)
    own = custom_task("mine", "mine.hdf5", task.env_id)
    assert (own.max_episode_steps, own.reference, own.termination) == (task.max_episode_steps, (0.0, 1.0), None)


@pytest.mark.parametrize("maze", POINT_REFERENCES)
def test_a_pointmaze_task_is_judged_in_our_environment_on_d4rls_scale(maze):
    low, high, steps = POINT_REFERENCES[maze]
    task = find_task(f"maze2d-{maze}")
    assert task.env_id == f"mpcwdwm/PointMaze-{maze}"
    assert (task.reference, task.termination) == ((low, high), None)
    assert task.max_episode_steps == env_spec(task.env_id).max_episode_steps == steps
    kind, version = maze.rsplit("-", 1)
    file = f"maze2d-{kind if 'dense' in kind else kind + '-sparse'}{'' if version == 'v0' else '-v1'}.hdf5"
    assert task.url == f"https://rail.eecs.berkeley.edu/datasets/offline_rl/maze2d/{file}"
    own = custom_task("mine", "mine.hdf5", task.env_id)
    assert (own.max_episode_steps, own.reference, own.termination) == (steps, (low, high), None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hoper-medium-v2", "did you mean 'hopper-medium-v2'?"),
        ("data/mine.hdf5", "is a path"),
        ("nothing-like-it", "data list"),
    ],
)
def test_an_unknown_task_name_is_explained(name, expected):
    with pytest.raises(UserError, match=r"unknown task|is a path") as caught:
        find_task(name)
    assert expected in str(caught.value)


# ── Published hyper-parameters ────────────────────────────────────────────────

# Straight from ReBRAC's YAML files: actor_bc_coef, critic_bc_coef.
REBRAC = {
    "halfcheetah-random-v2": (0.001, 0.1),
    "hopper-medium-v2": (0.01, 0.01),  # the paper prints critic 0.001; the YAML wins
    "hopper-expert-v2": (0.1, 0.1),  # the same
    "hopper-medium-replay-v2": (0.05, 0.5),
    "walker2d-random-v2": (0.01, 0.0),
    "antmaze-medium-play-v2": (0.001, 0.0005),
    "maze2d-medium-v1": (0.003, 0.001),
}


@pytest.mark.parametrize("name", REBRAC)
def test_rebrac_coefficients_are_those_of_the_yaml(name):
    config = published_config(find_task(name), "rebrac")
    assert (config["actor_bc_coef"], config["critic_bc_coef"]) == REBRAC[name]
    assert config["normalize_obs"] is False
    assert config["normalize_q"] is True


def test_rebrac_on_antmaze_scales_rewards_and_slows_the_critic():
    config = published_config(find_task("antmaze-umaze-v2"), "rebrac")
    assert (config["reward_scale"], config["discount"], config["batch_size"]) == (100.0, 0.999, 256)
    assert (config["actor_lr"], config["critic_lr"]) == (3e-4, 5e-5)
    config = published_config(find_task("hopper-random-v2"), "rebrac")
    assert (config["reward_scale"], config["discount"], config["batch_size"]) == (1.0, 0.99, 1024)
    assert isinstance(config["batch_size"], int)


def test_rebrac_on_pointmaze_takes_corls_steps_and_rewards_as_they_are():
    for maze in ("umaze", "medium", "large"):
        config = published_config(find_task(f"maze2d-{maze}-v1"), "rebrac")
        assert (config["reward_scale"], config["discount"], config["batch_size"]) == (1.0, 0.99, 256)
        assert (config["actor_lr"], config["critic_lr"]) == (3e-4, 3e-4)
        assert published_config(find_task(f"maze2d-{maze}-dense-v1"), "rebrac") == {}


def test_iql_normalises_observations_and_never_rewards_as_well():
    for name, task in TASKS.items():
        config = published_config(task, "iql")
        if name.startswith("maze2d-open"):
            assert config == {}
        elif task.source == "d4rl":
            assert config["normalize_obs"] is True
            assert config["normalize_reward"] is False
            assert config["deterministic"] is (name in ("hopper-medium-v2", "hopper-medium-replay-v2"))
            maze = name.startswith("antmaze")
            assert (config["temperature"], config["expectile"]) == ((10.0, 0.9) if maze else IQL.get(name, (3.0, 0.7)))
            assert config["reward_shift"] == (-1.0 if maze else 0.0)


IQL = {"hopper-medium-expert-v2": (6.0, 0.5)}  # the only locomotion task that differs from 3.0, 0.7


def test_nothing_was_published_for_other_tasks_and_components(tmp_path):
    assert published_config(find_task(MINI), "rebrac") == {}
    assert published_config(custom_task("mine", tmp_path / "a.hdf5", "Hopper-v4"), "iql") == {}
    assert published_config(find_task("hopper-medium-v2"), "world_model") == {}


@pytest.mark.parametrize("component", ["rebrac", "iql"])
@pytest.mark.parametrize("name", ["hopper-medium-v2", "antmaze-umaze-v2"])
def test_published_values_are_fields_of_the_components(component, name):
    from mpcwdwm.components import component_config

    published = published_config(find_task(name), component)
    config = component_config(component, published, {})
    assert {field: getattr(config, field) for field in published} == published


# ── Bring your own dataset ────────────────────────────────────────────────────


def test_a_known_robot_brings_its_rule_and_reference(tmp_path):
    task = custom_task("mine", tmp_path / "a.hdf5", "HalfCheetah-v4")
    assert (task.source, task.termination, task.max_episode_steps) == ("local", "halfcheetah", 1000)
    assert task.reference == (-280.178953, 12135.0)
    ant = custom_task("mine", tmp_path / "a.hdf5", "Ant-v5")  # none of its tasks is registered
    assert (ant.termination, ant.reference, ant.max_episode_steps) == ("ant", (-325.6, 3879.7), 1000)
    own = custom_task("mine", tmp_path / "a.hdf5", "Hopper-v4", reference=(0, 10), max_episode_steps=50)
    assert (own.reference, own.max_episode_steps) == ((0.0, 10.0), 50)


def test_any_other_environment_is_a_task_without_rule_or_reference(tmp_path):
    task = custom_task("mine", tmp_path / "a.hdf5", "Pendulum-v1")
    assert (task.termination, task.reference, task.max_episode_steps, task.goal_reward) == (None, None, 200, None)


def test_what_a_reached_goal_earns_is_known_of_antmaze_and_can_be_given(tmp_path):
    maze = "mpcwdwm/AntMaze-umaze-v2"
    assert (
        custom_task("mine", tmp_path / "a.hdf5", maze).goal_reward == find_task("antmaze-umaze-v2").goal_reward == 0.5
    )
    assert custom_task("mine", tmp_path / "a.hdf5", maze, goal_reward=0.0).goal_reward == 0.0
    assert custom_task("mine", tmp_path / "a.hdf5", "Pendulum-v1", goal_reward=-1e-3).goal_reward == -1e-3
    assert find_task("hopper-medium-v2").goal_reward is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": "a/b"}, "letters, digits"),
        ({"name": "hopper-medium-v2"}, "registered"),
        ({"env": "Hoper-v4"}, "did you mean 'Hopper-v4'?"),
        ({"env": "Hopper-v2"}, "use 'Hopper-v4'"),
        ({"termination": "hoper"}, "did you mean 'hopper'?"),
        ({"reference": (3.0, 1.0)}, "reference"),
        ({"reference": (0.0, float("inf"))}, "reference"),
        ({"max_episode_steps": -5}, "max_episode_steps"),
    ],
)
def test_an_impossible_own_task_is_refused(change, expected, tmp_path):
    fields = {"name": "mine", "dataset": tmp_path / "a.hdf5", "env": "Hopper-v4", **change}
    with pytest.raises(UserError) as caught:
        custom_task(**fields)
    assert expected in str(caught.value)


# ── Where the file lies ───────────────────────────────────────────────────────


def test_the_bundled_dataset_is_there_and_whole():
    path = dataset_path(find_task(MINI))
    provenance = (path.parent / "PROVENANCE.md").read_text()
    assert sha256_of(path) in provenance
    assert "not" in provenance
    dataset = read_dataset(path)
    assert (len(dataset.obs), len(dataset.lengths)) == (50_000, 206)


def test_a_missing_d4rl_file_says_which_file_to_put_where(tmp_path):
    with pytest.raises(UserError) as caught:
        dataset_path(find_task("hopper-medium-v2"))
    message = str(caught.value)
    assert str(tmp_path / "d4rl" / "hopper_medium-v2.hdf5") in message
    assert "mpcwdwm data get hopper-medium-v2" in message
    assert "https://rail.eecs.berkeley.edu" in message


def test_a_file_that_d4rl_downloaded_is_found_recorded_and_verified(tmp_path):
    (tmp_path / "d4rl").mkdir()
    path = write_hdf5(tmp_path / "d4rl" / "hopper_medium-v2.hdf5", episodes())
    task = find_task("hopper-medium-v2")
    assert dataset_path(task) == path
    assert path.with_name(path.name + ".json").exists()
    assert dataset_path(task) == path
    write_hdf5(path, episodes(seed=1))
    os.utime(path, (0, 0))  # same size, and perhaps the same tick of the clock
    with pytest.raises(UserError, match="not the file recorded") as caught:
        dataset_path(task)
    assert sha256_of(path) in str(caught.value)
    path.with_name(path.name + ".json").write_text("{")
    with pytest.raises(UserError, match=r"delete it to record"):
        dataset_path(task)
    path.with_name(path.name + ".json").unlink()
    assert dataset_path(task) == path


def test_a_local_file_must_exist(tmp_path):
    with pytest.raises(UserError, match="not found") as caught:
        dataset_path(custom_task("mine", tmp_path / "no.hdf5", "Hopper-v4"))
    assert str(tmp_path / "no.hdf5") in str(caught.value)
    with pytest.raises(UserError, match="not a file"):
        dataset_path(custom_task("mine", tmp_path, "Hopper-v4"))


# ── Audit ─────────────────────────────────────────────────────────────────────


def faults(path, task=None):
    return {fault.what: (fault.count, fault.first) for fault in audit(read_dataset(path), task).faults}


def test_the_bundled_dataset_has_no_faults_and_the_numbers_of_its_provenance():
    task = find_task(MINI)
    found = audit(read_dataset(dataset_path(task)), task)
    assert found.faults == ()
    text = found.render()
    assert "transitions       50,000 (observation 11, action 3)" in text
    assert "episodes          206: 201 end terminal, 5 otherwise\n" in text
    assert (round(found.normalized.mean, 1), round(found.normalized.high, 1)) == (24.4, 75.1)
    assert "usable rows       50,000 with a next observation, 49,995 for critics" in text
    assert "none found" in text


def test_the_audit_finds_each_planted_fault_in_its_row(tmp_path):
    clean = episodes(lengths=(6, 4, 5, 7), ends="tott")
    assert faults(write_hdf5(tmp_path / "clean.hdf5", clean)) == {}

    def planted(change):
        arrays = {name: array.copy() for name, array in clean.items()}
        change(arrays)
        return faults(write_hdf5(tmp_path / "planted.hdf5", arrays))

    def unmark(arrays):
        arrays["timeouts"][9] = False

    def shift(arrays):
        arrays["timeouts"][9], arrays["timeouts"][8] = False, True

    def leak(arrays):
        arrays["next_observations"][9] = arrays["observations"][10]

    def both(arrays):
        arrays["timeouts"][5] = True

    jump = "jump to another observation without a marked end"
    leaked = "marked end whose next observation is the following row's observation"
    assert planted(unmark) == {jump: (1, (9,))}
    assert planted(shift) == {jump: (1, (9,)), leaked: (1, (8,))}
    assert planted(leak) == {leaked: (1, (9,))}
    assert planted(both) == {"row both terminal and timeout": (1, (5,))}


def test_the_audit_compares_with_the_tasks_time_limit_and_rule(tmp_path):
    task = custom_task("mine", tmp_path / "a.hdf5", "Hopper-v4", max_episode_steps=6)
    standing = np.zeros(11, np.float32)
    standing[0] = 1.2
    arrays = episodes(lengths=(5, 7, 6), ends="too", obs_dim=11, act_dim=3)
    for name in ("observations", "next_observations"):
        arrays[name] = standing + 0.03 * np.clip(arrays[name], -1, 1)
    arrays["next_observations"][15, 0] = 0.5  # fallen, not flagged
    arrays["observations"][16, 0] = 0.5
    found = faults(write_hdf5(tmp_path / "a.hdf5", arrays), task)
    assert found == {
        "episode longer than 6 steps, an end may be unmarked": (1, (11,)),
        "row not terminal though 'hopper' ends there": (1, (15,)),
        "row terminal though 'hopper' does not end there": (1, (4,)),
    }


def test_the_audit_counts_repeated_rows_and_an_unfinished_end(tmp_path):
    arrays = episodes(lengths=(6, 6, 5), ends="tt-")
    for name in arrays:
        arrays[name][6:12] = arrays[name][:6]
    found = audit(read_dataset(write_hdf5(tmp_path / "a.hdf5", arrays)))
    assert found.repeated_rows == 6
    assert found.unfinished
    assert found.faults == ()
