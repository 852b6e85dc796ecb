"""D4RL's PointMaze: steps and rewards against d4rl's own code, episodes against what is written of them."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from mpcwdwm.envs.mazes import POINT_MAZES
from mpcwdwm.envs.pointmaze import PointMaze
from mpcwdwm.envs.registration import POINTMAZES
from mpcwdwm.errors import UserError
from tests.support import ROOT
from tests.support.d4rl_mazes_side import ABSENT

RECORDED = ROOT / "tests" / "oracles" / "pointmaze_steps.npz"  # by tests/support/d4rl_mazes_side.py, d4rl 1.1
SIDE = ROOT / "tests" / "support" / "d4rl_mazes_side.py"
ASKED = os.environ.get("MPCWDWM_D4RL_MAZES_PYTHON")
IDS = [f"mpcwdwm/PointMaze-{name}" for name in POINTMAZES]
Arrays = Mapping[str, NDArray[np.generic]]


def forces(seed: int, episodes: int = 2, steps: int = 160) -> dict[str, NDArray[np.float32]]:
    """Forces that are held for 20 steps, so that the ball reaches its speed limit and the walls."""
    random = np.random.default_rng(seed)
    shape = (episodes, steps // 20, 2)

    def drawn() -> NDArray[np.float32]:
        held = random.choice([-1.2, -0.6, 0.0, 0.6, 1.2], shape) + random.uniform(-0.2, 0.2, shape)
        return np.repeat(held, 20, axis=1).astype(np.float32)  # beyond the bounds, too: they are clipped

    return {f"{maze}_actions": drawn() for maze in POINT_MAZES}


def check_against(theirs: Arrays, maze: str) -> None:
    """Compare whole episodes, each from d4rl's start, without setting the state again."""
    of = {name.removeprefix(f"{maze}_"): theirs[name] for name in theirs if name.startswith(f"{maze}_")}
    sparse, dense = PointMaze(maze), PointMaze(maze, dense=True)
    assert str(of["map"]).replace("O", ".").split("\\") == list(sparse.maze.rows)
    np.testing.assert_array_equal(of["goal"], sparse.goal)
    touched = 0
    for states, actions, rewards, dense_rewards in zip(
        of["states"], of["actions"], of["rewards"], of["dense_rewards"], strict=True
    ):
        for env in (sparse, dense):
            env.reset(seed=0)
            env.set_state(states[0, :2], states[0, 2:])
        for step, action in enumerate(actions):
            obs, reward, terminated, truncated, _ = sparse.step(action)
            np.testing.assert_allclose(obs, states[step + 1], rtol=0, atol=1e-10, err_msg=f"step {step}")
            assert (reward, terminated, truncated) == (rewards[step], False, False)
            np.testing.assert_allclose(dense.step(action)[1], dense_rewards[step], rtol=0, atol=1e-10)
            touched += sparse.data.ncon
    assert touched > 10
    assert np.abs(of["states"][..., 2:]).max() > 5  # the speed limit was reached


# ── Dynamics ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("maze", POINT_MAZES)
def test_steps_and_rewards_are_those_recorded_from_d4rl(maze: str) -> None:
    with np.load(RECORDED) as recorded:
        check_against(recorded, maze)
        assert maze != "open" or 0 < recorded["open_rewards"].mean() < 1


def test_steps_and_rewards_are_those_of_d4rl_itself(tmp_path: Path) -> None:
    """New forces and starts; in an environment of its own, see docs/development.md."""
    python = ASKED or sys.executable
    if (found := subprocess.run([python, SIDE], capture_output=True, text=True)).returncode:
        if found.returncode == ABSENT and not ASKED:
            pytest.skip("d4rl is not installed (see docs/development.md)")
        pytest.fail(f"MPCWDWM_D4RL_MAZES_PYTHON={ASKED}: {found.stderr}")
    np.savez(tmp_path / "given.npz", **forces(seed=1))
    ended = subprocess.run([python, SIDE, tmp_path / "given.npz", tmp_path / "found.npz"], capture_output=True)
    assert ended.returncode == 0, ended.stderr
    with np.load(tmp_path / "found.npz") as theirs:
        for maze in POINT_MAZES:
            check_against(theirs, maze)


# ── Episodes ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_makes_and_accepts_each_of_them(env_id: str) -> None:
    env = gymnasium.make(env_id)
    assert (env.observation_space.shape, env.action_space.shape) == ((4,), (2,))
    with pytest.warns(UserWarning, match="infinity"):  # positions and velocities have no bounds
        check_env(env.unwrapped, skip_render_check=True)


def test_starts_are_in_all_free_cells_with_d4rls_noise_and_the_goal_stays() -> None:
    env = PointMaze("umaze")
    starts = np.empty((3000, 4))
    for i in range(len(starts)):
        starts[i], info = env.reset(seed=0 if i == 0 else None)
        np.testing.assert_array_equal(info["goal"], (1, 1))
    cells, counts = np.unique(np.rint(starts[:, :2]).astype(int), axis=0, return_counts=True)
    assert {tuple(cell) for cell in cells.tolist()} == set(env.maze.free)
    np.testing.assert_allclose(counts / len(starts), 1 / 7, atol=0.03)
    noise = starts[:, :2] - np.rint(starts[:, :2])
    assert 0.099 < np.abs(noise).max() <= 0.1
    np.testing.assert_allclose(noise.std(0), 0.1 / 3**0.5, rtol=0.05)  # uniform
    np.testing.assert_allclose(starts[:, 2:].std(0), 0.1, rtol=0.05)  # normal


def test_options_replace_goal_and_start_for_one_episode() -> None:
    env = PointMaze("medium")
    obs, info = env.reset(seed=5, options={"goal": (1.0, 2.0), "start": (4, 6)})
    np.testing.assert_array_equal(info["goal"], (1, 2))
    assert np.abs(obs[:2] - (4, 6)).max() <= 0.1
    np.testing.assert_array_equal(env.reset(seed=5)[1]["goal"], (6, 6))
    with pytest.raises(UserError, match="no free cell"):
        env.reset(options={"start": (0, 0)})


def test_the_episode_goes_on_at_the_goal_until_the_limit_of_steps() -> None:
    env = gymnasium.make("mpcwdwm/PointMaze-umaze-v1")
    env.reset(seed=0, options={"start": (1, 1)})
    answers = [env.step(np.zeros(2, np.float32))[1:4] for _ in range(300)]
    assert {answer[:2] for answer in answers} == {(1.0, False)}
    assert [answer[2] for answer in answers] == [False] * 299 + [True]


def test_an_unknown_maze_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"unknown maze 'larg' \(did you mean 'large'\?\); known: open"):
        PointMaze("larg")
