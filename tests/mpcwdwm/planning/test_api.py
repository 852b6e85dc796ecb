"""The Python API: what the README shows, run on components trained for a moment."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas
import pytest
import torch
from torch import nn

import mpcwdwm
from mpcwdwm.components import component_config, load_component
from mpcwdwm.components.artifact import write_artifact
from mpcwdwm.envs.termination import RULES
from mpcwdwm.errors import UserError
from mpcwdwm.evaluation.evaluate import evaluate
from mpcwdwm.evaluation.rollout import episode_seeds, rollout
from mpcwdwm.planning.parts import SharedValue
from mpcwdwm.training.loop import train
from tests.support import ROOT
from tests.support.small_components import FIELDS, SEEDS, SMALL, TASK, UNIT


@pytest.fixture(scope="module")
def storage(dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("storage")
    folders, bases = {}, {}
    for name in ("rebrac", "iql", "bc", "world_model", "reward", "value"):
        of_file = {"dataset": str(dataset.path), "dataset_sha256": dataset.sha256}
        for trained in train(name, component_config(name, FIELDS.get(name, {}), SMALL), dataset, SEEDS, bases=bases):
            key = f"{name}-s{trained.facts['seed']}"
            folder = root / "components" / key
            folder.mkdir(parents=True)
            write_artifact(
                folder, trained.tensors, {**trained.facts, "key": key, "task": TASK | of_file}, trained.curve
            )
            folders.setdefault(name, []).append(folder)
        bases = {base: load_component(folders[base]) for base in ("rebrac", "world_model", "reward") if base in folders}
    return root


def test_load_adapt_and_step_an_environment(storage):
    parts = mpcwdwm.load(storage, task=TASK["name"], seed=0)
    planner = mpcwdwm.AdaptiveMpc(parts, mpcwdwm.MpcConfig(H=2, M=4, E=1, step_size=1e-4))
    env = mpcwdwm.make_env(parts.env_id)
    obs, _ = env.reset(seed=1)
    for _ in range(5):
        action = planner(obs)
        assert env.action_space.contains(action)
        obs, *_ = env.step(action)
    changed = [not torch.equal(planner.psi[name], planner.psi0[name]) for name in planner.psi]
    assert all(changed)


def test_a_loaded_policy_acts_as_the_trained_one_did(storage, dataset):
    parts = mpcwdwm.load(storage, task=TASK["name"], seed=[0, 1])
    (first, second) = train("rebrac", component_config("rebrac", UNIT, SMALL), dataset, SEEDS)
    obs = torch.from_numpy(dataset.obs[:7])
    actions = parts.policy(parts.policy.initial(1), obs.expand(2, -1, -1))
    for member, trained in enumerate((first, second)):
        weights = trained.tensors
        x = (obs - weights["actor.normalizer.mean"]) / weights["actor.normalizer.std"]
        for i in range(3):
            x = torch.relu(x @ weights[f"actor.net.hidden.{i}.weight"] + weights[f"actor.net.hidden.{i}.bias"])
        expected = torch.tanh(x @ weights["actor.net.head.weight"] + weights["actor.net.head.bias"])
        assert torch.allclose(actions[member], expected, atol=1e-5)


def test_one_set_of_parts_serves_planners_of_different_sizes(storage):
    parts = mpcwdwm.load(storage, task=TASK["name"], seed=SEEDS)
    one, three = (mpcwdwm.AdaptiveMpc(parts, mpcwdwm.MpcConfig(H=1, M=2), seeds=SEEDS, episodes=n) for n in (1, 3))
    first = one.act(torch.zeros(2, 11))[0]
    assert three.act(torch.zeros(6, 11))[0].shape == (6, 3)
    one.rewind()
    assert torch.equal(one.act(torch.zeros(2, 11))[0], first)


def test_iql_can_be_the_base(storage):
    parts = mpcwdwm.load(storage, task=TASK["name"], seed=1, base="iql")
    planner = mpcwdwm.AdaptiveMpc(parts, mpcwdwm.MpcConfig(H=1, M=2, base="iql"))
    assert np.isfinite(planner(np.zeros(11))).all()


def test_a_finished_value_is_loaded_by_name_and_plans(storage):
    parts = mpcwdwm.load(storage, task=TASK["name"], seed=SEEDS, critic_from="value")
    assert isinstance(parts.critic, SharedValue)
    config = mpcwdwm.MpcConfig(H=1, M=2, critic_from="value", step_size=1e-3)
    planner = mpcwdwm.AdaptiveMpc(parts, config, seeds=SEEDS)
    _, value, fallen = planner.act(torch.zeros(2, 11))
    assert not fallen.any()
    assert value.isfinite().all()
    assert planner.change.min() > 0


def test_the_value_of_another_policy_is_left_alone(storage, tmp_path):
    root = shutil.copytree(storage, tmp_path / "two")
    other = shutil.copytree(root / "components" / "value-s0", root / "components" / "value-of-iql-s0")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["config"]["of"], manifest["key"] = "iql", other.name
    (other / "manifest.json").write_text(json.dumps(manifest))
    assert isinstance(mpcwdwm.load(root, task=TASK["name"], critic_from="value").critic, SharedValue)
    robust = mpcwdwm.MpcConfig(preset="robust")
    assert isinstance(mpcwdwm.load(root, task=TASK["name"], planner=robust).critic, SharedValue)


def test_a_borrowed_critic_brings_its_discount_and_its_reward_scale(storage):
    iql, rebrac, borrowed = (
        mpcwdwm.load(storage, task=TASK["name"], seed=SEEDS, **which)
        for which in ({"base": "iql"}, {}, {"base": "iql", "critic_from": "rebrac"})
    )
    obs, action = torch.randn(2, 5, 11), torch.rand(2, 5, 3)
    assert (iql.discount, rebrac.discount, borrowed.discount) == (0.99, 0.9, 0.9)
    assert torch.equal(borrowed.critic(obs, action), rebrac.critic(obs, action))
    assert not torch.equal(borrowed.critic(obs, action), iql.critic(obs, action))
    assert torch.equal(borrowed.reward(obs, action), rebrac.reward(obs, action))
    assert torch.allclose(rebrac.reward(obs, action), 2 * iql.reward(obs, action) + 0.5)
    policies = [parts.policy(parts.policy.initial(1), obs) for parts in (iql, rebrac, borrowed)]
    assert torch.equal(policies[2], policies[0])
    assert not torch.equal(policies[2], policies[1])


def test_ones_own_policy_in_a_loaded_set(storage):
    parts = mpcwdwm.load(storage, task=TASK["name"])
    parts.policy = mpcwdwm.ModulePolicy(nn.Sequential(nn.Linear(11, 8), nn.ReLU(), nn.Linear(8, 3), nn.Tanh()))
    planner = mpcwdwm.AdaptiveMpc(parts, mpcwdwm.MpcConfig(H=1, M=2, E=1))
    assert planner(np.zeros(11)).shape == (3,)


def test_an_observation_that_is_not_finite_has_no_action(storage):
    planner = mpcwdwm.AdaptiveMpc(mpcwdwm.load(storage, task=TASK["name"]), mpcwdwm.MpcConfig(H=1, M=2, E=1))
    for bad in (np.nan, np.inf):
        with pytest.raises(UserError, match=f"entry 2 is {bad}"):
            planner(np.array([0, 0, bad, *[0] * 8]))
    assert planner(np.zeros(11)).shape == (3,)


PLANNED = {
    "robust": {"preset": "robust", "M": 4},
    "gate": {"H": 2, "M": 4, "gate": 1.0},
    "anchor": {"H": 2, "M": 4, "anchor": 0.1},
    "auto": {"H": 1, "M": 2, "step_size": "auto", "candidates": 2},
    "borrowed": {"H": 2, "M": 4, "base": "bc", "critic_from": "iql"},
}


@pytest.mark.parametrize("name", PLANNED)
def test_a_storage_folder_is_enough_for_any_config(name, storage):
    config = mpcwdwm.MpcConfig(**PLANNED[name])
    parts = mpcwdwm.load(storage, task=TASK["name"], planner=config)
    assert (parts.base, parts.critic_of) == (
        config.base,
        "rebrac" if config.critic_from == "base" else config.critic_from,
    )
    assert (parts.dataset is not None) == (name in ("gate", "auto"))
    if name != "auto":  # takes its time, and has tests of its own
        assert np.isfinite(mpcwdwm.AdaptiveMpc(parts, config)(np.zeros(11))).all()


def test_what_the_parts_do_not_hold_is_refused(storage):
    parts = mpcwdwm.load(storage, task=TASK["name"])
    for fields, message in (
        ({"preset": "robust"}, "hold the critic of rebrac, the config wants that of value: .*critic_from='value'"),
        ({"base": "iql"}, "hold the policy of rebrac, the config says base: iql"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            mpcwdwm.AdaptiveMpc(parts, mpcwdwm.MpcConfig(**fields))
        assert "\n" not in str(caught.value)
    cloned = mpcwdwm.load(storage, task=TASK["name"], base="bc")
    config = mpcwdwm.MpcConfig(base="bc", critic_from="iql")
    with pytest.raises(UserError, match="hold no critic, the config wants that of iql"):
        mpcwdwm.AdaptiveMpc(cloned, config)
    parts.critic = lambda obs, action: (obs.sum(-1) + action.sum(-1)).unsqueeze(1)  # one's own: nothing is known of it
    parts.policy = mpcwdwm.ModulePolicy(nn.Linear(11, 3))
    mpcwdwm.AdaptiveMpc(parts, mpcwdwm.MpcConfig(preset="robust", base="iql"))


def test_parts_put_together_in_memory_are_the_loaded_ones(storage, dataset):
    trained = {
        name: train(name, component_config(name, FIELDS.get(name, {}), SMALL), dataset, SEEDS)
        for name in ("rebrac", "iql", "world_model", "reward")
    }
    ours = mpcwdwm.assemble(trained, "iql", critic_from="rebrac", termination=RULES["hopper"])
    theirs = mpcwdwm.load(storage, task=TASK["name"], seed=SEEDS, base="iql", critic_from="rebrac")
    obs = torch.randn(2, 11, generator=torch.Generator().manual_seed(0))
    config = mpcwdwm.MpcConfig(H=2, M=3, base="iql", critic_from="rebrac", step_size=1e-3)
    actions = [mpcwdwm.AdaptiveMpc(parts, config, seeds=SEEDS).act(obs)[0] for parts in (ours, theirs)]
    assert torch.equal(*actions)
    for arguments, message in (
        (({"bc": trained["iql"]}, "iql"), "base: 'iql' is not among"),
        (({**trained, "reward": trained["reward"][:1]}, "iql"), "reward has seeds"),
        ((trained, "reward"), "reward has no policy"),
    ):
        with pytest.raises(UserError, match=message):
            mpcwdwm.assemble(*arguments)


def test_a_new_episode_starts_from_the_pretrained_policy_and_draws_new_noise(storage, dataset):
    config = mpcwdwm.MpcConfig(H=2, M=4, step_size=1e-2)
    planner = mpcwdwm.AdaptiveMpc(mpcwdwm.load(storage, task=TASK["name"]), config)
    first = planner(dataset.obs[0])
    planner.reset()
    assert all(torch.equal(planner.psi[name], psi) for name, psi in planner.psi0.items())
    assert not np.array_equal(planner(dataset.obs[0]), first)
    planner.rewind()
    assert np.array_equal(planner(dataset.obs[0]), first)


def test_the_package_shows_its_names_and_is_light_to_import():
    assert set(mpcwdwm.__all__) <= set(dir(mpcwdwm))
    assert all(getattr(mpcwdwm, name) is not None for name in mpcwdwm.__all__)
    code = "import sys, mpcwdwm; dir(mpcwdwm); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "hopper-medium-replay-mini-ppo"}, "did you mean 'hopper-medium-replay-mini-ppo-v0'"),
        ({"task": TASK["name"], "seed": 9}, r"no finished 'rebrac' for seed 9; it has seeds \[0, 1\]"),
        ({"task": TASK["name"], "base": "td3"}, "no finished 'td3'"),
        ({"task": TASK["name"], "seed": []}, "seed is empty"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(storage, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        mpcwdwm.load(storage, **arguments)
    assert "\n" not in str(caught.value)


USERS_SCRIPT = """
import mpcwdwm

