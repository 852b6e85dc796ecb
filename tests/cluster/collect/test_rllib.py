"""PPO and SAC by RLlib itself: policies, states and what training saw; and the whole command."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cluster.collect import rllib
from cluster.collect.kinds import collect
from cluster.collect.rllib import RllibTrainer, _restore, _state, rllib_trainer
from cluster.collect.training import TrainingConfig, train
from mpcwdwm.data import audit, custom_task, dataset_path, read_dataset
from mpcwdwm.envs.factory import check_env
from mpcwdwm.errors import UserError
from tests.support import ROOT

HAS_RLLIB = all(importlib.util.find_spec(name) for name in ("tree", "lz4", "ormsgpack"))  # what ray[rllib] adds
needs_rllib = pytest.mark.skipif(not HAS_RLLIB, reason="RLlib is not installed: the extra rllib")
ALGORITHMS = ("ppo", "sac")


def config(algorithm: str) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {"env_id": "Pendulum-v1", "algorithm": algorithm, "steps": 200, "snapshots": 2, "seed": 0}
    )


@pytest.fixture(autouse=True)
def _early(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAC makes its first update soon, and says often how far it is: an update takes a tenth of a second."""
    monkeypatch.setattr(rllib, "SAC_FIRST_STEPS", 50)
    monkeypatch.setattr(rllib, "SAC_REPORT", 10)


@pytest.fixture(params=ALGORITHMS)
def trainer(request: pytest.FixtureRequest) -> Iterator[RllibTrainer]:
    with rllib_trainer(config(request.param)) as made:
        yield made


@pytest.mark.skipif(HAS_RLLIB, reason="RLlib is installed")
def test_without_rllib_one_line_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'pip install "mpcwdwm\[rllib\]"$'):
        collect("medium", config("ppo"), tmp_path / "mine.hdf5", rllib_trainer)
    assert not (tmp_path / "mine.hdf5").exists()


@pytest.mark.slow
@needs_rllib
def test_our_policy_is_that_of_rllib(trainer: RllibTrainer) -> None:
    state, _ = trainer.segment(trainer.begin(1), list, 100, 2, lambda steps: None)
    policy = trainer.policy(state)
    obs = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    scaled = np.clip((obs - policy.obs_mean) / policy.obs_std, -10, 10)
    with trainer._built(3, batch=64, first=True) as algorithm:
        _restore(algorithm, state)
        module = algorithm.get_module()  # what samples
        with torch.no_grad():
            logits = module.forward_exploration({"obs": torch.from_numpy(scaled).float()})["action_dist_inputs"]
        distribution = module.get_exploration_action_dist_cls().from_logits(logits)
    ours = [policy.distribution(each) for each in obs]
    normal = distribution._dist
    np.testing.assert_allclose([mean for mean, _ in ours], normal.mean, atol=1e-5)
    np.testing.assert_allclose([std for _, std in ours], normal.stddev, rtol=1e-5)
    squashed = type(distribution).__name__ == "TorchSquashedGaussian"
    assert squashed == (trainer.config.algorithm == "sac") == (policy.log_std is None)


@pytest.mark.slow
@needs_rllib
def test_a_state_put_into_a_new_algorithm_is_taken_out_again(trainer: RllibTrainer) -> None:
    before = trainer.begin(1)
    state, _ = trainer.segment(before, list, 100, 2, lambda steps: None)
    with trainer._built(3, batch=64, first=True) as algorithm:
        fresh = _state(algorithm)
        _restore(algorithm, state)
        again = _state(algorithm)
    kept = {name: values for name, values in state.items() if not name.startswith(("obs_", "reward_"))}
    assert again.keys() == kept.keys()
    for name, values in kept.items():
        torch.testing.assert_close(again[name], values, rtol=0, atol=0, check_dtype=False)
    moved = [name for name in before if "mlp.0.weight" in name and not torch.equal(before[name], state[name])]
    assert moved
    assert not torch.equal(fresh[moved[0]], again[moved[0]])
    assert any("exp_avg" in name for name in state)
    assert ("log_alpha" in state) == (trainer.config.algorithm == "sac")


@pytest.mark.slow
@needs_rllib
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_resumed_run_equals_an_undisturbed_one(tmp_path: Path, algorithm: str) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if done > 100:
            raise KeyboardInterrupt

    run = train(config(algorithm), tmp_path / "a", rllib_trainer)
    with pytest.raises(KeyboardInterrupt):
        train(config(algorithm), tmp_path / "b", rllib_trainer, interrupt)
    train(config(algorithm), tmp_path / "b", rllib_trainer)
    for path in sorted((tmp_path / "a").iterdir()):
        assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes(), path.name
    seen, _ = run.seen(2)
    assert 200 <= len(seen.obs) < 220
    assert len(np.unique(seen.action)) > 0.9 * np.sum(np.abs(seen.action) < 1)  # no step is kept twice
    assert seen.next_obs is not None
    inside = ~seen.marked_ends[:-1]
    np.testing.assert_array_equal(seen.obs[1:][inside], seen.next_obs[:-1][inside])
    assert np.abs(seen.reward).max() > 3  # the environment's own, not normalised
    assert np.abs(seen.obs[:, 2]).max() > 1.5
    weights = [run.snapshot(number).policy.weights[0] for number in range(3)]
    assert not np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[1], weights[2])


@pytest.mark.slow
@needs_rllib
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Hopper-v4"])
def test_the_command_writes_a_dataset_that_is_a_task(tmp_path: Path, env_id: str) -> None:
    path = tmp_path / "data" / "mine.hdf5"
    command = [sys.executable, "-c", "from sweeps.cli import main; main()", "data", "collect", env_id]
    command += ["--kind", "full-replay", "--out", str(path), "--train-steps", "2500", "--snapshots", "2", "--seed", "1"]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stderr.splitlines()) < 5, ended.stderr  # bars, but nothing of what libraries say
    task = custom_task("mine", path, env_id)
    dataset = read_dataset(dataset_path(task))
    assert audit(dataset, task).faults == ()
    check_env(task.env_id, dataset.obs_dim, dataset.act_dim)
    assert 2500 <= len(dataset.obs) < 2600
    with h5py.File(path) as file:
        assert file.attrs["provenance"] == "the transitions that PPO saw in its first 2500 steps"
        assert ("infos/qpos" in file) == (env_id == "Hopper-v4")
    folder = f"{env_id}-ppo-2500-seed1.training"
    assert sorted(os.listdir(path.parent)) == sorted([folder, "mine.hdf5", "mine.png"])
    assert not list((tmp_path / "ray_results").glob("*"))  # RLlib's own record of the run is gone
