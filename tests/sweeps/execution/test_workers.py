"""How the slots are divided, and that nodes which come or go are counted."""

from pathlib import Path
from typing import Any

import pytest

from cluster.store import Store
from cluster.units import CellUnit, Pack, TaskRef
from mpcwdwm.errors import UserError
from sweeps.execution import workers as workers_module
from sweeps.execution.workers import Workers
from sweeps.spec.schema import Resources

TASK = TaskRef("hopper", "Hopper-v4", "/data/hopper.hdf5", "0" * 64, "3.4.0", "hopper", None, 1000, "local")
CELL = CellUnit("k", "mpc", "mpc", None, "rebrac", {}, {}, TASK, 0, episodes=1, env_seed=0)


class Slots:
    """Stands in for both pools: what runs at once at most, and what there is to do."""

    def __init__(self, store: Store, **options: Any) -> None:
        self.slots = options.get("slots", 0)
        self.pending, self.waiting, self.running = 0, 0, 0

    def resize(self, slots: int) -> None:
        self.slots = slots

    allow = resize

    def rest(self) -> None:
        """Do nothing."""

    unstick = rest


def test_nodes_that_join_or_leave_change_how_much_runs_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [2.0]
    clock = [0.0]

    def capacity(cpus: float, gpus: float) -> int:
        if not nodes:
            raise UserError("none fits")
        return int(sum(nodes) / cpus)

    monkeypatch.setattr(workers_module.ray_cluster, "start", lambda *_, **__: None)
    monkeypatch.setattr(workers_module.ray_cluster, "resources", lambda: [(each, 0.0) for each in nodes])
    monkeypatch.setattr(workers_module.ray_cluster, "memories", lambda: [int(each * 2**30) for each in nodes])
    monkeypatch.setattr(workers_module.ray_cluster, "capacity", capacity)
    monkeypatch.setattr(workers_module, "catch_signals", lambda: None)
    monkeypatch.setattr(workers_module, "Pool", Slots)
    monkeypatch.setattr(workers_module, "TrialPool", Slots)
    monkeypatch.setattr(workers_module.time, "monotonic", lambda: clock[0])
    workers = Workers(Store(tmp_path), Resources(concurrency=5), quiet=True, compute=None)
    training, evaluation = workers._pool, workers._trial_pool
    assert training.slots == 2

    def shared(seconds: float) -> tuple[int, int]:
        clock[0] += seconds
        workers.share_out(has_trained_task=False)
        return training.slots, evaluation.slots

    nodes.append(2.0)
    assert shared(1.0) == (2, 0)  # not asked at every round
    assert shared(10.0) == (4, 0)
    evaluation.waiting = 9
    assert shared(0.0) == (0, 4)
    nodes.append(2.0)
    assert shared(11.0) == (0, 5)  # the concurrency of the YAML
    nodes.clear()
    assert shared(11.0) == (0, 5)  # no node at the moment
    pack = Pack((CELL,))
    assert workers._packing.grant(pack).slots == 1  # what waits for a node takes its slot all the same
    nodes.append(1.0)
    assert shared(11.0) == (0, 1)
