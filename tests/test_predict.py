"""Prediction: what is missing is timed, what was timed is remembered, and sums and slots are right."""

from pathlib import Path
from typing import Any

import pytest

from cluster.provenance import host_name
from cluster.units import CellUnit, ComponentUnit
from mpcwdwm.components import component_config
from mpcwdwm.training import train
from sweeps import predict as predict_module
from sweeps import speed
from sweeps.plan import Plan, build_plan
from sweeps.predict import PROCESS_SECONDS, RECORD_BYTES, RESULT_BYTES, START_SECONDS, makespan, predict, slots
from sweeps.schema import Resources, Share
from sweeps.spec import load_spec

SPEC = """
name: mine
tasks: [hopper-medium-replay-mini-ppo-v0]
seeds: 2
components: {rebrac: {hidden_dim: 16, steps: 1000}, world_model: {hidden_dim: 16}, reward: {hidden_dim: 16}}
planners: {mpc: {kind: policy, horizon: 2, rollouts: 3, updates: [1, 2]}}
baselines: [rebrac]
resources: {concurrency: 1}
"""


class Archive:
    """A store that holds manifests."""

    def __init__(self) -> None:
        self.manifests: dict[str, dict[str, dict[str, Any]]] = {"components": {}, "results": {}}

    def keys(self, kind: str) -> list[str]:
        return sorted(self.manifests[kind])

    def has(self, kind: str, key: str) -> bool:
        return key in self.manifests[kind]

    def manifest(self, kind: str, key: str) -> dict[str, Any]:
        return self.manifests[kind][key]

    def failure(self, key: str) -> None:
        return None

    def publish_component(self, unit: ComponentUnit, pack: list[str], per_second: float, host: str) -> None:
        self.manifests["components"][unit.key] = {
            "component": unit.component, "config": unit.config, "obs_dim": 11, "act_dim": 3, "packed_with": pack,
            "device": "cpu", "threads": 1, "updates_per_second": per_second, "host": host,
        }  # fmt: skip

    def publish_result(self, unit: CellUnit, pack: list[str], seconds: float, length: float) -> None:
        self.manifests["results"][unit.key] = {
            "planner": unit.planner, "configs": unit.configs, "episodes": unit.episodes, "packed_with": pack,
            "task": {"name": unit.task.name, "env_id": unit.task.env_id, "max_episode_steps": 1000},
            "device": "cpu", "threads": 1, "seconds": seconds, "host": host_name(),
            "episodes_mean": {"length": length, "normalized_score": 1.0, "return": 1.0},
        }  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def plan(folder: Path, store: Any, **options: Any) -> Plan:
    (folder / "s.yaml").write_text(SPEC)
    return build_plan(load_spec(folder / "s.yaml", **options), store)