config = mpcwdwm.MpcConfig(horizon=2, rollouts=4)
data = mpcwdwm.read_dataset("recorded.hdf5")
trained = mpcwdwm.train("rebrac", mpcwdwm.component_config("rebrac", {}, {"steps": 10}), data, [0])
parts: mpcwdwm.Parts = mpcwdwm.assemble({"rebrac": trained}, "rebrac", dataset=data)
planner: mpcwdwm.Planner = mpcwdwm.AdaptiveMpc(parts, config)
rows = mpcwdwm.evaluate(mpcwdwm.load("runs", task="task", planner=config), None, seeds=[0], episodes=1, env_seed=0)
score: float = rows[0]["return"]
reveal_type(mpcwdwm.load)
reveal_type(mpcwdwm.train)
reveal_type(mpcwdwm.find_task)
mpcwdwm.evaluate(parts, 3)
"""


@pytest.mark.slow
def test_a_type_checker_sees_the_installed_packages_types(tmp_path):
    """A user's script is accepted as it stands, but for the last line, which is wrong."""
    source = tmp_path / "source"  # built from a copy: setuptools leaves folders beside what it builds
    for package in ("mpcwdwm", "cluster", "sweeps", "analysis"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    wheel = ("wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path), str(source))
    subprocess.run([sys.executable, "-m", "pip", *wheel], check=True)
    (file,) = tmp_path.glob("*.whl")
    target = tmp_path / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "-t", str(target), str(file)], check=True
    )
    (tmp_path / "script.py").write_text(USERS_SCRIPT)
    (tmp_path / "mypy.ini").write_text("[mypy]\nfollow_untyped_imports = True\n")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "script.py"],
        cwd=tmp_path, env={**os.environ, "MYPYPATH": "", "PYTHONPATH": str(target)}, capture_output=True, text=True,
    )  # fmt: skip
    lines = checked.stdout.splitlines()
    errors = [line for line in lines if ": error:" in line]
    assert errors
    assert all(line.startswith("script.py:14:") for line in errors), checked.stdout
    revealed = [line for line in lines if "Revealed type" in line]
    assert len(revealed) == 3
    assert not [line for line in revealed if '"Any"' in line]


