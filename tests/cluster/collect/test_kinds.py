"""D4RL's kinds from one run: which snapshots, and which rows. A stand-in trains."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from cluster.collect.kinds import KINDS, Kind, collect, expert_of, kind_named, medium_of, training_folder
from cluster.collect.training import train
from mpcwdwm.data import audit, custom_task, dataset_path, read_dataset
from mpcwdwm.data.hdf5 import Arrays, read_arrays
from mpcwdwm.errors import UserError
from tests.support.stand_in_trainer import ENV_ID, LEVELS, StandIn, maker, small_config


def made(kind: Kind, out: Path, transitions: int | None = None, trainer: StandIn | None = None) -> Arrays:
    collect(kind, small_config(), out, maker(trainer or StandIn()), transitions=transitions, workers=1)
    return read_arrays(out)


# The choice from a curve of returns


@pytest.mark.parametrize(
    ("returns", "medium", "expert"),
    [
        ([0, 10, 35, 50, 90, 80], 2, 4),
        ([0, 300, 31, 90], None, 1),  # the first is the best
        ([-300, -250, -200, -90, 0], 2, 4),  # a third of the way, not of the return
        ([0, 20, 100, 33], 1, 2),  # nearer, but after the expert
        ([0, 30, 90, 30], 1, 2),
        ([0, 27, 32, 90, 90], 2, 3),  # of two equal experts the earlier
    ],
)
def test_medium_is_a_third_of_the_way_and_before_the_expert(
    returns: list[float], medium: int | None, expert: int
) -> None:
    assert expert_of(returns) == expert
    if medium is None:
        with pytest.raises(UserError, match="the first snapshot is the best, none is medium: ask for more --snapshots"):
            medium_of(returns)
    else:
        assert medium_of(returns) == medium


def test_training_that_got_no_better_is_refused() -> None:
    with pytest.raises(UserError, match=r"no better than the untrained policy \(returns 10, then at most 9\)"):
        expert_of([10, 9, 8])


# The rows


@pytest.mark.parametrize(("kind", "level"), [("random", 0.0), ("medium", 0.35), ("expert", 0.9)])
def test_the_policy_of_the_kind_acts(tmp_path: Path, kind: Kind, level: float) -> None:
    arrays = made(kind, tmp_path / "mine.hdf5", 100)
    assert len(arrays.obs) == 100
    assert arrays.action.mean() == pytest.approx(level, abs=0.01)
    assert arrays.action.std() == pytest.approx(np.exp(-4), rel=0.3)  # its own noise


def test_medium_expert_is_half_and_half(tmp_path: Path) -> None:
    arrays = made("medium-expert", tmp_path / "mine.hdf5", 101)
    assert arrays.action[:50].mean() == pytest.approx(0.35, abs=0.01)
    assert arrays.action[50:].mean() == pytest.approx(0.9, abs=0.01)
    assert arrays.marked_ends[[49, 100]].all()


@pytest.mark.parametrize(("kind", "segments"), [("medium-replay", 2), ("full-replay", 5)])
def test_replay_kinds_hold_what_training_saw_in_order(tmp_path: Path, kind: Kind, segments: int) -> None:
    arrays = made(kind, tmp_path / "mine.hdf5")
    run = train(small_config(), training_folder(tmp_path / "mine.hdf5", small_config()), maker(StandIn()))
    np.testing.assert_array_equal(arrays.obs[:, 0], np.arange(60 * segments))
    np.testing.assert_array_equal(arrays.action, run.seen(5)[0].action[: 60 * segments])


def test_all_kinds_share_one_training(tmp_path: Path) -> None:
    trainer = StandIn()
    for kind in KINDS:
        rows = None if kind.endswith("replay") else 100
        made(kind, tmp_path / f"{kind}.hdf5", rows, trainer)
    assert trainer.segments == [1, 2, 3, 4, 5]
    task = custom_task("mine", tmp_path / "medium.hdf5", ENV_ID)
    assert audit(read_dataset(dataset_path(task)), task).faults == ()
    names = sorted(path.name for path in tmp_path.iterdir())
    folder = "tests.support.stand_in_trainer-Steady-v0-ppo-300-seed0.training"
    assert names == sorted([*(f"{kind}.hdf5" for kind in KINDS), folder])  # no pieces are left


def test_random_data_need_no_training(tmp_path: Path) -> None:
    trainer = StandIn()
    made("random", tmp_path / "mine.hdf5", 100, trainer)
    assert trainer.segments == []


def test_an_interrupted_collection_ends_in_the_same_file(tmp_path: Path) -> None:
    made("medium", tmp_path / "a" / "mine.hdf5", 100)
    with pytest.raises(KeyboardInterrupt):
        made("medium", tmp_path / "b" / "mine.hdf5", 100, StandIn(stop_in=3))
    made("medium", tmp_path / "b" / "mine.hdf5", 100)
    assert (tmp_path / "a" / "mine.hdf5").read_bytes() == (tmp_path / "b" / "mine.hdf5").read_bytes()


def test_the_file_says_where_it_comes_from(tmp_path: Path) -> None:
    made("medium-expert", tmp_path / "a.hdf5", 100)
    made("full-replay", tmp_path / "b.hdf5")
    with h5py.File(tmp_path / "a.hdf5") as file:
        facts = dict(file.attrs)
    assert facts["kind"] == "medium-expert"
    assert facts["env_id"] == ENV_ID
    assert (facts["medium_steps"], facts["expert_steps"]) == (120, 240)
    assert facts["medium_return"] / facts["expert_return"] == pytest.approx(LEVELS[2] / LEVELS[4], abs=0.02)
    assert facts["provenance"].startswith("episodes of the medium policy (120 steps of PPO, mean return 3.5) and the")
    with h5py.File(tmp_path / "b.hdf5") as file:
        assert file.attrs["provenance"] == "the transitions that PPO saw in its first 300 steps"


# Refusals


def test_what_cannot_be_made_is_refused_before_training(tmp_path: Path) -> None:
    trainer, out = StandIn(), tmp_path / "mine.hdf5"
    with pytest.raises(UserError, match="full-replay holds what training saw: leave out --transitions"):
        made("full-replay", out, 100, trainer)
    with pytest.raises(UserError, match="transitions must be at least 20, not 9"):
        made("medium", out, 9, trainer)
    with pytest.raises(UserError, match="action space is Discrete, only Box"):
        collect("medium", small_config(env_id="CartPole-v1"), out, maker(trainer))
    out.write_bytes(b"")
    with pytest.raises(UserError, match="exists already"):
        made("medium", out, 100, trainer)
    assert trainer.segments == []
    assert [path.name for path in tmp_path.iterdir()] == ["mine.hdf5"]


def test_an_unknown_kind_is_answered_with_those_there_are() -> None:
    assert kind_named("full-replay") == "full-replay"
    with pytest.raises(UserError, match=r"kind 'mediun' is unknown.*mediu.*; there are random, medium,"):
        kind_named("mediun")
