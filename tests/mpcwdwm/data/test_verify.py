"""`data verify`: rows of the environment pass; altered rows, and rows of another robot, are named."""

import numpy as np
import pytest

from mpcwdwm.collecting.navigation import PointBehaviour, PointJourney
from mpcwdwm.data.verify import recorded_env, verify
from mpcwdwm.data.writing import write_arrays
from mpcwdwm.errors import UserError
from tests.support.recorded_rows import recorded
from tests.support.synthetic import write_hdf5

STATES = ("infos/qpos", "infos/qvel")


@pytest.fixture(scope="module")
def hopper():
    return recorded("Hopper-v4")


@pytest.fixture(scope="module")
def cheetah():
    return recorded("HalfCheetah-v4", rows=150)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def without(arrays, *names):
    return {name: array for name, array in arrays.items() if name not in names}


def test_rows_of_the_environment_pass_with_errors_of_rounding(tmp_path, hopper):
    found = verify(write_hdf5(tmp_path / "a.hdf5", hopper), "Hopper-v4")
    assert found.named is None
    assert found.replayed == 300
    assert np.quantile(found.obs_error, 0.99) < 1e-5
    assert found.reward_error.max() < 1e-5
    assert not found.terminals
    assert "infos/qpos" in found.render()


def test_without_infos_the_state_is_read_from_the_observation(tmp_path, hopper):
    found = verify(write_hdf5(tmp_path / "a.hdf5", without(hopper, *STATES)), "Hopper-v4")
    assert (found.named, found.state_from) == (None, "the observations, the root placed at 0")
    assert np.quantile(found.obs_error, 0.99) < 1e-5


def test_rows_with_clipped_velocities_are_left_out_and_counted(tmp_path, hopper):
    arrays = without(hopper, *STATES, "next_observations")
    arrays["observations"] = arrays["observations"].copy()
    arrays["observations"][50:60, -1] = 10.0
    found = verify(write_hdf5(tmp_path / "a.hdf5", arrays), "Hopper-v4")
    ends = (hopper["terminals"] | hopper["timeouts"])[50:60].sum()
    assert found.clipped == 10 - ends


@pytest.mark.parametrize("shift", [-1, 1, 2])
def test_shifted_actions_are_named(tmp_path, hopper, shift):
    arrays = {**hopper, "actions": np.roll(hopper["actions"], shift, axis=0)}
    found = verify(write_hdf5(tmp_path / "a.hdf5", arrays), "Hopper-v4")
    word = f"'actions' are {abs(shift)} row{'s' if abs(shift) > 1 else ''} {'late' if shift > 0 else 'early'}"
    assert word in found.named


def test_shifted_rewards_are_named(tmp_path, hopper):
    arrays = {**hopper, "rewards": np.roll(hopper["rewards"], 1)}
    found = verify(write_hdf5(tmp_path / "a.hdf5", arrays), "Hopper-v4")
    assert "'rewards' are 1 row late" in found.named


def test_shifted_states_are_named(tmp_path, hopper):
    arrays = {**hopper, **{name: np.roll(hopper[name], 1, axis=0) for name in STATES}}
    found = verify(write_hdf5(tmp_path / "a.hdf5", arrays), "Hopper-v4")
    assert "'infos/qpos' and 'infos/qvel' are 1 row late" in found.named


def test_shifted_observations_without_next_observations_are_named(tmp_path, hopper):
    arrays = without(hopper, *STATES, "next_observations")
    arrays["observations"] = np.roll(arrays["observations"], 1, axis=0)
    assert "shifted rows" in verify(write_hdf5(tmp_path / "a.hdf5", arrays), "Hopper-v4").named


@pytest.mark.parametrize(
    ("column", "shift", "says"),
    [
        ("next_observations", 1, "1 row late"),
        ("next_observations", -2, "2 rows early"),
        ("observations", 1, "1 row early"),
    ],
)
def test_next_observations_of_other_rows_are_named(tmp_path, hopper, column, shift, says):
    path = write_hdf5(tmp_path / "a.hdf5", {**hopper, column: np.roll(hopper[column], shift, axis=0)})
    with pytest.raises(UserError, match=f"'next_observations' are {says} against 'observations'"):
        verify(path, "Hopper-v4")