# -------------------------------------------------------------------------------------- evaluation


def test_every_method_meets_the_same_starting_states_and_members_do_not_mix(storage):
    parts = mpcwdwm.load(storage, task=TASK["name"], seed=SEEDS)
    parts.max_episode_steps = 15
    config = mpcwdwm.MpcConfig(H=1, M=2, E=1, step_size=1e-3)
    frozen = evaluate(parts, None, seeds=SEEDS, episodes=2, env_seed=0)
    adapted = evaluate(parts, config, seeds=SEEDS, episodes=2, env_seed=0)
    again = evaluate(parts, config, seeds=SEEDS, episodes=2, env_seed=0)
    for rows in (frozen, adapted):
        assert [row["env_seed"] for row in rows] == episode_seeds(0, 2) * 2
        assert [row["seed"] for row in rows] == [0, 0, 1, 1]
    assert [row["return"] for row in adapted] == [row["return"] for row in again]
    assert adapted[0]["imagined_return"] is not None
    assert frozen[0]["imagined_return"] is None
    assert [row["adapted_share"] for row in frozen] == [0.0] * 4
    assert pandas.DataFrame(adapted)["return"].tolist() == [row["return"] for row in adapted]
    alone = evaluate(mpcwdwm.load(storage, task=TASK["name"], seed=1), config, seeds=[1], episodes=2, env_seed=0)
    for ours, theirs in zip(adapted[2:], alone, strict=True):
        if ours["length"] == theirs["length"] <= 15:
            assert ours["return"] == pytest.approx(theirs["return"], rel=1e-3)


