"""A user's way through: another robot, a foreign HDF5 file, axes, an added seed, Python use, the table.

Everything runs through the command line on a real local Ray cluster and a real MLflow store.
"""

import csv
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import mpcwdwm
from tests.support import ROOT

pytestmark = pytest.mark.slow

COMMAND = Path(sys.executable).parent / "mpcwdwm"
SPEC = """
name: foreign
tasks:
  - {name: my-walker, dataset: data/walker.hdf5, env: Walker2d-v4}
seeds: [4, 2]
components:
  rebrac: {steps: 60, hidden_dim: 8, batch_size: 32, evaluations: 1, eval_episodes: 1, actor_bc_coef: [0.1, 0.4]}
  iql: {steps: 60, hidden_dim: 8, batch_size: 32, evaluations: 1, eval_episodes: 1}
  world_model: {steps: 60, hidden_dim: 8, batch_size: 32, evaluations: 1, denoising_steps: 2}
  reward: {steps: 60, hidden_dim: 8, batch_size: 32, evaluations: 1}
planners:
  mpc: {kind: policy, H: [1, 2], M: 2, E: 1, step_size: 1e-4}
  from-iql: {kind: policy, base: iql, horizon: 1, rollouts: 2}
baselines: [rebrac, iql]
overrides:
  - {tasks: ["my-*"], planners: {mpc: {reset: step}}}
evaluation: {episodes: 2, env_seed: 5}
storage: out
tracking: {uri: "sqlite:///out/mlflow.db"}
"""


def walker_file(path: Path, episodes: int = 12) -> None:
    """Random actions in Walker2d, written as D4RL does, without next_observations."""
    env, draw = mpcwdwm.make_env("Walker2d-v4"), np.random.default_rng(0)
    rows: dict[str, list] = {k: [] for k in ("observations", "actions", "rewards", "terminals", "timeouts")}
    for episode in range(episodes):
        obs, _ = env.reset(seed=episode)
        for step in range(40):
            action = draw.uniform(-1, 1, 6).astype(np.float32)
            next_obs, reward, terminated, _, _ = env.step(action)
            last = step == 39 and not terminated
            for name, value in zip(rows, (obs, action, reward, terminated, last), strict=True):
                rows[name].append(value)
            obs = next_obs
            if terminated or last:
                break
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        for name, values in rows.items():
            file[name] = np.asarray(values, dtype=bool if name in ("terminals", "timeouts") else np.float32)


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run([COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def table(folder: Path, part: str = "") -> list[dict[str, str]]:
    (found,) = (folder / "out" / "sweeps" / "foreign").glob(f"{part}table.csv")
    with found.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    walker_file(folder / "data" / "walker.hdf5")
    (folder / "foreign.yaml").write_text(SPEC)
    return folder


@pytest.fixture(scope="module")
def finished(folder):
    run(folder, "sweep", "run", "foreign")  # by its name
    return folder


def test_a_plan_starts_nothing(folder):
    printed = run(folder, "sweep", "plan", "foreign.yaml")
    assert re.search(r"components\s+10: 10 new", printed)  # 2 ReBRACs, IQL, world model, reward; two seeds
    assert re.search(r"cells\s+16: 16 new", printed)  # (2 ReBRACs + IQL + 2 H x 2 ReBRACs + 1) x 2 seeds
    assert not (folder / "out").exists()


def test_another_robot_from_a_foreign_file_runs(finished):
    rows = [row for row in table(finished) if row["method"] not in ("dataset",)]
    assert len(rows) == 8
    for row in rows:
        assert row["task"] == "my-walker"
        assert row["env_id"] == "Walker2d-v4"
        assert row["mujoco"].startswith("3.")
        assert (row["n_seeds"], row["n_episodes"], row["status"]) == ("2", "4", "ok")
        assert np.isfinite(float(row["score_mean"]))
        assert (row["gain_mean"] != "") == (row["kind"] == "policy")
        assert row["gain_seed_low"] == ""  # two seeds say nothing about new ones
    assert {row["horizon"] for row in rows if row["method"].startswith("mpc")} == {"1", "2"}
    assert {row["base"] for row in rows if row["kind"] == "policy"} == {"rebrac", "iql"}
    assert "MPCwDWM" not in (finished / "out/sweeps/foreign/table.md").read_text()  # never for local data


def test_an_added_seed_trains_that_seed_only(finished):
    before = {path.name for path in (finished / "out" / "components").iterdir()}
    stamps = {path: path.stat().st_mtime_ns for path in (finished / "out" / "components").rglob("*")}
    run(finished, "sweep", "run", "foreign", "--seeds", "4,2,9")
    added = {path.name for path in (finished / "out" / "components").iterdir()} - before
    assert len(added) == 5
    assert all("-s9-" in name for name in added)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert {row["n_seeds"] for row in table(finished, "seeds-4-2-9-*/") if row["n_seeds"]} == {"3"}
    assert {row["n_seeds"] for row in table(finished) if row["n_seeds"]} == {"2"}


def test_status_and_list_say_that_it_is_done(finished):
    assert "foreign" in run(finished, "sweep", "list")
    assert "16" in run(finished, "sweep", "status", "foreign.yaml")


def test_mlflow_has_one_run_of_each_unit_with_parameters_and_episodes(finished):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{finished}/out/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("mpcwdwm").experiment_id], max_results=500)
    keys = [one.data.tags["mpcwdwm.key"] for one in runs]
    assert len(set(keys)) == len(keys)
    parents = {one.info.run_id for one in runs if one.data.tags["mpcwdwm.kind"] == "sweep"}
    cells = [one for one in runs if one.data.tags["mpcwdwm.kind"] == "cell"]
    planned = [one for one in cells if one.data.params["kind"] == "policy"]
    assert planned
    for one in planned:
        assert one.data.tags["mlflow.parentRunId"] in parents
        assert {"horizon", "rollouts", "updates", "step_size", "seed", "task", "world_model"} <= set(one.data.params)
        assert one.data.params["planner.reset"] == "step" or one.data.params["base"] == "iql"
        assert {"git_sha", "dataset_sha256", "mujoco"} <= set(one.data.tags)
        assert "episodes.parquet" in {file.path for file in client.list_artifacts(one.info.run_id)}


def test_the_readmes_python_use_runs(finished):
    code = re.search(r"<!-- api -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    chosen = next((finished / "out" / "components").glob("rebrac-*-s4-*")).name
    code = code.replace('"runs"', f'"{finished}/out"').replace("hopper-medium-replay-mini-ppo-v0", "my-walker")
    code = code.replace("seed=0", f"seed=4, keys=['{chosen}']")
    script = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert script.returncode == 0, script.stderr
