"""Prediction: what is missing is timed, what was timed is remembered, and sums and slots are right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.provenance import host_name
from cluster.units import CellUnit, ComponentUnit
from mpcwdwm.components import component_config
from mpcwdwm.errors import UserError
from mpcwdwm.planning import PLANNERS, Planner, planner_config
from mpcwdwm.training.loop import train
from sweeps.cost import predict as predict_module
from sweeps.cost import speed, works
from sweeps.cost.machine import PLAYING, Crowding, Machine, remember_machine
from sweeps.cost.predict import NO_BENCH, RECORD_BYTES, RESULT_BYTES, Lengths, makespan, predict, slots
from sweeps.cost.works import ONE_CORE, Acts, Cost, Place, Updates, Work
from sweeps.plan.plan import Plan, build_plan
from sweeps.spec.schema import Resources, Share
from sweeps.spec.spec import load_spec

SPEC = """
name: mine
tasks: [hopper-medium-replay-mini-ppo-v0]
seeds: 2
components: {rebrac: {hidden_dim: 16, steps: 1000}, world_model: {hidden_dim: 16}, reward: {hidden_dim: 16}}
planners: {mpc: {kind: policy, horizon: 2, rollouts: 3, updates: [1, 2]}}
baselines: [rebrac]
resources: {concurrency: 1}
compute: {capture: eager}
"""
EAGER = {"path": "eager", "tf32": False}
DATA_LENGTH = 50_000 / 206  # steps of a mean episode of the dataset
AROUND = Machine()  # what is assumed of a machine that was never measured


class Archive:
    """A store that holds manifests."""

    notices: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.manifests: dict[str, dict[str, dict[str, Any]]] = {"component": {}, "cell": {}}

    def keys(self, kind: str) -> list[str]:
        return sorted(self.manifests[kind])

    def has(self, kind: str, key: str) -> bool:
        return key in self.manifests[kind]

    def manifest(self, kind: str, key: str) -> dict[str, Any]:
        return self.manifests[kind][key]

    def failed(self) -> set[str]:
        return set()

    def publish_component(self, unit: ComponentUnit, pack: list[str], per_second: float, host: str) -> None:
        self.manifests["component"][unit.key] = {
            "component": unit.component, "config": unit.config, "obs_dim": 11, "act_dim": 3, "packed_with": pack,
            "device": "cpu", "threads": 1, "updates_per_second": per_second, "host": host, "compute": EAGER,
        }  # fmt: skip

    def publish_result(
        self, unit: CellUnit, pack: list[str], seconds: float, length: float, longest: int | None = None
    ) -> None:
        self.manifests["cell"][unit.key] = {
            "planner": unit.planner, "configs": unit.configs, "episodes": unit.episodes, "packed_with": pack,
            "task": {"name": unit.task.name, "env_id": unit.task.env_id, "max_episode_steps": 1000},
            "device": "cpu", "threads": 1, "seconds": seconds, "host": host_name(),
            "episodes_mean": {"length": length, "normalized_score": 1.0, "return": 1.0}, "compute": EAGER,
            **({} if longest is None else {"longest_episode": longest}),
        }  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def plan(folder: Path, store: Any, **options: Any) -> Plan:
    (folder / "s.yaml").write_text(SPEC)
    return build_plan(load_spec(folder / "s.yaml", **options), store)


def costs(monkeypatch: pytest.MonkeyPatch, update: Cost, frozen: Cost, planned: Cost) -> list[str]:
    """Let every work of a sort cost the same; return the list to which the devices asked for are added."""
    asked = list[str]()

    def cost(work: Work, place: Place) -> Cost:
        asked.append(place.device)
        return update if isinstance(work, Updates) else planned if work.planner else frozen

    monkeypatch.setattr(predict_module, "predicted", lambda works: [cost(*each) for each in works])
    return asked


@pytest.fixture
def constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which an update takes a millisecond and a planned step ten; nothing else takes time."""
    costs(monkeypatch, update=Cost(1e-3), frozen=Cost(0.0), planned=Cost(1e-2))
    monkeypatch.setattr(predict_module, "env_cost", lambda *a: Cost(0.0))
    monkeypatch.setattr(predict_module, "Machine", lambda: Machine(pack=0.0))


