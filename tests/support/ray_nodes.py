"""A Ray cluster of several nodes on this machine, of which some can be lost.

Each node has a cache folder of its own, as a machine has. Its processes carry a mark, as `disturbed_sweeps` says.
"""

import contextlib
import random
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from cluster.ray import start as ray_start
from tests.support.disturbed_sweeps import ACTOR, MARK, TRIAL, marked

__all__ = ["Nodes", "ray_nodes"]

SIZE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": ray_start.OBJECT_STORE_BYTES, "include_dashboard": False}


class Nodes:
    """The nodes, the head among them."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        from ray.cluster_utils import Cluster

        self.mark = uuid.uuid4().hex
        self._folder, self._environment, self._number = folder, environment, 0
        self._cluster = Cluster()
        self._others: list[Any] = []  # nodes but the head, in the order in which they joined
        self.add()
        self.address = str(self._cluster.address)

    def add(self) -> None:
        """Have another node join."""
        self._number += 1
        cache = self._folder / f"node-{self._number}"
        variables = {**self._environment, MARK: self.mark, "XDG_CACHE_HOME": str(cache)}
        node = self._cluster.add_node(**SIZE, temp_dir=str(self._folder), env_vars=variables)
        if self._number > 1:
            self._others.append(node)

    def lose(self, draw: random.Random) -> set[int]:
        """Kill all of a node, as when a machine is gone; return the pids. Never the head, if possible one at work."""
        node = draw.choice([node for node in self._others if _working(node)] or self._others)
        self._others.remove(node)
        raylet = _raylet(node)
        gone = [raylet, *raylet.children(recursive=True)]
        for process in gone:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        node.all_processes["raylet"][0].process.wait()  # as a zombie it would keep its workers from ending
        return {process.pid for process in gone}

    def working(self) -> int:
        """Return how many processes pretrain or evaluate on nodes other than the head."""
        return sum(map(_working, self._others))

    def close(self) -> None:
        """End everything."""
        with contextlib.suppress(Exception):  # of nodes that are gone
            self._cluster.shutdown()
        for process in marked(self.mark):
            with contextlib.suppress(psutil.Error):
                process.kill()


def _working(node: Any) -> int:
    """Return how many processes pretrain or evaluate on a node."""
    found = 0
    with contextlib.suppress(psutil.Error):
        for process in _raylet(node).children(recursive=True):
            with contextlib.suppress(psutil.Error, IndexError):
                found += process.cmdline()[0].startswith((*ACTOR, *TRIAL))
    return found


def _raylet(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


@contextlib.contextmanager
def ray_nodes(count: int, environment: Mapping[str, str]) -> Iterator[Nodes]:
    """Run a cluster of so many nodes, of one processor each, until the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # a socket's path may have 107 characters
    with ray_start._loopback_only():
        nodes = Nodes(folder, environment)
        try:
            for _ in range(count - 1):
                nodes.add()
            yield nodes
        finally:
            nodes.close()
            shutil.rmtree(folder, ignore_errors=True)
