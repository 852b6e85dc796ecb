"""A pack whose nodes are lost under it, and one that the kernel kills, on a Ray cluster of three nodes."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.ray import start as ray_cluster
from cluster.ray.attempts import Finished
from cluster.ray.kernel_kills import KernelKills
from cluster.ray.pool import Pool
from cluster.store import Store
from cluster.units import ComponentUnit, Pack, TaskRef
from tests.support.ray_nodes import Nodes, ray_nodes

pytestmark = [pytest.mark.services, pytest.mark.slow]

TASK = TaskRef("hopper", "Hopper-v4", "/data/hopper.hdf5", "0" * 64, "3.4.0", "hopper", None, 1000, "local")
PACK = Pack((ComponentUnit("long-s0", "long", {}, TASK, 0),))
LOSSES = 3  # more than the usual retries
PATIENCE = 120.0  # seconds; a lost node is noticed within 15


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """The cluster, its head's processor taken."""
    with ray_nodes(3, {}) as nodes:
        ray_cluster.start(nodes.address)
        head = next(node["NodeID"] for node in ray.nodes() if "node:__internal_head__" in node["Resources"])
        where = NodeAffinitySchedulingStrategy(node_id=head, soft=False)
        idler = ray.remote(Idler).options(num_cpus=1, scheduling_strategy=where).remote()
        ray.get(idler.is_there.remote())
        yield nodes
        ray_cluster.stop()


class Idler:
    """Takes a processor."""

    def is_there(self) -> bool:
        return True


def waiting(folder: Path, tries: int) -> Callable:
    """Return what computes a pack: at its n-th try it is n tenths done, and waits; after so many tries it ends."""
    place = str(folder)

    def compute(store, pack, device, threads, on_progress):  # nested: pickled by value, workers see no tests
        import os
        import time
        from pathlib import Path

        (Path(place) / f"try-{os.getpid()}").touch()
        begun = len(list(Path(place).glob("try-*")))
        on_progress(begun / 10)
        while begun <= tries:
            time.sleep(0.1)
        return {key: lambda target: (target / "manifest.json").write_text("{}") and None for key in pack.keys}

    return compute


def wait_for_tenths(pool: Pool, number: int) -> None:
    """Poll until the pack has reported so many tenths."""
    deadline = time.monotonic() + PATIENCE
    while pool.heard() != {PACK.id: (number / 10, "")}:
        assert not pool.poll(0.1)
        assert time.monotonic() < deadline


def the_end(pool: Pool) -> Finished:
    """Poll until the pack has ended."""
    deadline = time.monotonic() + PATIENCE
    while not (ended := pool.poll(1.0)):
        assert time.monotonic() < deadline
    return ended[0]


def test_a_pack_outlives_more_nodes_than_it_has_retries(nodes: Nodes, tmp_path: Path) -> None:
    store, draw = Store(tmp_path / "runs"), random.Random("preemptions")
    pool = Pool(store, slots=1, retries=0, compute=waiting(tmp_path, LOSSES))
    pool.submit(PACK)
    for number in range(1, LOSSES + 1):
        wait_for_tenths(pool, number)
        nodes.lose(draw)
        nodes.add()
    assert the_end(pool).error is None
    said = [each.error or "" for each in pool.tried_again()]
    assert len(said) == LOSSES
    assert all("node" in line and "lost" in line for line in said), said
    assert store.keys("component") == ["long-s0"]
    assert store.failed() == set()
    pool.close()


def test_a_node_is_asked_whether_its_kernel_killed_the_process(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No kernel kills here: the file in which it counts is changed in the workers' place."""
    counter = tmp_path / "count"
    counter.write_text("7")
    monkeypatch.setattr("cluster.ray.kernel_kills.kills_here", counting(counter))
    kills = KernelKills(alone=False)
    pool = Pool(Store(tmp_path / "runs"), slots=1, kernel_killed=kills.any_on, compute=waiting(tmp_path, 2))
    pool.submit(PACK)
    for number, count in ((1, "7"), (2, "8")):
        wait_for_tenths(pool, number)
        counter.write_text(count)
        newest = max(tmp_path.glob("try-*"), key=lambda file: file.stat().st_mtime_ns)
        os.kill(int(newest.name.removeprefix("try-")), signal.SIGKILL)
    assert the_end(pool).error is None
    first, second = (each.error or "" for each in pool.tried_again())
    assert first == "the worker died (killed, out of memory, or it crashed)"
    assert second.startswith("the kernel has killed processes on 127.0.0.1 for want of memory")
    pool.close()


def counting(counter: Path) -> Callable[[], int]:
    """Return what reads the count from a file."""
    place = str(counter)

    def count() -> int:
        from pathlib import Path

        return int(Path(place).read_text())

    return count