def test_a_score_is_d4rls(storage):
    parts = mpcwdwm.load(storage, task=TASK["name"])
    (episode,) = evaluate(parts, None, seeds=[0], episodes=1, env_seed=3)
    low, high = TASK["reference"]
    assert episode["normalized_score"] == pytest.approx(100 * (episode["return"] - low) / (high - low))


def test_the_page_on_python_runs(dataset, tmp_path, monkeypatch):
    """Ten lines that train on a file, plan and step, and the evaluation below them, with shorter trainings."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    small = '20, "hidden_dim": 16}'
    for full, short in (("recorded.hdf5", str(dataset.path)), ("50_000}", small), ("episodes=10", "episodes=1")):
        assert full in "".join(blocks)
        blocks = [block.replace(full, short) for block in blocks]
    monkeypatch.chdir(tmp_path)  # where nothing is to be written
    found = {"pandas": pandas}
    exec("".join(blocks), found)
    assert len(found["table"]) == 1
    assert list(tmp_path.iterdir()) == []


def test_lockstep_episodes_are_those_of_a_plain_loop(dataset):
    """The rollout's returns and lengths equal a loop over single environments with the same actions."""

    def act(obs, alive):
        return torch.sin(obs[:, :3] * 5)

    played = rollout("Hopper-v4", act, [5, 6, 7], max_steps=200, dtype=torch.float64)
    for one in played:
        env = mpcwdwm.make_env("Hopper-v4")
        obs, _ = env.reset(seed=one.env_seed)
        total, length, done = 0.0, 0, False
        while not done and length < 200:
            obs, reward, terminated, truncated, _ = env.step(np.sin(obs[:3] * 5))
            total, length, done = total + reward, length + 1, terminated or truncated
        assert (one.return_, one.length) == (pytest.approx(total, rel=1e-12), length)
