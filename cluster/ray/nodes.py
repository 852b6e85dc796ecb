"""What every node of a cluster has to have, checked before work starts: one small task on each.

A node with other code would publish under keys that are not its own, one that sees another folder under the storage's
path would compute for nobody, and one without the dataset would fail every pack it gets.
"""

import platform
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, NodeDiedError, RayError, TaskUnschedulableError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.provenance import code_digest, host_name
from cluster.store import Store, open_store
from mpcwdwm.errors import UserError

__all__ = ["Difference", "Facts", "check_nodes", "differences", "facts_here"]

PACKAGES = ("mpcwdwm", "ray", "torch", "numpy", "gymnasium", "mujoco")
ANSWER_SECONDS = 120.0  # for all nodes together; a worker starts in seconds, on a busy node in half a minute
CLOCK_SECONDS = 30.0  # leases behind a URL bear a minute (`cluster.store.lease`)
LOST = (NodeDiedError, TaskUnschedulableError, WorkerCrashedError)
FREE_SHARE = 0.5  # of a GPU's memory: with less, somebody else is on it


@dataclass(frozen=True)
class Facts:
    """What a node answers."""

    host: str
    versions: dict[str, str]  # "python", "code" and `PACKAGES`; "none" where a package is not installed
    time: float  # of the node's clock, seconds since 1970
    storage: str = ""  # what is wrong with it, "" if nothing is
    datasets: dict[str, int] = field(default_factory=dict)  # path → bytes; -1: there is none that can be read
    gpus: tuple[tuple[int, int], ...] = ()  # free and total MiB of each, as nvidia-smi says


@dataclass(frozen=True)
class Difference:
    """One thing in which a node is not as the driver's machine is."""

    node: str
    what: str
    expected: str
    found: str
    hinders: bool = True  # whether work there would fail, or be wrong

    def __str__(self) -> str:
        """Return node, what, expected and found in a line."""
        return f"node {self.node}: {self.what} should be {self.expected}, found {self.found}"


def facts_here(storage: str, mark: str, datasets: Sequence[str], *, gpus: bool = False) -> Facts:
    """Return the facts of this machine.

    Args:
        storage: location of the store.
        mark: name of a file that the driver has written there.
        datasets: paths that packs will read.
        gpus: ask nvidia-smi.
    """
    versions = {"python": ".".join(platform.python_version_tuple()[:2]), "code": code_digest()}
    for name in PACKAGES:
        try:
            # torch's build differs where only some nodes have GPUs: 2.13.0+cpu
            versions[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            versions[name] = "none"
    found = {path: _size(Path(path)) for path in datasets}
    return Facts(host_name(), versions, time.time(), _storage_fault(storage, mark), found, _gpus() if gpus else ())


def differences(node: str, here: Facts, there: Facts, asked: float, answered: float) -> list[Difference]:
    """Return in what a node is not as this machine is.

    Args:
        node: its name in messages.
        here: the driver's facts.
        there: the node's.
        asked: when the driver asked, by its own clock.
        answered: when the answer came.
    """
    found = [
        Difference(node, "code of mpcwdwm" if name == "code" else name, expected, there.versions.get(name, "none"))
        for name, expected in here.versions.items()
        if there.versions.get(name) != expected
    ]
    if there.storage:
        found.append(Difference(node, "storage", "the driver's, readable and writable", there.storage))
    for path, size in here.datasets.items():
        if there.datasets.get(path, -1) != size:
            has = there.datasets.get(path, -1)
            found.append(Difference(node, path, f"{size} bytes", "no such file" if has < 0 else f"{has} bytes"))
    # by its clock it answered at `time`, between the two: what is beyond them is the least offset
    offset = max(asked - there.time, there.time - answered)
    if offset > CLOCK_SECONDS:
        shown = f"{offset:.0f} s {'behind' if there.time < asked else 'ahead'}"
        found.append(Difference(node, "clock", f"within {CLOCK_SECONDS:g} s of the driver's", shown, hinders=False))
    for number, (free, total) in enumerate(there.gpus):
        if free < FREE_SHARE * total:
            shown = f"{free / 1024:.1f} GiB of {total / 1024:.1f} GiB free"
            found.append(Difference(node, f"memory of GPU {number}", "mostly free", shown, hinders=False))
    return found


def check_nodes(store: Store, datasets: Sequence[str]) -> list[Difference]:
    """Ask every node of the connected cluster; a single node is the driver's own and is not asked.

    Args:
        store: where artifacts lie.
        datasets: paths that packs will read.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return []
    mark = f"checks/{host_name()}-{time.time_ns()}"
    store.write_text(mark, "seen")
    try:
        here = facts_here(store.location, mark, datasets)
        asked = time.time()
        answers = {node["NodeID"]: _ask(node, store.location, mark, datasets) for node in nodes}
        ray.wait(list(answers.values()), num_returns=len(answers), timeout=ANSWER_SECONDS)
        found = list[Difference]()
        hosts = Counter(str(node["NodeManagerHostname"]) for node in nodes)
        for node in nodes:
            name = str(node["NodeManagerHostname"])
            if hosts[name] > 1:  # of one machine, or of several that were given the same name
                name = f"{name} ({node['NodeManagerAddress']}, {node['NodeID'][:8]})"
            found += _answer(name, here, answers[node["NodeID"]], asked)
        return found
    finally:
        store.delete_tree(mark)


def _ask(node: Mapping[str, Any], storage: str, mark: str, datasets: Sequence[str]) -> Any:
    """Return the reference to a node's answer; the task takes no processor, so that it waits for none."""
    where = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
    task = ray.remote(facts_here).options(num_cpus=0, max_retries=0, scheduling_strategy=where)
    return task.remote(storage, mark, list(datasets), gpus=bool(node["Resources"].get("GPU")))


def _answer(name: str, here: Facts, reference: Any, asked: float) -> list[Difference]:
    """Return the differences of a node, one if it gave no answer."""
    try:
        there = ray.get(reference, timeout=0)
    except GetTimeoutError:
        return [Difference(name, "answer", f"within {ANSWER_SECONDS:g} s", "none")]
    except LOST:  # its processes are gone, though Ray may count it among the living for some seconds
        return [Difference(name, "answer", "what it has installed", "that it was lost meanwhile", hinders=False)]
    except RayError as error:  # such as a package without this module
        return [Difference(name, "answer", "what it has installed", str(error).strip().splitlines()[-1])]
    return differences(name, here, there, asked, time.time())


def _size(path: Path) -> int:
    """Return a file's bytes; -1 if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.read(1)
        return path.stat().st_size
    except OSError:
        return -1


def _storage_fault(storage: str, mark: str) -> str:
    """Return what is wrong with the store as this machine sees it."""
    try:
        store = open_store(storage)
        if not store.exists(mark):
            return f"another place at '{storage}', without the driver's file"
        store.check()
    except (UserError, OSError) as error:
        return str(error)
    return ""


def _gpus() -> tuple[tuple[int, int], ...]:
    """Return free and total MiB of each GPU; nothing if nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=10, check=True).stdout
        rows = [line.split(",") for line in said.splitlines() if line.strip()]
        return tuple((int(free), int(total)) for free, total in rows)
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()
