"""Datasets of mazes from one call: the same file for the same arguments, in pieces, with its provenance."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from cluster.collect import collect_maze, is_maze, mazes, pieces
from mpcwdwm.collecting.walker import WalkerConfig
from mpcwdwm.data import audit, read_dataset, sha256_of
from mpcwdwm.data.verify import recorded_env, verify
from mpcwdwm.envs.registration import MAZE_IDS
from mpcwdwm.errors import UserError

POINT, ANT = "mpcwdwm/PointMaze-umaze-v1", "mpcwdwm/AntMaze-medium-play-v2"


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces, and a walker that is trained in no time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(pieces, "PIECE_ROWS", 300)
    fields = {"ants": 2, "horizon": 4, "updates": 2, "epochs": 1, "batches": 1, "hidden": 4}
    monkeypatch.setattr(mazes, "WalkerConfig", lambda: WalkerConfig(**fields))


def test_the_same_arguments_give_the_same_file_and_another_seed_another(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.hdf5" for name in "abc"]
    for file, seed in zip(files, (0, 0, 1), strict=True):
        collect_maze(POINT, file, transitions=1000, seed=seed, workers=1)
    one, same, other = map(sha256_of, files)
    assert one == same != other
    assert not list(tmp_path.glob("*.parts"))


def test_an_interrupted_collection_of_an_antmaze_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if what == "rolling" and done:
            raise KeyboardInterrupt

    heard: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        collect_maze(ANT, tmp_path / "a.hdf5", transitions=400, seed=3, workers=1, on_progress=interrupt)
    assert not (tmp_path / "a.hdf5").exists()
    collect_maze(
        ANT,
        tmp_path / "a.hdf5",
        transitions=400,
        seed=3,
        workers=1,
        on_progress=lambda what, *counts: heard.append(what),
    )
    collect_maze(ANT, tmp_path / "b.hdf5", transitions=400, seed=3, workers=1)
    assert sha256_of(tmp_path / "a.hdf5") == sha256_of(tmp_path / "b.hdf5")
    assert heard == ["training the walker", "rolling", "rolling"]  # nothing was done again


def test_the_attributes_say_where_the_rows_come_from_and_the_rows_agree(tmp_path: Path) -> None:
    collect_maze(POINT, tmp_path / "a.hdf5", transitions=1000, seed=7, noise_sd=0.5, workers=1)
    with h5py.File(tmp_path / "a.hdf5") as file:
        said = dict(file.attrs)
    assert (said["env_id"], said["seed"], said["noise_sd"], said["transitions"]) == (POINT, 7, 0.5, 1000)
    assert "waypoint controller" in said["provenance"]
    assert {"mujoco_version", "mpcwdwm_version"} < said.keys()
    assert recorded_env(tmp_path / "a.hdf5") == POINT
    assert verify(tmp_path / "a.hdf5", POINT, rows=200).named is None
    data = read_dataset(tmp_path / "a.hdf5")
    assert len(data.obs) == 1000
    assert not audit(data).faults


def test_all_rows_of_an_antmaze_are_rewarded_for_one_goal(tmp_path: Path) -> None:
    collect_maze(ANT, tmp_path / "a.hdf5", transitions=400, seed=3, goal_share=1.0, workers=1)
    with h5py.File(tmp_path / "a.hdf5") as file:
        goal = np.array([file.attrs["goal_x"], file.attrs["goal_y"]])
        np.testing.assert_array_equal(file["infos/goal"][()], np.tile(goal, (400, 1)))
        assert file.attrs["walker_hidden"] == 4
        assert file.attrs["goal_share"] == 1
        np.testing.assert_array_equal(file["infos/target"][()], file["infos/goal"][()])


def test_every_registered_maze_is_one_and_no_robot_is() -> None:
    assert all(map(is_maze, MAZE_IDS))
    assert not any(map(is_maze, ("Hopper-v4", "PointMaze_UMaze-v3", "AntMaze_UMaze-v4")))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"transitions": 5}, "transitions must be at least 10"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"noise_sd": -0.1}, "noise-sd must be 0 or more"),
        ({"noise_sd": float("nan")}, "noise-sd must be 0 or more"),
        ({"goal_share": 0.5}, "goal-share is for AntMaze"),
        ({"goal_share": 1.5, "env_id": ANT}, "goal-share must lie between 0 and 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"env_id": "mpcwdwm/PointMaze-umase-v1"}, "did you mean 'mpcwdwm/PointMaze-umaze-v1'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(change: dict[str, object], says: str, tmp_path: Path) -> None:
    arguments = {"env_id": POINT, "out": tmp_path / "a.hdf5", "transitions": 100, "seed": 0, **change}
    with pytest.raises(UserError, match=says) as caught:
        collect_maze(**arguments)
    assert "\n" not in str(caught.value)


def test_a_file_that_exists_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").touch()
    with pytest.raises(UserError, match="exists already"):
        collect_maze(ANT, tmp_path / "a.hdf5", transitions=100, seed=0)
    assert not (tmp_path / "cache").exists()