@pytest.mark.usefixtures("constant")
def test_time_is_steps_times_seconds_over_the_processes_that_fit(tmp_path: Path) -> None:
    made = predict(plan(tmp_path, Archive()), Archive())
    assert (made.seconds["start"], made.seconds["end"]) == (AROUND.start, AROUND.end)
    assert made.seconds["components"] == pytest.approx((1_000 + 200_000 + 200_000) * 1e-3)
    steps = 1.5 * DATA_LENGTH
    assert made.seconds["cells"] == pytest.approx(AROUND.trial + 2 * steps * 1e-2)
    assert sum(made.packs.values()) == pytest.approx(401 + 2 * steps * 1e-2)
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
    assert learnt.seconds["components"] == pytest.approx(1_000 / 10 + 400)
    for unit in pair:
        store.publish_component(unit, [u.key for u in pair], per_second=10.0, host="another machine")
    assert predict(plan(tmp_path, store), store).seconds["components"] == pytest.approx(1 + 400)


@pytest.mark.usefixtures("constant")
def test_episode_lengths_and_speed_of_finished_results_are_used(tmp_path: Path) -> None:
    store = Archive()
    before = plan(tmp_path, store, seeds="7,8")
    pair = [cell for cell in before.cells if cell.planner and cell.planner["updates"] == 1]
    for cell in pair:  # 12 s for two seeds together, over 1.5 · 400 steps: 20 ms a step
        store.publish_result(cell, [c.key for c in pair], seconds=6.0, length=400.0)
    made = predict(plan(tmp_path, store), store)
    assert made.seconds["cells"] == pytest.approx(AROUND.trial + 600 * 0.02 + 600 * 0.01)
    for cell, longest in zip(pair, (500, 800), strict=True):  # they took 800 steps together: 15 ms each
        store.publish_result(cell, [c.key for c in pair], seconds=6.0, length=400.0, longest=longest)
    made = predict(plan(tmp_path, store), store)
    assert made.seconds["cells"] == pytest.approx(AROUND.trial + 800 * 0.015 + 800 * 0.01)


def test_the_policy_acts_until_the_longest_episode_ends_an_environment_steps_until_its_own_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs(monkeypatch, Cost(1e-3, first=7.0, point=2.0), frozen=Cost(0.01, first=5.0), planned=Cost(0.02, first=5.0))
    monkeypatch.setattr(predict_module, "env_cost", lambda *a: Cost(1e-3, first=0.1))
    made = plan(tmp_path, Archive())
    lengths = {cell.key: Lengths(mean=100, longest=300 + cell.seed) for cell in made.cells}
    rebrac = [unit for unit in made.components if unit.component == "rebrac"]
    lengths |= {unit.key: Lengths(mean=10, longest=30) for unit in rebrac}
    packs = predict(made, Archive(), lengths).packs
    (frozen, *planned) = sorted(seconds for pack_id, seconds in packs.items() if pack_id.startswith("cell"))
    playing = 20 * 0.1 + 20 * 100 * 1e-3  # ten episodes for each of two seeds
    assert frozen == pytest.approx(5.0 + playing + 301 * 0.01)
    assert planned == pytest.approx([5.0 + playing + 301 * 0.02] * 2)
    curve = 10 * (10 * 0.1 + 30 * 0.01 + 10 * 10 * 1e-3)  # ten points of five episodes for each of two seeds
    trained = sorted(seconds for pack_id, seconds in packs.items() if pack_id.startswith("component"))
    assert trained == pytest.approx([7 + 1 + 20 + curve, 7 + 200 + 20, 7 + 200 + 20])


@pytest.mark.usefixtures("constant")
def test_processes_side_by_side_and_what_surrounds_the_work_are_as_bench_has_stored_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_module, "cores", lambda: 2)
    sets = ["resources.concurrency=2", "components.rebrac.steps=400000"]
    alone = predict(plan(tmp_path, Archive(), sets=sets), Archive())
    assert NO_BENCH in alone.notices
    assert alone.seconds["components"] == pytest.approx(400)
    crowding = Crowding(1, {"rebrac": 1.5, "world_model": 1.1, "reward": 1.2, "planning": 2.0, PLAYING: 3.0})
    remember_machine(Place("cpu", 1), Machine(start=1.0, trial=2.0, pack=0.25, end=3.0, crowding=crowding))
    made = predict(plan(tmp_path, Archive(), sets=sets), Archive())
    assert NO_BENCH not in made.notices
    assert (made.seconds["start"], made.seconds["end"]) == (1.0, 3.0)
    assert made.seconds["components"] == pytest.approx(400 * 1.5 + 0.25)  # beside the other two, one after the other
    steps = 1.5 * DATA_LENGTH
    assert made.seconds["cells"] == pytest.approx(2.0 + steps * 1e-2 * 2.0 + 2 * 0.25)  # one has the baseline before it


