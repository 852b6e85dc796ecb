"""Checks of the plan: datasets, environments, termination rules and captures are refused before anything starts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpcwdwm.components.world_models.flow import FlowModel
from mpcwdwm.data import find_task, read_dataset
from mpcwdwm.data.tasks import expected_path
from mpcwdwm.errors import UserError
from mpcwdwm.training.buffer import usable_rows
from sweeps.plan import checks
from sweeps.plan.plan import cell_packs
from sweeps.spec.spec import load_spec
from tests.support.d4rl_standins import stand_in
from tests.support.parts import BUNDLED
from tests.support.plans import BASE, FakeStore, plan
from tests.support.synthetic import episodes, write_hdf5


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def own_task(folder: Path, obs_dim: int = 11, **arrays: Any) -> str:
    data = {**episodes(obs_dim=obs_dim, act_dim=3), **arrays}
    write_hdf5(folder / "own.hdf5", {name: array for name, array in data.items() if array is not None})
    return BASE.replace(f"[{BUNDLED}]", "\n- {name: own, dataset: own.hdf5, env: Hopper-v4}")


def test_ones_own_dataset_is_a_task(tmp_path: Path) -> None:
    made = plan(tmp_path, own_task(tmp_path))
    task = made.cells[0].task
    assert (task.name, task.env_id, task.termination, task.source) == ("own", "Hopper-v4", "hopper", "local")
    assert task.mujoco.startswith("3.")
    assert made.facts["own"].rows == 22
    assert made.facts["own"].mean_length == 5.5


def test_the_user_is_told_of_terminals_that_disagree_with_the_rule_unless_it_is_followed(tmp_path: Path) -> None:
    standing = {name: 0.02 * array for name, array in episodes(obs_dim=11).items() if "observations" in name}
    for array in standing.values():
        array[:, 0] += 1.25  # the height of Hopper's torso
    text = own_task(tmp_path, **standing)
    for _ in ("from the file", "from the cache"):
        (notice,) = plan(tmp_path, text).notices
        assert notice.startswith("own: 3 × row terminal though 'hopper' does not end there: kept as flagged")
    assert plan(tmp_path, text.replace("env: Hopper-v4", "env: Hopper-v4, terminals: rule")).notices == []


def test_a_dataset_of_other_dimensions_than_the_environment_is_refused_at_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"s\.yaml:4: task 'own': the dataset's observations have 17 dimensions"):
        plan(tmp_path, own_task(tmp_path, obs_dim=17))


def test_a_broken_dataset_is_refused_at_its_line_also_the_second_time(tmp_path: Path) -> None:
    text = own_task(tmp_path, rewards=None)
    for _ in range(2):
        with pytest.raises(UserError, match=r"s\.yaml:4: task 'own': .*own\.hdf5.*rewards"):
            plan(tmp_path, text)


def test_a_dataset_is_checked_for_the_rows_of_the_kind_of_world_model_that_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = set[str]()

    def noted(dataset: Any, rows: Any, *, heldout: bool | None) -> Any:
        asked.add(rows)
        return usable_rows(dataset, rows, heldout=heldout)

    monkeypatch.setattr(checks, "usable_rows", noted)
    monkeypatch.setattr(FlowModel, "rows", "next_value")
    plan(tmp_path, own_task(tmp_path) + "components: {world_model: {kind: flow}}\n")
    assert asked == {"next_action", "next_value", "all"}  # of rebrac, the flow, reward and bc


def test_a_dataset_is_validated_anew_when_it_changes(tmp_path: Path) -> None:
    assert plan(tmp_path, own_task(tmp_path)).facts["own"].rows == 22
    own_task(tmp_path, rewards=None)
    with pytest.raises(UserError, match="rewards"):
        plan(tmp_path, own_task(tmp_path, rewards=None))


def test_a_dataset_without_held_out_transitions_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """Two episodes, of which the held-out one is a single row that ends: nothing follows it."""
    arrays = episodes(lengths=(40, 1), ends="ot", obs_dim=11, act_dim=3)
    del arrays["next_observations"]
    entry = BASE.replace(f"[{BUNDLED}]", "\n- {name: own, dataset: own.hdf5, env: Hopper-v4}")
    for seed in range(20):  # the file's hash decides which of the two is held out
        arrays["rewards"] = np.random.default_rng(seed).uniform(size=41).astype(np.float32)
        write_hdf5(tmp_path / "own.hdf5", arrays)
        if read_dataset(tmp_path / "own.hdf5").heldout.sum() == 1:
            break
    with pytest.raises(UserError, match=r"s\.yaml:4: task 'own': .* \(next_obs\) in held-out episodes"):
        plan(tmp_path, entry)
    plan(tmp_path, entry.replace("planners:\n  mpc: {kind: policy, horizon: [1, 3], updates: [1, 2]}\n", ""))


OWN_RULES = """
def numbers(obs):
    return obs[..., 0]

