"""Training runs in segments, with a stand-in for RLlib: resumed runs equal undisturbed ones."""

from pathlib import Path

import numpy as np
import pytest

from cluster.collect.training import train, training_config
from mpcwdwm.errors import UserError
from tests.support.stand_in_trainer import ENV_ID, LEVELS, LIMIT, StandIn, maker, small_config

FILES = ["seen-00005.safetensors", "state-00005.safetensors", "training.json"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_keeps_a_policy_and_the_transitions_of_every_segment(tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    run = train(small_config(), tmp_path / "run", maker(StandIn()), lambda *told: heard.append(told))
    assert [run.snapshot(number).steps for number in range(6)] == [0, 60, 120, 180, 240, 300]
    np.testing.assert_allclose(run.returns(), [LIMIT * level for level in LEVELS], atol=0.1)
    seen, _ = run.seen(3)
    np.testing.assert_array_equal(seen.obs[:, 0], np.arange(180))
    assert heard[0] == ("training", 0, 300)
    assert heard[-1] == ("training", 300, 300)
    assert sorted(contents(tmp_path / "run"))[-7:] == [f"seen-0000{n}.safetensors" for n in range(1, 6)] + FILES[1:]


@pytest.mark.parametrize("stop_in", [1, 3, 5])
def test_a_resumed_run_equals_an_undisturbed_one(tmp_path: Path, stop_in: int) -> None:
    train(small_config(), tmp_path / "a", maker(StandIn()))
    with pytest.raises(KeyboardInterrupt):
        train(small_config(), tmp_path / "b", maker(StandIn(stop_in=stop_in)))
    again = StandIn()
    train(small_config(), tmp_path / "b", maker(again))
    assert again.segments == list(range(stop_in, 6))  # none twice
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_kill_between_the_files_of_a_segment_repeats_the_segment(tmp_path: Path) -> None:
    train(small_config(), tmp_path / "a", maker(StandIn()))
    with pytest.raises(KeyboardInterrupt):
        train(small_config(), tmp_path / "b", maker(StandIn(stop_in=4)))
    (tmp_path / "b" / "seen-00004.safetensors").write_bytes(b"half")
    (tmp_path / "b" / "state-00003.safetensors").rename(tmp_path / "b" / "kept")
    (tmp_path / "b" / "kept").rename(tmp_path / "b" / "state-00003.safetensors")
    train(small_config(), tmp_path / "b", maker(StandIn()))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_finished_run_needs_no_trainer(tmp_path: Path) -> None:
    train(small_config(), tmp_path / "run", maker(StandIn()))
    again = StandIn()
    assert train(small_config(), tmp_path / "run", maker(again)).returns()
    assert again.segments == []


def test_the_untrained_policy_alone_costs_no_training_and_is_used_later(tmp_path: Path) -> None:
    first = StandIn()
    run = train(small_config(), tmp_path / "b", maker(first), segments=0)
    assert first.segments == []
    assert run.snapshot(0).mean_return == pytest.approx(0, abs=0.1)
    train(small_config(), tmp_path / "a", maker(StandIn()))
    train(small_config(), tmp_path / "b", maker(StandIn()))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_seeds_differ_between_segments_and_runs(tmp_path: Path) -> None:
    seen = [train(small_config(seed=seed), tmp_path / str(seed), maker(StandIn())).seen(5)[0] for seed in (0, 1)]
    actions = np.concatenate([arrays.action for arrays in seen])
    assert len(np.unique(actions)) == len(actions)


def test_the_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    train(small_config(), tmp_path / "run", maker(StandIn()))
    with pytest.raises(UserError, match="holds a training run with steps 300, not 400: name another folder with --tr"):
        train(small_config(steps=400), tmp_path / "run", maker(StandIn()))


def test_what_has_gone_from_a_finished_run_is_named(tmp_path: Path) -> None:
    run = train(small_config(), tmp_path / "run", maker(StandIn()))
    (run.folder / "policy-00002.safetensors").unlink()
    (run.folder / "seen-00002.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"policy-00002.safetensors' is damaged or has gone: delete"):
        run.returns()
    with pytest.raises(UserError, match=r"seen-00002.safetensors' is damaged or has gone: delete"):
        run.seen(3)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"algorithm": "dqn"}, "algorithm of the training is 'dqn': Input should be 'ppo' or 'sac'"),
        ({"snapshots": 1}, "snapshots of the training is 1: Input should be greater than or equal to 2"),
        ({"steps": 0}, "steps of the training is 0: "),
        ({"seed": -1}, "seed of the training is -1: "),
    ],
)
def test_impossible_values_are_refused_in_one_line(fields: dict[str, str | int], says: str) -> None:
    with pytest.raises(UserError, match=says):
        training_config(ENV_ID, **fields)