def test_another_robot_of_the_same_dimensions_is_named(tmp_path, cheetah):
    path = write_hdf5(tmp_path / "a.hdf5", without(cheetah, *STATES))
    assert verify(path, "Walker2d-v4").named == "another environment: the rows are those of 'HalfCheetah-v4'"


@pytest.mark.parametrize("env_id", ["mpcwdwm/PointMaze-medium-v1", "mpcwdwm/PointMaze-umaze-dense-v1"])
def test_of_several_mazes_that_fit_the_one_is_named_whose_walls_and_rewards_agree(tmp_path, env_id):
    """Away from walls a ball moves in all mazes alike."""
    arrays, infos = PointJourney("umaze-v1", PointBehaviour())(1000, 0)
    write_arrays(tmp_path / "a.hdf5", arrays, infos=infos)
    named = verify(tmp_path / "a.hdf5", env_id, rows=200).named
    assert named == "another environment: the rows are those of 'mpcwdwm/PointMaze-umaze-v1'"


def test_a_robot_of_other_dimensions_is_named_with_those_that_fit(tmp_path, hopper):
    path = write_hdf5(tmp_path / "a.hdf5", hopper)
    with pytest.raises(UserError, match=r"\(11, 3\).*those of Hopper-v4 have"):
        verify(path, "Walker2d-v4")


def test_terminals_that_disagree_are_listed(tmp_path, hopper):
    flags = hopper["terminals"].copy()
    row = int(np.flatnonzero(flags)[0])
    flags[row] = False
    arrays = {**hopper, "terminals": flags, "timeouts": hopper["timeouts"] | (hopper["terminals"] & ~flags)}
    found = verify(write_hdf5(tmp_path / "a.hdf5", arrays), "Hopper-v4")
    assert found.terminals == (row,)


def test_rows_of_noise_fit_nothing(tmp_path, hopper):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=hopper["observations"].shape).astype(np.float32)
    arrays = {**without(hopper, *STATES, "next_observations"), "observations": noise}
    assert "no shift of a column" in verify(write_hdf5(tmp_path / "a.hdf5", arrays), "Hopper-v4").named


def test_a_third_of_rows_from_elsewhere_is_no_shift(tmp_path, hopper):
    arrays = without(hopper, *STATES, "next_observations")
    arrays["observations"] = arrays["observations"].copy()
    arrays["observations"][100:200] += np.random.default_rng(0).normal(size=(100, 11)).astype(np.float32)
    assert "altered rows" in verify(write_hdf5(tmp_path / "a.hdf5", arrays), "Hopper-v4").named


def test_an_antmaze_without_goals_is_replayed_but_for_its_rewards(tmp_path):
    arrays = recorded("mpcwdwm/AntMaze-umaze-v2", rows=60)
    found = verify(write_hdf5(tmp_path / "a.hdf5", arrays), "mpcwdwm/AntMaze-umaze-v2")
    assert (found.named, found.reward_error) == (None, None)
    assert np.quantile(found.obs_error, 0.9) < 1e-5


@pytest.mark.parametrize(("env_id", "word"), [("CartPole-v1", "action space"), ("Pendulum-v1", "MuJoCo")])
def test_an_environment_that_cannot_be_put_into_a_state_is_one_line(tmp_path, hopper, env_id, word):
    with pytest.raises(UserError, match=word):
        verify(write_hdf5(tmp_path / "a.hdf5", hopper), env_id)


def test_the_environment_may_stand_in_the_files_attributes(tmp_path, hopper):
    assert recorded_env(write_hdf5(tmp_path / "a.hdf5", hopper)) is None
    (tmp_path / "b.hdf5").write_bytes(b"x")
    with pytest.raises(UserError, match="is not a complete HDF5 file"):
        recorded_env(tmp_path / "b.hdf5")