def test_crowding_grows_with_every_process_and_an_unknown_kind_takes_the_mean() -> None:
    crowding = Crowding(beside=3, factors={"rebrac": 1.6, "iql": 1.2, "bc": 0.9})
    assert crowding.factor("rebrac", 1) == 1
    assert crowding.factor("rebrac", 2) == pytest.approx(1.2)
    assert crowding.factor("rebrac", 4) == pytest.approx(1.6)
    assert crowding.factor("bc", 4) == 1  # nobody gets faster
    assert crowding.factor("reward", 4) == pytest.approx((1.6 + 1.2 + 0.9) / 3)
    assert Crowding().factor("rebrac", 4) == 1


@pytest.mark.usefixtures("constant")
def test_cells_still_to_be_chosen_are_counted(tmp_path: Path) -> None:
    store = Archive()
    sets = ["evaluation.select={seeds: [8, 9], env_seed: 5, episodes: 10}"]
    made = plan(tmp_path, store, sets=sets)
    predicted = predict(made, store)
    steps = 1.5 * DATA_LENGTH
    playing = 2 * steps * 1e-2  # two candidates; a baseline that takes no time here
    assert predicted.seconds["cells"] == pytest.approx(AROUND.trial + playing + playing / 3)


def test_processes_take_the_next_pack_when_they_are_free() -> None:
    assert makespan([], 4) == 0
    assert makespan([4, 1, 1, 1], 2) == 4
    assert makespan([1, 1, 1, 4], 2) == 5
    assert makespan([3, 2], 1) == 5
    assert makespan([3, 2], 1, between=0.5) == 6


@pytest.mark.usefixtures("constant")
def test_the_longest_component_is_trained_first_as_the_driver_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_module, "cores", lambda: 2)
    sets = [f"components.{name}.steps={steps}" for name, steps in (("rebrac", 1000), ("world_model", 1000))]
    sets += ["components.reward.steps=2000", "components.reward.batch_size=1024", "components.rebrac.batch_size=1024"]
    made = predict(plan(tmp_path, Archive(), sets=[*sets, "resources.concurrency=2"]), Archive())
    assert made.seconds["components"] == pytest.approx(2)  # in the plan's order it would be three


def test_slots_are_limited_by_cores_and_by_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_module, "cores", lambda: 8)
    assert slots(Share(cpus=1), Resources()) == 8
    assert slots(Share(cpus=3), Resources()) == 2
    assert slots(Share(cpus=1), Resources(concurrency=3)) == 3
    assert slots(Share(cpus=20), Resources()) == 1


def test_gpu_hours_follow_the_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs(monkeypatch, Cost(1e-3), Cost(0.0), Cost(0.0))
    store = Archive()
    made = predict(plan(tmp_path, store, sets=["resources.actor.gpus=0.5", "components.rebrac.eval_episodes=0"]), store)
    assert made.gpu_hours == pytest.approx(0.5 * 401 / 3600)


# Measuring, with the real components


def test_a_measurement_is_made_once_and_depends_on_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "MEASURE_SECONDS", 0.02)
    monkeypatch.setattr(speed, "ACT_SECONDS", 0.02)
    store = Archive()
    made = plan(tmp_path, store)
    first = predict(made, store)
    assert first.seconds["components"] > 1
    assert first.seconds["cells"] > AROUND.trial

    def measured_again(*work: Any) -> Cost:
        raise AssertionError(work)

    for name in ("time_updates", "time_acts", "time_env"):
        monkeypatch.setattr(speed, name, measured_again)
    assert predict(made, store) == first
    faster = plan(tmp_path, store, sets=["components.rebrac.actor_lr=1e-5", "planners.mpc.step_size=1"])
    assert list(predict(faster, store).packs.values()) == list(first.packs.values())  # the same work
    with pytest.raises(UserError, match="component 'rebrac' failed when it was timed: AssertionError"):
        predict(plan(tmp_path, store, sets=["components.rebrac.batch_size=7"]), store)