def joined(obs):
    return (obs < 0).any()

def absent(obs):
    return obs[..., 99] < 0

def of_two(obs, action):
    return obs[..., 0] < 0
"""


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("numbers", r"should answer \(2, 3, 11\) with torch.bool \(2, 3\), not with torch.float32 \(2, 3\)"),
        ("joined", r"not with torch.bool \(\)"),
        ("absent", "failed: IndexError: index 99"),
        ("of_two", "failed: TypeError: of_two"),
    ],
)
def test_a_termination_rule_of_ones_own_is_tried_out_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, says: str
) -> None:
    (tmp_path / "rules_of_this_test.py").write_text(OWN_RULES)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = own_task(tmp_path).replace("env: Hopper-v4", f"env: Hopper-v4, termination: 'rules_of_this_test:{rule}'")
    with pytest.raises(UserError, match=rf"s\.yaml:4: task 'own': termination rule .* {says}"):
        plan(tmp_path, text)


def test_cuda_graphs_without_a_gpu_are_refused_before_anything_starts(tmp_path: Path) -> None:
    graphs = BASE + "compute: {capture: graph}\nresources: {actor: {gpus: 0.5}, trial: {gpus: 0}}\n"
    with pytest.raises(UserError, match=r"s\.yaml:8: capture: graph needs a GPU, and resources\.trial has none"):
        checks.check_capture(plan(tmp_path, graphs).spec, gpus=1)
    checks.check_capture(plan(tmp_path, graphs.replace("gpus: 0}", "gpus: 1}")).spec, gpus=1)
    unset = plan(tmp_path, graphs.replace("trial: {gpus: 0}", "trial: {}")).spec
    for gpus in (1, None):  # None: the cluster has not been asked yet
        checks.check_capture(unset, gpus)
    with pytest.raises(UserError, match=r"resources\.trial has none"):
        checks.check_capture(unset, gpus=0)
    checks.check_capture(plan(tmp_path, graphs.replace("graph", "auto")).spec, gpus=0)


def test_an_absent_dataset_says_which_file_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"s\.yaml:3: task 'hopper-medium-v2': .*hopper_medium-v2\.hdf5"):
        plan(tmp_path, BASE.replace(BUNDLED, "hopper-medium-v2"))


def test_an_antmaze_task_is_planned_with_its_published_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    arrays = episodes(lengths=(8, 700, 30), ends="tot", obs_dim=29, act_dim=8)
    del arrays["next_observations"]  # as in D4RL's files, whose rewards are columns
    arrays["rewards"] = arrays["terminals"].astype(np.float32)[:, None]
    write_hdf5(expected_path(find_task("antmaze-umaze-v2")), arrays)
    made = plan(tmp_path, BASE.replace(BUNDLED, "antmaze-umaze-v2"))
    task = made.cells[0].task
    assert (task.env_id, task.max_episode_steps, task.reference) == ("mpcwdwm/AntMaze-umaze-v2", 700, (0.0, 1.0))
    [rebrac] = {str(part.config): part.config for part in made.components if part.component == "rebrac"}.values()
    published = {"reward_scale": 100, "discount": 0.999, "batch_size": 256, "actor_lr": 3e-4, "critic_lr": 5e-5}
    assert {name: rebrac[name] for name in published} == published
    assert task.goal_reward == 0.5  # rollouts end there
    assert not any("do not end" in notice for notice in made.notices)


def test_the_user_is_told_where_rollouts_do_not_end_and_what_nothing_uses(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "p.hdf5", episodes(obs_dim=4, act_dim=1))
    text = BASE.replace(f"[{BUNDLED}]", "[{name: pole, dataset: p.hdf5, env: InvertedPendulum-v4}]")
    notices = plan(tmp_path, text + "components: {iql: {steps: 3}}").notices
    for said in ("do not end", "raw returns", "components.iql", "are rescaled to [-3, 3]"):
        assert any(said in notice for notice in notices), said
    assert plan(tmp_path).notices == []


def test_an_environments_arguments_stand_in_the_yaml_and_are_noted(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "own.hdf5", episodes(obs_dim=11, act_dim=3))
    task = "[{name: own, dataset: own.hdf5, env: Hopper-v5, env_kwargs: {healthy_reward: 2.0, frame_skip: 2}}]"
    made = plan(tmp_path, BASE.replace(f"[{BUNDLED}]", task))
    assert made.cells[0].task.env_kwargs == {"healthy_reward": 2.0, "frame_skip": 2}
    noted = [notice for notice in made.notices if "healthy_reward=2.0, frame_skip=2" in notice]
    assert noted == [f"own: {made.cells[0].task.env_note}"]
    assert "1.0 lower at each fall" in noted[0]
    plain = plan(tmp_path, BASE.replace(f"[{BUNDLED}]", "[{name: own, dataset: own.hdf5, env: Hopper-v5}]"))
    assert len(cell_packs(made)) == len({cell.method for cell in made.cells})  # seeds stay together
    assert {cell.key for cell in plain.cells}.isdisjoint(cell.key for cell in made.cells)
    resolved = load_spec(tmp_path / "s.yaml").to_yaml()
    assert "env_kwargs" not in resolved
    (tmp_path / "r.yaml").write_text(made.spec.to_yaml())
    assert load_spec(tmp_path / "r.yaml").tasks[0].task.env_kwargs == {"healthy_reward": 2.0, "frame_skip": 2}
    with pytest.raises(UserError, match=r"s\.yaml:\d+: task 'own': environment 'Hopper-v5' cannot be made: TypeError"):
        plan(tmp_path, BASE.replace(f"[{BUNDLED}]", task.replace("frame_skip", "frame_skips")))


def test_the_user_is_told_what_the_store_cannot_do(tmp_path: Path) -> None:
    store = FakeStore()
    store.notices = ("it forgets",)
    assert plan(tmp_path, store=store).notices[0] == "it forgets"


def test_a_file_that_is_not_d4rls_is_marked_and_gets_no_published_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    for name, source in (("hopper-medium-v2", "local"), ("hopper-random-v2", "d4rl")):
        stand_in(find_task(name))
        planned = plan(tmp_path, BASE.replace(BUNDLED, name))
        assert {cell.task.source for cell in planned.cells} == {source}
        marked = [note for note in planned.notices if "480 transitions instead of 999,906" in note]
        assert len(marked) == (source == "local")


def test_shortened_episodes_are_marked_and_get_no_published_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    stand_in(find_task("hopper-random-v2"))
    text = BASE.replace(BUNDLED, "hopper-random-v2")
    whole, short = (plan(tmp_path, text, sets=sets) for sets in ([], ["evaluation.max_episode_steps=3"]))
    assert {cell.task.source for cell in whole.cells} == {"d4rl"}
    assert {(cell.task.source, cell.task.max_episode_steps) for cell in short.cells} == {("local", 3)}
    assert any("episodes end after 3 steps at the latest" in notice for notice in short.notices)
    assert not {cell.key for cell in whole.cells}.intersection(cell.key for cell in short.cells)
    at_length = plan(tmp_path, text, sets=["evaluation.max_episode_steps=1000"])
    assert [cell.key for cell in at_length.cells] == [cell.key for cell in whole.cells]


def test_a_file_of_other_names_is_planned_from_its_copy(tmp_path: Path) -> None:
    arrays = episodes(obs_dim=11, act_dim=3)
    write_hdf5(tmp_path / "own.hdf5", {"obs" if name == "observations" else name: a for name, a in arrays.items()})
    entry = "\n- {name: own, dataset: own.hdf5, env: Hopper-v4, columns: {observations: obs}}"
    planned = plan(tmp_path, BASE.replace(f"[{BUNDLED}]", entry))
    assert planned.cells[0].task.dataset == str(tmp_path / "own.hdf5.d4rl.hdf5")
    assert not any("rescaled" in notice for notice in planned.notices)
    assert "columns" in planned.spec.to_yaml()
