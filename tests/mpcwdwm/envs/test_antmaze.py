"""D4RL's AntMaze: its dynamics against ogbench's ant, its episodes against what is written of D4RL's."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from mpcwdwm.envs.antmaze import AntMaze
from mpcwdwm.envs.factory import make_env
from mpcwdwm.envs.registration import ANTMAZES
from mpcwdwm.errors import UserError
from tests.support import ROOT
from tests.support.ogbench_side import ABSENT

RECORDED = ROOT / "tests" / "oracles" / "antmaze_steps.npz"  # by tests/support/ogbench_side.py, ogbench 1.2.2
ROWS = ROOT / "tests" / "oracles" / "antmaze_rows.npz"  # of two datasets that another program recorded
SIDE = ROOT / "tests" / "support" / "ogbench_side.py"
ASKED = os.environ.get("MPCWDWM_OGBENCH_PYTHON")
IDS = [f"mpcwdwm/AntMaze-{name}-v2" for name in ANTMAZES]
Arrays = Mapping[str, NDArray[np.generic]]


def ant_maze(maze: str = "medium") -> AntMaze:
    env = AntMaze(maze)
    env.reset(seed=0)
    return env


def put(env: AntMaze, state: NDArray[np.float64]) -> None:
    env.set_state(state[:15], state[15:])


# ── Ids ───────────────────────────────────────────────────────────────────────


def test_importing_the_package_registers_the_ids_and_starts_no_simulator() -> None:
    code = "import sys, mpcwdwm, gymnasium; print(*gymnasium.registry, 'mujoco' in sys.modules, 'torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ended.stdout.split()[-2:] == ["False", "False"], ended
    assert set(IDS) < set(ended.stdout.split())


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_makes_and_accepts_each_of_them(env_id: str) -> None:
    env = gymnasium.make(env_id)
    assert env.spec is not None
    assert env.spec.max_episode_steps == (700 if "umaze" in env_id else 1000)
    assert (env.observation_space.shape, env.action_space.shape) == ((29,), (8,))
    np.testing.assert_array_equal(env.action_space.high, 1)
    np.testing.assert_array_equal(env.action_space.low, -1)
    with pytest.warns(UserWarning, match="infinity"):  # positions and velocities have no bounds
        check_env(env.unwrapped, skip_render_check=True)


def test_our_factory_makes_them_as_they_are() -> None:
    env = make_env(IDS[0])
    obs, info = env.reset(seed=3)
    assert (obs.shape, info["goal"].shape) == ((29,), (2,))


@pytest.mark.filterwarnings("ignore:.*GLFW")
def test_a_picture_is_rendered_where_the_machine_can_draw() -> None:
    env = AntMaze("umaze", render_mode="rgb_array", width=64, height=48)
    env.reset(seed=0)
    try:
        picture = env.render()
    except Exception as error:  # without a display or its libraries MuJoCo's backends raise anything
        pytest.skip(f"MuJoCo cannot draw here: {type(error).__name__}")
    assert picture.shape == (48, 64, 3)
    assert picture.std() > 10


# ── Dynamics ──────────────────────────────────────────────────────────────────


def check_against(theirs: Arrays) -> None:
    """Compare with states that ogbench recorded: each step from its own start, then whole episodes."""
    env = ant_maze("medium")
    np.testing.assert_array_equal([[mark == "#" for mark in row] for row in env.maze.rows], theirs["walls"])
    assert theirs["touches_wall"].sum() > 20
    for resynchronised, tolerance in ((True, 1e-13), (False, 1e-9)):
        for states, actions in zip(theirs["states"], theirs["actions"], strict=True):
            mujoco.mj_resetData(env.model, env.data)
            put(env, states[0])
            for step, action in enumerate(actions):
                if resynchronised:
                    put(env, states[step])
                obs = env.step(action)[0]
                np.testing.assert_allclose(obs, states[step + 1], rtol=0, atol=tolerance, err_msg=f"step {step}")


def test_steps_are_those_recorded_from_ogbench() -> None:
    with np.load(RECORDED) as recorded:
        check_against(recorded)


def test_steps_are_those_of_ogbench_itself(tmp_path: Path) -> None:
    """New starts and actions; in an environment of its own, see docs/development.md."""
    python = ASKED or sys.executable
    if (found := subprocess.run([python, SIDE], capture_output=True, text=True)).returncode:
        if found.returncode == ABSENT and not ASKED:
            pytest.skip("ogbench is not installed (see docs/development.md)")
        pytest.fail(f"MPCWDWM_OGBENCH_PYTHON={ASKED}: {found.stderr}")
    random = np.random.default_rng(2)
    with np.load(RECORDED) as recorded:
        starts = recorded["starts"] + random.uniform(-0.05, 0.05, recorded["starts"].shape)
    actions = np.repeat(random.choice([-1.0, -0.5, 0.5, 1.0], (len(starts), 75, 8)), 4, axis=1).astype(np.float32)
    np.savez(tmp_path / "given.npz", starts=starts, actions=actions)
    ended = subprocess.run([python, SIDE, tmp_path / "given.npz", tmp_path / "found.npz"], capture_output=True)
    assert ended.returncode == 0, ended.stderr
    with np.load(tmp_path / "found.npz") as theirs:
        check_against(theirs)


@pytest.mark.parametrize("maze", ["umaze", "medium"])
def test_rows_of_a_dataset_are_replayed(maze: str) -> None:
    """Rewards and ends are equal; next observations, too, up to float32, except where rounding flips a contact."""
    env = ant_maze(maze)
    with np.load(ROWS) as file:
        rows = {name.removeprefix(f"{maze}_"): file[name] for name in file.files if name.startswith(maze)}
    env.goal = rows["goal"].astype(np.float64)
    errors = np.empty(len(rows["actions"]))
    for i, (obs, action) in enumerate(zip(rows["observations"], rows["actions"], strict=True)):
        put(env, obs.astype(np.float64))
        found, reward, terminated, *_ = env.step(action)
        errors[i] = np.abs(found - rows["next_observations"][i]).max()
        assert (reward, terminated) == (rows["rewards"][i], rows["terminals"][i])
    assert rows["terminals"].sum() == 20
    assert np.quantile(errors, 0.98) < 1e-5


# ── Episodes ──────────────────────────────────────────────────────────────────


def test_starts_have_d4rls_noise_and_goals_are_drawn_anew() -> None:
    env = ant_maze("umaze")
    starts, goals = np.empty((2000, 29)), np.empty((2000, 2))
    for i in range(len(starts)):
        starts[i], info = env.reset()
        goals[i] = info["goal"]
        np.testing.assert_array_equal(env.goal, goals[i])
        np.testing.assert_array_equal(env.data.site("goal").xpos[:2], goals[i])  # where it is drawn in pictures
    rest = np.zeros(15)
    rest[2], rest[3] = 0.75, 1.0
    noise = starts[:, :15] - rest
    assert np.abs(noise).max() <= 0.1
    np.testing.assert_allclose(noise.std(0), 0.1 / 3**0.5, rtol=0.05)  # uniform
    np.testing.assert_allclose(starts[:, 15:].std(0), 0.1, rtol=0.08)  # normal
    assert len(np.unique(goals, axis=0)) == len(goals)
    assert goals.min(0) == pytest.approx((0, 8), abs=0.1)
    assert goals.max(0) == pytest.approx((1.5, 9.5), abs=0.1)


def test_a_seed_fixes_goal_and_start_and_options_replace_them() -> None:
    env = ant_maze("medium")
    first, again = env.reset(seed=5), env.reset(seed=5)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1]["goal"], again[1]["goal"])
    obs, info = env.reset(seed=5, options={"goal": (1.0, 2.0), "start": (6, 6)})
    np.testing.assert_array_equal(info["goal"], (1, 2))
    assert np.abs(obs[:2] - 20).max() <= 0.1
    assert env.maze.cell_at(obs[:2]) == (6, 6)
    assert np.abs(env.reset(seed=5)[0][:2]).max() <= 0.1  # options hold for one episode


@pytest.mark.parametrize(
    ("options", "says"),
    [({"start": (0, 0)}, "no free cell"), ({"goal": (1, 2, 3)}, "no point"), ({"goal": (np.nan, 0)}, "no point")],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        ant_maze().reset(options=options)


def test_an_unknown_maze_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"unknown maze 'medum' \(did you mean 'medium'\?\); known: umaze"):
        AntMaze("medum")


def test_the_reward_is_one_within_half_a_metre_and_ends_the_episode() -> None:
    env = ant_maze("umaze")
    state = np.zeros(29)
    state[2], state[3] = 0.75, 1.0
    env.reset(seed=0, options={"goal": (0.0, 8.0)})
    for x, reached in ((0.0, True), (0.45, True), (0.55, False)):
        state[:2] = x, 8.0
        put(env, state)
        obs, reward, terminated, truncated, info = env.step(np.zeros(8))
        assert abs(obs[0] - x) < 0.02
        assert (reward, terminated, truncated, info["success"]) == (float(reached), reached, False, reached)


def test_a_fall_does_not_end_the_episode_but_the_limit_of_steps_does() -> None:
    env = gymnasium.make("mpcwdwm/AntMaze-umaze-v2")
    env.reset(seed=0)
    state = np.zeros(29)
    state[2], state[4] = 0.75, 1.0  # upside down
    ant = env.unwrapped
    assert isinstance(ant, AntMaze)
    put(ant, state)
    for step in range(700):
        _, reward, terminated, truncated, _ = env.step(np.zeros(8, np.float32))
        assert (reward, terminated, truncated) == (0, False, step == 699)


def test_walls_hold_the_ant() -> None:
    env = ant_maze("umaze")
    state = np.zeros(29)
    state[2], state[3], state[15], state[16] = 0.75, 1.0, -8.0, 8.0  # thrown into a corner
    put(env, state)
    places = np.stack([env.step(np.zeros(8))[0][:2] for _ in range(50)])
    assert places.min() > -2
    assert places.max() < 2
    assert np.abs(places).max() > 1  # it came near
