"""What packs are granted by the memory that others of their kind took, and a pack that ran out of it."""

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.memory import Memory
from cluster.ray.gpu_share import CONTEXT_BYTES
from cluster.ray.grant import Grant
from cluster.store import Store
from cluster.units import CellUnit, ComponentUnit, Kind, Pack, TaskRef
from sweeps.execution.packing import Node, Packing, memory_kind
from sweeps.spec.schema import Resources

GIB = 2**30
TASK = TaskRef("hopper", "Hopper-v4", "/data/hopper.hdf5", "0" * 64, "3.4.0", "hopper", None, 1000, "local")
CONFIG = {"hidden_dim": 256, "batch_size": 1024, "learning_rate": 1e-3, "steps": 1000, "evaluations": 10}
PLANNER = {"kind": "policy", "horizon": 3, "rollouts": 8, "step_size": 1e-6, "prior": 0.0}
BIG = [Node(16, 0, 64 * GIB)]  # 4 GiB a core
GPUS = [Node(16, 1, 64 * GIB), Node(16, 1, 64 * GIB)]


def training(name: str = "rebrac", seeds: int = 2, task: TaskRef = TASK, **config: Any) -> Pack:
    return Pack(
        tuple(ComponentUnit(f"{name}-s{seed}{config}", name, {**CONFIG, **config}, task, seed) for seed in range(seeds))
    )


def playing(**planner: Any) -> Pack:
    unit = CellUnit("k", "mpc", "mpc", {**PLANNER, **planner}, "rebrac", {"rebrac": CONFIG}, {}, TASK, 0, 10, 0)
    return Pack((unit,))


def packing(store: Store, nodes: list[Node], given: tuple[Kind, ...] = (), **resources: Any) -> Packing:
    wants = Resources.model_validate(resources).given(sum(node.gpus for node in nodes))
    return Packing(store, wants, nodes, frozenset(given))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_without_a_measurement_a_pack_gets_the_share_that_is_given(store: Store) -> None:
    known = packing(store, BIG, actor={"cpus": 2})
    assert known.grant(training()) == Grant(2, 0, 8 * GIB)
    assert known.grant(playing()) == Grant(1, 0, 4 * GIB)
    assert packing(store, GPUS).grant(training()) == Grant(1, 0.25, 4 * GIB)


@pytest.mark.parametrize(
    ("peak", "granted", "at_once"),
    [(1, 4, 16), (3.2, 4, 16), (3.3, 8, 8), (6.5, 16, 4), (30, 64, 1), (51.2, 64, 1), (200, 64, 1)],  # GiB; margin 1.25
)
def test_the_first_packs_peak_decides_how_many_share_a_machine(
    store: Store, peak: float, granted: int, at_once: int
) -> None:
    known = packing(store, BIG)
    known.learn(training(), Memory(int(peak * GIB)))
    grant = known.grant(training())
    assert grant.memory == granted * GIB
    assert BIG[0].fits(grant) == at_once
    assert grant.slots == 16 / at_once
    assert known.grant(training(hidden_dim=512)) == known.base("component")  # another kind


def test_processes_never_get_more_memory_together_than_there_is(store: Store) -> None:
    draw = random.Random(0)
    for trial in range(50):
        nodes = [Node(draw.choice([2, 7, 16]), 0, draw.randint(1, 200) * GIB) for _ in range(draw.randint(1, 3))]
        known = packing(Store(store.root / str(trial)), nodes)
        need = int(draw.uniform(0.01, 100) * GIB)
        known.learn(training(), Memory(need))
        grant = known.grant(training())
        largest = max(node.memory for node in nodes)
        assert grant.memory >= min(1.25 * need, largest)
        assert grant.memory < max(2.5 * need, 1 + known.base("component").memory)  # at most twice what it needs
        for node in nodes:
            assert node.fits(grant) * grant.memory <= node.memory
        assert any(node.fits(grant) for node in nodes)


def test_on_a_gpu_as_many_packs_share_it_as_fit_and_at_most_the_cap(store: Store) -> None:
    draw = random.Random(1)
    for trial, cap in itertools.product(range(40), (1, 4, 16)):
        known = packing(Store(store.root / f"{trial}-{cap}"), GPUS, packing={"most_per_gpu": cap})
        total, peak = draw.choice([16, 80, 141]) * GIB, int(draw.uniform(0.1, 90) * GIB)
        known.learn(training(), Memory(GIB, peak, total))
        sharing = 1 / known.grant(training()).gpus
        each = 1.25 * peak + CONTEXT_BYTES
        assert sharing in (1, 2, 4, 8, 16)
        assert sharing <= cap
        assert sharing == 1 or sharing * each <= total
        assert sharing * 2 > cap or 2 * sharing * each > total, "more would fit"


