"""How many processes the kernel has killed for want of memory, on each node.

Of such a process Ray knows only that it ended. The kernel counts what it kills, in the control group of a container or
of a job, else on the whole machine. A node's count when the driver first saw it is compared with that at a death.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

__all__ = ["KernelKills", "kills_here"]

GROUPS, MOUNT, MACHINE = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"), Path("/proc/vmstat")
ANSWER_SECONDS = 10.0  # for one node; a worker that is idle answers at once, a new one starts in seconds


def kills_here() -> int:
    """Return how many this process' control group, or else this machine, has had; 0 if the kernel does not say."""
    for file in [*_of_groups(), MACHINE]:
        with contextlib.suppress(OSError):
            if found := re.search(r"^oom_kill (\d+)$", file.read_text(encoding="utf-8"), re.MULTILINE):
                return int(found[1])
    return 0


def _of_groups() -> Iterator[Path]:
    """Yield the files that may count for the groups of this process, of either version of control groups."""
    with contextlib.suppress(OSError):
        for line in GROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                yield MOUNT / path.strip("/") / "memory.events"
            elif "memory" in controllers.split(","):
                yield MOUNT / "memory" / path.strip("/") / "memory.oom_control"
                yield MOUNT / "memory" / "memory.oom_control"  # in a container, of itself


class KernelKills:
    """Tells whether the kernel has killed something on a node since the driver first saw that node.

    Args:
        alone: Ray runs on this machine, started by this process: nobody else need be asked.
    """

    def __init__(self, *, alone: bool) -> None:
        self._here = kills_here() if alone else None
        self._before: dict[str, Any] = {}  # node → the reference to its first count
        self.watch()

    def watch(self) -> None:
        """Have nodes that are new count."""
        if self._here is None:
            for node in ray.nodes():
                if node["Alive"] and node["NodeID"] not in self._before:
                    self._before[node["NodeID"]] = _ask(node["NodeID"])

    def any_on(self, address: str) -> bool:
        """Return whether there were any on the node at this IP address; False if it does not answer."""
        if self._here is not None:
            return kills_here() > self._here
        nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeManagerAddress"] == address]
        return any(self._more(node["NodeID"]) for node in nodes)  # several only where they share a machine

    def _more(self, node: str) -> bool:
        with contextlib.suppress(RayError):
            if node in self._before:
                before, now = ray.get([self._before[node], _ask(node)], timeout=ANSWER_SECONDS)
                return bool(now > before)
        return False


def _ask(node: str) -> Any:
    """Return the reference to a node's count; the task takes no processor, so that it waits for none."""
    where = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    return ray.remote(kills_here).options(num_cpus=0, max_retries=0, scheduling_strategy=where).remote()
