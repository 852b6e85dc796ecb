"""What waits for what, against the questions asked anew of everything."""

import random
from dataclasses import replace

from cluster.units import Pack, Unit
from sweeps.execution.waiting import Waiting
from tests.support.recorded_sweeps import baseline, component, mpc, task

TASKS = (task("first"), task("second"))


def sweep(number: int, seeds: int) -> list[Pack]:
    """Return packs of components, of components built on others, and of cells, on one of two tasks."""
    own, of = str(number), TASKS[number % 2]
    parts = [[component(own, name, seed, of) for seed in range(seeds)] for name in ("rebrac", "world_model", "reward")]
    built = [replace(component(own, "value", unit.seed, of), parts={"rebrac": unit.key}) for unit in parts[0]]
    cells = [
        [baseline(own, "rebrac", seed, of) for seed in range(seeds)],
        [mpc(own, seed, of) for seed in range(seeds)],
    ]
    return [Pack(tuple(units)) for units in [*parts, built, *cells]]


def test_each_pack_is_released_once_all_its_parts_are_settled_whatever_their_order() -> None:
    packs = [pack for number in range(6) for pack in sweep(number, seeds=2)]
    units: list[Unit] = [unit for pack in packs for unit in pack.units]
    waiting, settled, left = Waiting(units), set[str](), list(packs)
    for pack in packs:
        waiting.add(pack)
    random.Random(0).shuffle(units)
    for unit in units:
        training = {each.key for each in units if each.kind == "component"} - settled
        ready = [pack for pack in left if training.isdisjoint(k for each in pack.units for k in each.parts.values())]
        assert {pack.id for pack in waiting.released()} == {pack.id for pack in ready}
        left = [pack for pack in left if pack not in ready]
        trained = {of.name for of in TASKS} - {each.task.name for each in units if each.key in training}
        cells = [each for each in units if each.kind == "cell" and each.key not in settled]
        assert waiting.has_trained_task() == any(each.task.name in trained for each in cells)
        for _ in range(2):  # two sweeps may settle the same unit
            waiting.settle(unit)
        settled.add(unit.key)
    assert {pack.id for pack in waiting.released()} == {pack.id for pack in left}
    assert not waiting.has_trained_task()


def test_a_part_that_is_settled_or_not_planned_is_not_waited_for() -> None:
    *training, _, cells = sweep(0, seeds=1)
    waiting = Waiting([unit for pack in training[1:3] for unit in pack.units])  # the policy was trained before
    waiting.add(cells)
    assert not list(waiting.released())
    waiting.settle(training[1].units[0])
    waiting.settle(training[2].units[0])
    assert list(waiting.released()) == [cells]


def test_what_fails_while_packs_are_released_releases_others_at_once() -> None:
    policy, _, _, value, *_ = sweep(0, seeds=1)
    late = Pack((replace(mpc("late", 0), parts={"value": value.keys[0]}),))
    waiting = Waiting([*policy.units, *value.units])
    for pack in (value, late):
        waiting.add(pack)
    waiting.settle(policy.units[0])
    seen = []
    for pack in waiting.released():
        seen.append(pack)
        waiting.settle(pack.units[0])  # it fails with its part
    assert seen == [value, late]


def test_a_pack_added_after_its_parts_were_settled_is_released_at_once() -> None:
    *training, _, cells = sweep(0, seeds=1)
    units = [unit for pack in training for unit in pack.units]
    waiting = Waiting(units)
    for unit in units:
        waiting.settle(unit)
    waiting.add(cells)
    assert list(waiting.released()) == [cells]