def test_nothing_is_asked_of_a_node_that_could_not_give_it(store: Store) -> None:
    nodes = [Node(0, 0, 500 * GIB), Node(64, 0, 500 * GIB), Node(16, 1, 64 * GIB)]  # a head, and one without a GPU
    known = packing(store, nodes)
    assert known.grant(training()).memory == 4 * GIB  # of the node that has a GPU
    known.learn(training(), Memory(300 * GIB, GIB, 80 * GIB))
    assert known.grant(training()).memory == 64 * GIB
    known.set_apart(playing())
    assert known.again() == [playing()]
    assert sum(node.fits(known.grant(playing())) for node in nodes) == 1


def test_a_share_of_a_gpu_that_the_user_chose_is_never_made_smaller(store: Store) -> None:
    known = packing(store, GPUS, given=("component",), actor={"gpus": 0.5}, packing={"most_per_gpu": 16})
    for pack in (training(), playing()):
        known.learn(pack, Memory(GIB, GIB, 80 * GIB))
    assert known.grant(training()).gpus == 0.5
    assert known.grant(playing()).gpus == 1 / 16
    known.learn(training(), Memory(GIB, 60 * GIB, 80 * GIB))
    assert known.grant(training()).gpus == 1
    two = packing(Store(store.root / "two"), GPUS, given=("component",), actor={"gpus": 2})
    two.learn(training(), Memory(GIB, GIB, 80 * GIB))
    assert two.grant(training()).gpus == 2


def test_later_runs_know_what_earlier_ones_measured_and_the_largest_peak_counts(store: Store) -> None:
    for peak in (3, 7, 5):
        packing(store, BIG).learn(training(), Memory(peak * GIB, peak, 100))
    assert packing(store, BIG).grant(training()).memory == 16 * GIB  # 7 * 1.25
    (file,) = (store.root / "memory").iterdir()
    assert file.name.startswith("rebrac-")
    file.write_text("damaged")
    assert packing(store, BIG).grant(training()).memory == 4 * GIB


def test_switched_off_every_pack_gets_the_share_that_is_given_and_no_account_of_memory_is_kept(store: Store) -> None:
    known = packing(store, GPUS, packing={"by_memory": False})
    known.learn(training(), Memory(60 * GIB, 70 * GIB, 80 * GIB))
    assert known.grant(training()) == Grant(1, 0.25, 0)


def test_no_more_processes_run_than_concurrency_allows_however_little_they_need(store: Store) -> None:
    small = Memory(GIB, GIB // 10, 80 * GIB)
    free, limited = (packing(store, GPUS, packing={"most_per_gpu": 16}, **more) for more in ({}, {"concurrency": 8}))
    free.learn(training(), small)
    assert free.grant(training()).slots == 0.25  # 32 run where 8 did
    assert limited.grant(training()).slots == 1


def test_what_changes_no_size_is_of_the_same_kind() -> None:
    one = memory_kind(training(), "cpu")
    assert memory_kind(training(learning_rate=1e-4, steps=10, evaluations=0), "cpu") == one
    assert memory_kind(training(task=replace(TASK, name="other", dataset="/b.hdf5")), "cpu") == one
    walker = replace(TASK, env_id="Walker2d-v4")
    others = [training("bc"), training(seeds=3), training(hidden_dim=64), training(task=walker)]
    kinds = {memory_kind(pack, "cpu") for pack in others} | {one, memory_kind(training(), "cuda")}
    assert len(kinds) == 6
    assert memory_kind(playing(step_size=1e-5), "cpu") == memory_kind(playing(), "cpu")
    assert memory_kind(playing(), "cpu") != memory_kind(playing(rollouts=64), "cpu")


def test_a_pack_that_ran_out_of_memory_is_tried_alone_unless_its_kind_is_known_by_then(store: Store) -> None:
    known = packing(store, GPUS)
    first, second = training(), training(learning_rate=2e-3)
    known.set_apart(first)
    known.set_apart(second)
    assert known.grant(training(learning_rate=3e-3)) == Grant(1, 0.5, 8 * GIB, slots=2)  # the next gets twice as much
    assert known.again() == [first]
    assert replace(known.grant(first), slots=1) == Grant(1, 1.0, 64 * GIB)
    assert known.has_apart()
    known.learn(first, Memory(10 * GIB, 30 * GIB, 80 * GIB))
    assert known.again() == [second]
    assert replace(known.grant(second), slots=1) == Grant(1, 0.5, 16 * GIB)
    assert not known.has_apart()
    known.set_apart(second)  # it needs more than the first did
    assert known.again() == [second]
    assert replace(known.grant(second), slots=1) == Grant(1, 1.0, 64 * GIB)


def test_a_smaller_node_that_joins_gets_packs_too_and_one_without_cores_changes_nothing(store: Store) -> None:
    known = packing(store, [Node(4, 0, 16 * GIB)])
    assert known.grant(training()).memory == 4 * GIB
    smaller = Node(4, 0, 15 * GIB)
    known.see([Node(4, 0, 16 * GIB), smaller])
    assert known.grant(training()).memory == 15 * GIB // 4
    assert smaller.fits(known.grant(training()))
    known.see([Node(0, 0, GIB)])  # the head, when all others are gone
    assert known.grant(training()).memory == 15 * GIB // 4
