"""A package of one's own beside the YAML: its planner, policy, world model and termination rule in a plan."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

COMMAND = Path(sys.executable).parent / "mpcwdwm"
MODULE = """
import torch

from mpcwdwm.components.bc import BcConfig, BehaviorCloning
from mpcwdwm.components.world_models.mlp import MlpConfig, MlpModel
from mpcwdwm.config import Real, setting
from mpcwdwm.planning import Planner, PlannerConfig


class ShiftConfig(PlannerConfig):
    kind: str = setting("my_package.own:Shift", "kind of planner")
    by: Real = setting(0.1, "added to every action", unit="action", ge=0)


class Shift(Planner):
    config_class = ShiftConfig
    config: ShiftConfig

    @torch.no_grad()
    def plan(self):
        action = (self.pretrained_action() + self.config.by).clamp(-1, 1)
        value = action.sum(1)
        return action, value, ~value.isfinite()


class CloneConfig(BcConfig):
    floor: Real = setting(0.5, "a field of one's own", ge=0)


class Clone(BehaviorCloning):
    config_class = CloneConfig
    config: CloneConfig


class LinearConfig(MlpConfig):
    kind: str = setting("my_package.own:Linear", "kind of world model")


class Linear(MlpModel):
    config_class = LinearConfig
    config: LinearConfig


def fallen(obs):
    return obs[..., 0] < 0.7
"""
SPEC = """
name: plugins
tasks:
- {name: mine, dataset: data.hdf5, env: Hopper-v4, termination: "my_package.own:fallen"}
seeds: 1
components:
  "my_package.own:Clone": {steps: 4, evaluations: 1, eval_episodes: 0, hidden_dim: 8, batch_size: 16}
  rebrac: {steps: 4, evaluations: 1, eval_episodes: 0, hidden_dim: 8, batch_size: 16}
  world_model: {kind: "my_package.own:Linear", steps: 4, evaluations: 1, hidden_dim: 8, batch_size: 16}
  reward: {steps: 4, evaluations: 1, hidden_dim: 8, batch_size: 16}
planners:
  shift: {kind: "my_package.own:Shift", base: "my_package.own:Clone", by: [0.0, 0.2]}
  mpc: {kind: policy, base: "my_package.own:Clone", critic_from: rebrac, horizon: 1, rollouts: 2}
baselines: ["my_package.own:Clone"]
evaluation: {episodes: 1}
storage: out
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture
def folder(tmp_path):
    from mpcwdwm.data import dataset_path, find_task

    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    (tmp_path / "my_package" / "own.py").write_text(MODULE)
    (tmp_path / "data.hdf5").symlink_to(dataset_path(find_task("hopper-medium-replay-mini-ppo-v0")))
    (tmp_path / "s.yaml").write_text(SPEC)
    return tmp_path


def test_a_sweep_is_planned_with_parts_from_a_package_beside_the_yaml(folder):
    done = run(folder, "sweep", "plan", "s.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "components  4: 4 new" in done.stdout
    assert "cells       4: 4 new" in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("own:Shift", "own:Shfit", "has no Shfit (did you mean 'Shift'?)"),
        ("by: [0.0, 0.2]", "bye: 1", "unknown key 'bye' in planners.shift (did you mean 'by'?)"),
        ("own:fallen", "won:fallen", "cannot import my_package.won"),
    ],
)
def test_a_wrong_name_is_one_line(folder, old, new, says):
    (folder / "s.yaml").write_text(SPEC.replace(old, new))
    done = run(folder, "sweep", "plan", "s.yaml")
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