def test_what_is_built_on_others_is_timed_with_those_of_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A penalty needs a model of several networks, which the default one is not."""
    asked = list[Work]()
    monkeypatch.setattr(
        predict_module, "predicted", lambda works: [asked.append(work) or Cost(1.0) for work, _ in works]
    )
    (tmp_path / "mine.yaml").write_text("""{name: mine, tasks: [hopper-medium-replay-mini-ppo-v0], seeds: 1,
      components: {world_model: {kind: mlp, ensemble: [3, 4], hidden_dim: 16}, mopo: {hidden_dim: 16, penalty: 2}},
      planners: {}, baselines: [mopo]}""")
    predict(build_plan(load_spec(tmp_path / "mine.yaml"), Archive()), Archive())
    on_models = [work for work in asked if isinstance(work, Updates) and work.component == "mopo"]
    assert [work.bases["world_model"].to_dict()["ensemble"] for work in on_models] == [3, 4]
    assert on_models[0].group != on_models[1].group
    for work in on_models:
        speed.endless(work, "cpu")  # it was refused


def test_a_long_training_that_will_be_compiled_is_measured_without_compiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[Any]()
    monkeypatch.setattr(
        speed, "time_updates", lambda *work: asked.append(work[0].compute.capture) or Cost(1.0, first=2.0)
    )
    monkeypatch.setattr(works, "execution_of", lambda compute, device, **work: asked.append(work) or "compile")
    config = component_config("rebrac", {}, {"steps": 70_000})
    cost = speed.update_cost(Updates("rebrac", config, (11, 3), 1), Place("cpu", 1))
    assert asked == [{"updates": 70_000, "compile_pays": {"cpu": 20_000, "cuda": 100_000}}, "eager"]
    assert cost == Cost(speed.COMPILED_SHARE["cpu"], first=2.0 + speed.COMPILE_SECONDS)


def test_first_steps_that_compile_are_not_in_the_time_of_a_step() -> None:
    clock = FakeClock(lambda step: 10.0 if step in (0, 3) else 0.01)
    cost = speed.steady(clock.work, clock, together=2, seconds=0.4)
    assert cost.step == pytest.approx(0.01)
    assert cost.first == pytest.approx(2 * 9.99)
    hiccup = FakeClock(lambda step: 5.0 if step == 37 else 0.01)
    assert speed.steady(hiccup.work, hiccup, seconds=0.4).step == pytest.approx(0.01)


def test_steps_of_two_kinds_are_timed_in_equal_numbers() -> None:
    clock = FakeClock(lambda step: 0.03 if step % 2 else 0.01)
    assert speed.steady(clock.work, clock, together=2, seconds=0.4).step == pytest.approx(0.02)
    slow = FakeClock(lambda step: 3.0)
    assert speed.steady(slow.work, slow, together=2, seconds=0.4).step == pytest.approx(3)
    assert slow.done == 8  # what takes long is done a few times only


class FakeClock:
    """Time passes only by working."""

    def __init__(self, seconds_of: Callable[[int], float]) -> None:
        self.seconds_of, self.now, self.done = seconds_of, 0.0, 0

    def __call__(self) -> float:
        return self.now

    def work(self, steps: int) -> None:
        self.now += sum(self.seconds_of(step) for step in range(self.done, self.done + steps))
        self.done += steps


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


def test_an_environment_is_timed_by_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "ACT_SECONDS", 0.01)
    cost = speed.env_cost("Hopper-v4")
    assert 0 < cost.step < cost.first  # making one takes longer than a step


def test_a_plan_for_machines_with_gpus_can_be_made_on_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: None
) -> None:
    asked = costs(monkeypatch, Cost(1e-3), Cost(0.0), Cost(1e-2))
    monkeypatch.setattr(predict_module.torch.cuda, "is_available", lambda: False)
    wants = ["resources.actor={cpus: 1, gpus: 0.5}"]
    cost = predict(plan(tmp_path, Archive(), sets=wants), Archive())
    assert set(asked) == {"cpu"}
    assert cost.gpu_hours > 0
    assert "no GPU here" in cost.notices[0]
    remember_machine(Place("cpu", 1), Machine())
    assert predict(plan(tmp_path, Archive()), Archive()).notices == ()


class Failing(Planner):
    def plan(self) -> Any:
        raise ZeroDivisionError("of one's own")


def test_a_planner_of_ones_own_that_fails_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(PLANNERS, "_things", {"failing": Failing})
    config = {"rebrac": component_config("rebrac", {}, {"hidden_dim": 16})}
    work = Acts(planner_config({"kind": "failing"}), config, "rebrac", (11, 3), 1, 1)
    with pytest.raises(UserError, match="planner kind 'failing' failed when it was timed: ZeroDivisionError: of one"):
        speed.act_cost(work, ONE_CORE)