@pytest.fixture
def constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which an update takes a millisecond and a planned step ten."""
    monkeypatch.setattr(predict_module, "update_seconds", lambda *a: 1e-3)
    monkeypatch.setattr(predict_module, "act_seconds", lambda *a: 1e-2)
    monkeypatch.setattr(predict_module, "ENV_STEP_SECONDS", 0.0)
    monkeypatch.setattr(predict_module, "ACT_SECONDS", 0.0)


@pytest.mark.usefixtures("constant")
def test_time_is_steps_times_seconds_over_the_processes_that_fit(tmp_path: Path) -> None:
    made = predict(plan(tmp_path, Archive()), Archive())
    assert made.seconds["start"] == START_SECONDS
    assert made.seconds["components"] == pytest.approx(PROCESS_SECONDS + (1_000 + 200_000 + 200_000) * 1e-3)
    steps = 1.5 * 50_000 / 206  # episodes in the dataset
    assert made.seconds["cells"] == pytest.approx(PROCESS_SECONDS + 2 * steps * 1e-2)
    assert made.cpu_hours == pytest.approx((401 + 2 * steps * 1e-2) / 3600)
    assert made.gpu_hours == 0
    assert made.wall_seconds == sum(made.seconds.values())


@pytest.mark.usefixtures("constant")
def test_nothing_missing_costs_nothing(tmp_path: Path) -> None:
    store = Archive()
    made = plan(tmp_path, store)
    for unit in made.components:
        store.publish_component(unit, [unit.key], 1.0, host_name())
    for cell in made.cells:
        store.publish_result(cell, [cell.key], 1.0, 100.0)
    after = predict(made, store)
    assert (after.wall_seconds, after.cpu_hours, after.disk_bytes) == (0, 0, 0)


@pytest.mark.usefixtures("constant")
def test_what_this_machine_has_done_before_goes_before_measuring(tmp_path: Path) -> None:
    store = Archive()
    before = plan(tmp_path, store, seeds="7,8", sets=["components.rebrac.steps=5", "components.rebrac.actor_lr=1e-5"])
    pair = [unit for unit in before.components if unit.component == "rebrac"]
    for unit in pair:  # another length and step size, other seeds: the same work per update
        store.publish_component(unit, [u.key for u in pair], per_second=10.0, host=host_name())
    learnt = predict(plan(tmp_path, store), store)
    assert learnt.seconds["components"] == pytest.approx(PROCESS_SECONDS + 1_000 / 10 + 400)
    for unit in pair:
        store.publish_component(unit, [u.key for u in pair], per_second=10.0, host="another machine")
    assert predict(plan(tmp_path, store), store).seconds["components"] == pytest.approx(PROCESS_SECONDS + 1 + 400)


@pytest.mark.usefixtures("constant")
def test_episode_lengths_and_speed_of_finished_results_are_used(tmp_path: Path) -> None:
    store = Archive()
    before = plan(tmp_path, store, seeds="7,8")
    pair = [cell for cell in before.cells if cell.planner and cell.planner["updates"] == 1]
    for cell in pair:  # 12 s for two seeds together, over 1.5 · 400 steps: 20 ms a step
        store.publish_result(cell, [c.key for c in pair], seconds=6.0, length=400.0)
    made = predict(plan(tmp_path, store), store)
    assert made.seconds["cells"] == pytest.approx(PROCESS_SECONDS + 600 * 0.02 + 600 * 0.01)


@pytest.mark.usefixtures("constant")
def test_cells_still_to_be_chosen_are_counted(tmp_path: Path) -> None:
    store = Archive()
    sets = ["evaluation.select={seeds: [8, 9], env_seed: 5, episodes: 10}"]
    made = plan(tmp_path, store, sets=sets)
    predicted = predict(made, store)
    steps = 1.5 * 50_000 / 206
    playing = 2 * steps * 1e-2  # two candidates; a baseline that takes no time here
    assert predicted.seconds["cells"] == pytest.approx(PROCESS_SECONDS + playing + playing / 3)


def test_processes_take_the_next_pack_when_they_are_free() -> None:
    assert makespan([], 4) == 0
    assert makespan([4, 1, 1, 1], 2) == PROCESS_SECONDS + 4
    assert makespan([1, 1, 1, 4], 2) == PROCESS_SECONDS + 5
    assert makespan([3, 2], 1) == PROCESS_SECONDS + 5


def test_slots_are_limited_by_cores_and_by_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_module.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert slots(Share(cpus=1), Resources()) == 8
    assert slots(Share(cpus=3), Resources()) == 2
    assert slots(Share(cpus=1), Resources(concurrency=3)) == 3
    assert slots(Share(cpus=20), Resources()) == 1


def test_gpu_hours_follow_the_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_module, "update_seconds", lambda *a: 1e-3)
    monkeypatch.setattr(predict_module, "act_seconds", lambda *a: 0.0)
    store = Archive()
    made = predict(plan(tmp_path, store, sets=["resources.actor.gpus=0.5", "components.rebrac.eval_episodes=0"]), store)
    assert made.gpu_hours == pytest.approx(0.5 * 401 / 3600)


# Measuring, with the real components


def test_a_measurement_is_made_once_and_depends_on_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "MEASURE_SECONDS", 0.02)
    store = Archive()
    made = plan(tmp_path, store)
    first = predict(made, store)
    assert first.seconds["components"] > PROCESS_SECONDS
    assert first.seconds["cells"] > PROCESS_SECONDS

    def measured_again(*work: Any) -> float:
        raise AssertionError(work)

    monkeypatch.setattr(speed, "_time_update", measured_again)
    monkeypatch.setattr(speed, "_time_act", measured_again)
    assert predict(made, store) == first
    faster = plan(tmp_path, store, sets=["components.rebrac.actor_lr=1e-5", "planners.mpc.step_size=1"])
    assert predict(faster, store) == first  # step sizes do not change the work
    with pytest.raises(AssertionError):
        predict(plan(tmp_path, store, sets=["components.rebrac.batch_size=7"]), store)


@pytest.mark.usefixtures("constant")
def test_disk_is_the_weights_and_records_of_what_is_missing(tmp_path: Path) -> None:
    store = Archive()
    made = plan(tmp_path, store)
    sizes = {}
    for unit in made.components:
        config = component_config(unit.component, {}, {**unit.config, "steps": 1})
        tensors = train(unit.component, config, speed.random_dataset(11, 3), [0])[0].tensors
        sizes[unit.key] = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    whole = sum(sizes.values()) + 6 * RECORD_BYTES + 6 * RESULT_BYTES
    assert predict(made, store).disk_bytes == whole
    first = made.components[0]
    store.publish_component(first, [first.key], 1.0, host_name())
    assert predict(made, store).disk_bytes == whole - sizes[first.key] - RECORD_BYTES


def test_a_plan_too_large_to_be_timed_is_timed_in_part_and_scaled() -> None:
    whole = {"horizon": 4, "rollouts": 100, "updates": 3}
    assert speed.smaller_plan(whole, rows=10, depth=5, most=10**9) == ({**whole, "updates": 1}, 3.0)
    small, scale = speed.smaller_plan(whole, rows=10, depth=5, most=400)
    assert (small, scale) == ({"horizon": 4, "rollouts": 2, "updates": 1}, 150.0)
    small, scale = speed.smaller_plan(whole, rows=10, depth=5, most=100)
    assert (small, scale) == ({"horizon": 2, "rollouts": 1, "updates": 1}, 600.0)


def test_a_plan_for_machines_with_gpus_can_be_made_on_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: None
) -> None:
    asked = list[str]()
    monkeypatch.setattr(predict_module, "update_seconds", lambda *given: asked.append(given[-1].device) or 1e-3)
    monkeypatch.setattr(predict_module.torch.cuda, "is_available", lambda: False)
    wants = ["resources.actor={cpus: 1, gpus: 0.5}"]
    cost = predict(plan(tmp_path, Archive(), sets=wants), Archive())
    assert set(asked) == {"cpu"}
    assert cost.gpu_hours > 0
    assert "no GPU here" in cost.notices[0]
    assert predict(plan(tmp_path, Archive()), Archive()).notices == ()
