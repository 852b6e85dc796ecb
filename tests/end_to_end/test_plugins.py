"""A package of one's own beside the YAML: its planner, policy, world model and termination rule in a sweep."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.slow

COMMAND = Path(sys.executable).parent / "mpcwdwm"
MODULE = """
from pathlib import Path

import torch

from mpcwdwm.components.bc import BcConfig, BehaviorCloning
from mpcwdwm.components.world_models.mlp import MlpConfig, MlpModel
from mpcwdwm.config import Real, setting
from mpcwdwm.planning import Planner, PlannerConfig


class ShiftConfig(PlannerConfig):
    kind: str = setting("my_package.own:Shift", "kind of planner")
    by: Real = setting(0.1, "added to every action", unit="action", alias="b", ge=0)


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
    with Path(__file__).with_name("asked").open("a") as file:
        print(tuple(obs.shape), file=file)
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
  shift: {kind: "my_package.own:Shift", base: "my_package.own:Clone", b: [0.0, 0.2]}
  offered: {kind: shift, base: "my_package.own:Clone", by: 0.1}
  mpc: {kind: policy, base: "my_package.own:Clone", critic_from: rebrac, horizon: 1, rollouts: 2}
baselines: ["my_package.own:Clone"]
evaluation: {episodes: 1}
storage: out
"""
ROWS = ["my_package.own:Clone", "shift b=0.0", "shift b=0.2", "offered", "mpc"]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture
def folder(tmp_path):
    from mpcwdwm.data import dataset_path, find_task

    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    (tmp_path / "my_package" / "own.py").write_text(MODULE)
    (tmp_path / "my_package-1.0.dist-info").mkdir()  # as an installer leaves it
    (tmp_path / "my_package-1.0.dist-info" / "METADATA").write_text("Name: my_package\nVersion: 1.0\n")
    (tmp_path / "my_package-1.0.dist-info" / "entry_points.txt").write_text(
        "[mpcwdwm.planners]\nshift = my_package.own:Shift\n"
    )
    (tmp_path / "data.hdf5").symlink_to(dataset_path(find_task("hopper-medium-replay-mini-ppo-v0")))
    (tmp_path / "s.yaml").write_text(SPEC)
    return tmp_path


def test_parts_from_a_package_beside_the_yaml_run_through_a_sweep(folder):
    planned = run(folder, "sweep", "plan", "s.yaml")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert "components  4: 4 new" in planned.stdout
    assert "cells       5: 5 new" in planned.stdout
    asked = folder / "my_package" / "asked"
    # The termination rule is tried out before the dataset's terminals are held to it, which a cache may remember.
    assert asked.read_text().splitlines()[0] == "(2, 3, 11)"
    done = run(folder, "sweep", "run", "s.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(1, 2, 11)\n" in asked.read_text()  # by the cell that imagines: one episode, two rollouts
    csv = folder / "out" / "sweeps" / "plugins" / "table.csv"
    csv.unlink()
    table = run(folder, "table", "s.yaml")
    assert table.returncode == 0, table.stdout + table.stderr
    rows = pd.read_csv(csv).set_index("method").loc[ROWS]
    assert list(rows.status) == ["ok"] * len(ROWS)
    clone, unmoved, moved, offered, _ = rows.score_mean
    assert unmoved == clone  # nothing is added to its actions
    assert len({clone, moved, offered}) == 3
    (folder / "my_package" / "own.py").write_text(MODULE.replace("-1, 1", "-0.9, 0.9"))
    replanned = run(folder, "sweep", "plan", "s.yaml")  # whatever is built from an edited module is to be done again
    assert "components  4: 2 new, 2 cached" in replanned.stdout
    assert "cells       5: 5 new" in replanned.stdout


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("own:Shift", "own:Shfit", "has no Shfit (did you mean 'Shift'?)"),
        ("b: [0.0, 0.2]", "bye: 1", "unknown key 'bye' in planners.shift (did you mean 'by'?)"),
        ("own:fallen", "won:fallen", "cannot import my_package.won"),
    ],
)
def test_a_wrong_name_is_one_line(folder, old, new, says):
    (folder / "s.yaml").write_text(SPEC.replace(old, new))
    done = run(folder, "sweep", "plan", "s.yaml")
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
