"""Recorded episodes: D4RL's layout, rewards of the environment, ends where D4RL's kinds have them."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mpcwdwm.collecting.navigation import PICKED, AntBehaviour, AntEpisodes, PointBehaviour, PointJourney, file_goal
from mpcwdwm.collecting.walker import Training, Walker, WalkerConfig
from mpcwdwm.data import audit, read_dataset
from mpcwdwm.data.verify import verify
from mpcwdwm.data.writing import write_arrays
from mpcwdwm.envs.antmaze import AntMaze
from mpcwdwm.envs.mazes import MAZES, POINT_MAZES
from mpcwdwm.envs.registration import ANTMAZES

Rolled = tuple  # of Arrays and infos


def standing() -> Walker:
    """A walker without training, which goes nowhere."""
    return Walker(Training(WalkerConfig(ants=1, hidden=4)).policy)


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every ant be carried 0.2 m towards its heading in each step, so that episodes need no trained walker."""
    heading, step = {}, AntMaze.step
    act = Walker.act

    def noted(self, state, direction):
        heading["now"] = direction
        return act(self, state, direction)

    def carry(self, action):
        moved = self.data.qpos.copy()
        moved[:2] += 0.2 * np.array([np.cos(heading["now"]), np.sin(heading["now"])])
        self.set_state(moved, self.data.qvel)
        return step(self, action)

    monkeypatch.setattr(Walker, "act", noted)
    monkeypatch.setattr(AntMaze, "step", carry)


# ── PointMaze ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["umaze-v1", "large-dense-v1"])
def test_a_pointmaze_file_is_read_verified_and_audited_without_a_fault(name: str, tmp_path: Path) -> None:
    arrays, infos = PointJourney(name, PointBehaviour())(3000, 1)
    write_arrays(tmp_path / "point.hdf5", arrays, infos=infos)
    found = verify(tmp_path / "point.hdf5", f"mpcwdwm/PointMaze-{name}", rows=500)
    assert found.named is None
    assert found.obs_error.max() < 1e-6
    assert found.reward_error is not None
    assert found.reward_error.max() < 1e-6
    seen = audit(read_dataset(tmp_path / "point.hdf5"))
    assert not seen.faults
    assert not seen.unfinished
    with h5py.File(tmp_path / "point.hdf5") as file:
        assert sorted(file) == ["actions", "infos", "observations", "rewards", "terminals", "timeouts"]
        assert sorted(file["infos"]) == ["goal", "qpos", "qvel"]


def test_a_pointmaze_episode_ends_at_its_target_and_the_ball_goes_on_from_there() -> None:
    arrays, infos = PointJourney("medium-v1", PointBehaviour())(5000, 0)
    assert arrays.timeout is not None
    ends = np.flatnonzero(arrays.timeout)
    assert len(arrays.obs) - 1 == ends[-1]  # whole episodes
    assert not arrays.terminal.any()
    target = infos["goal"]
    assert (np.diff(target, axis=0).any(1) == arrays.timeout[:-1]).all()
    assert np.linalg.norm(arrays.obs[ends, :2] - np.rint(target[ends]), axis=1).max() < 0.1
    assert np.abs(np.diff(arrays.obs[:, :2], axis=0)).max() < 0.06  # no jump: the speed limit times 0.01 s
    assert len(np.unique(np.rint(target), axis=0)) > 15
    goal = POINT_MAZES["medium"].centre(POINT_MAZES["medium"].goal)
    at_goal = np.linalg.norm(arrays.obs[1:, :2] - goal, axis=1) <= 0.5
    assert 0 < at_goal.mean() < 0.5
    np.testing.assert_array_equal(arrays.reward[:-1], at_goal)  # whatever the target


def test_noise_disturbs_actions_only_where_it_is_asked_for() -> None:
    calm, noisy = (PointJourney("open-v0", PointBehaviour(noise_sd=sd))(500, 0)[0].action for sd in (0.0, 0.5))
    assert np.abs(np.diff(calm, axis=0)).mean() < 0.2 < np.abs(np.diff(noisy, axis=0)).mean()
    assert np.abs(noisy).max() <= 1


def test_a_seed_fixes_the_rows() -> None:
    journey = PointJourney("umaze-v1", PointBehaviour())
    one, same, other = (journey(300, seed)[0].obs for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one[0] != other[0]).any()


# ── AntMaze ───────────────────────────────────────────────────────────────────


def rolled(name: str, rows: int, seed: int = 0, **behaviour: float) -> Rolled:
    return AntEpisodes(name, AntBehaviour(**behaviour), standing(), file_goal(name, 5))(rows, seed)


@pytest.mark.usefixtures("carried")
@pytest.mark.parametrize("name", ANTMAZES)
def test_an_ants_episodes_start_head_and_end_where_the_kind_says(name: str) -> None:
    torch.set_num_threads(1)
    arrays, infos = rolled(name, 400)
    maze, goal = MAZES[ANTMAZES[name][0]], file_goal(name, 5)
    assert arrays.next_obs is not None
    assert arrays.timeout is not None
    ends = np.flatnonzero(arrays.terminal | arrays.timeout)
    begins = np.append(0, ends[:-1] + 1)
    assert ends[-1] == len(arrays.obs) - 1
    np.testing.assert_array_equal(infos["goal"], np.tile(goal, (len(arrays.obs), 1)))
    at_goal = np.linalg.norm(arrays.next_obs[:, :2] - goal, axis=1) <= 0.5
    np.testing.assert_array_equal(arrays.reward, at_goal)
    np.testing.assert_array_equal(arrays.terminal, at_goal)  # the goal of the file ends every episode
    arrived = np.linalg.norm(arrays.next_obs[:, :2] - infos["target"], axis=1) <= 0.5
    np.testing.assert_array_equal(arrays.timeout, arrived & ~at_goal)
    starts = {maze.cell_at(place - 0.5) for place in arrays.obs[begins, :2]}
    targets = {maze.cell_at(place - 0.75) for place in infos["target"]}
    if name == "umaze":
        assert (starts, targets) == ({maze.start}, {maze.goal})
    elif "play" in name:
        picked = PICKED[name.removesuffix("-play")]
        assert starts <= set(maze.free) - set(picked)
        assert targets <= {maze.goal, *picked}
    assert name == "umaze" or len(starts) > 1
    assert name == "umaze" or len(np.unique(infos["target"], axis=0)) > 1
    inside = np.setdiff1d(np.arange(len(arrays.obs)), ends)
    np.testing.assert_array_equal(arrays.next_obs[inside], arrays.obs[inside + 1])


def test_the_picked_targets_are_free_cells() -> None:
    for name, cells in PICKED.items():
        assert set(cells) <= set(MAZES[name].free)


@pytest.mark.usefixtures("carried")
@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0)])
def test_the_share_of_episodes_that_head_for_the_goal_is_chosen(share: float, least: float, most: float) -> None:
    arrays, infos = rolled("medium-play", 800, goal_share=share)
    ends = np.flatnonzero(arrays.terminal | arrays.timeout)
    heading = (infos["target"][ends] == infos["goal"][ends]).all(1).mean()
    assert least <= heading <= most


def test_an_antmaze_file_is_read_verified_and_audited_without_a_fault(tmp_path: Path) -> None:
    """With an ant that stands and shivers, episodes last until the limit of steps."""
    arrays, infos = rolled("umaze", 701)
    write_arrays(tmp_path / "ant.hdf5", arrays, infos=infos)
    found = verify(tmp_path / "ant.hdf5", "mpcwdwm/AntMaze-umaze-v2", rows=300)
    assert found.named is None
    assert np.quantile(found.obs_error, 0.98) < 1e-5
    seen = audit(read_dataset(tmp_path / "ant.hdf5"))
    assert not seen.faults
    np.testing.assert_array_equal(seen.dataset.lengths, (700, 700))
    np.testing.assert_array_equal(np.concatenate([infos["qpos"], infos["qvel"]], axis=1), arrays.obs)
    assert infos["qpos"].dtype == infos["qvel"].dtype == np.float32
    assert 0.1 < np.abs(arrays.action).mean() < 0.3  # noise of 0.2 on actions near 0
