"""Starting Ray, on this machine or a cluster, and its capacity in actors."""

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_system_temp_dir
from ray._private import auto_init_hook, ray_constants, ray_logging, services

from cluster.ray.address import FOUND_BY_RAY, HERE, Address, check_reachable, wanted_address
from cluster.ray.gpu_share import fitting
from mpcwdwm.errors import UserError

__all__ = ["THREAD_CAPS", "capacity", "memories", "resources", "start", "stop"]

# Of the libraries that start a thread per core: two actors on two cores would otherwise run four
# threads. A pack raises its own number with torch.set_num_threads.
THREAD_CAPS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
OBJECT_STORE_BYTES = 100 * 2**20  # paths travel through it, not arrays; Ray would take 30 % of the memory
# What Ray prints, on stdout, of processes that are lost: the driver says it in its own words, with the log's name.
LOST = re.compile("A worker died or was killed|killed due to memory pressure")
START_TRIES = 3
TOO_LATE = "timed out during startup"  # Ray's message when its processes were not up after 30 seconds
LEAST_ROOM = 20 * 2**20  # bytes for the logs and sockets of a start
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # actors without a GPU see none, and no warning says so
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}


def start(address: str | None = None, *, quiet: bool = True, cpus: int | None = None) -> None:
    """Connect to the cluster at ``address`` or ``$RAY_ADDRESS``, or start Ray on this machine.

    A local Ray binds to 127.0.0.1, has no dashboard and ends with this process. Workers have their
    math libraries capped to one thread. If Ray runs already, nothing happens.

    Args:
        address: "auto", "host:port" or "ray://host:port"; "local" starts one here whatever is set.
        quiet: do not show in this terminal what workers print.
        cpus: CPUs of a local Ray; all of the machine's by default.

    Raises:
        UserError: no cluster answers at the address within some seconds, or this machine is too busy to start Ray.
    """
    if ray.is_initialized():
        return
    # A thread that still waits for Tune after `stop` would start a Ray of its own. The environment variable for this
    # is read once, when Ray is first imported.
    auto_init_hook.enable_auto_connect = False
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if quiet:
        ray_logging.stdout_deduplicator.skip_re = LOST
    wanted = wanted_address(address)
    options: dict[str, Any] = {
        "runtime_env": {"env_vars": THREAD_CAPS},
        "log_to_driver": not quiet,
        "logging_level": logging.ERROR if quiet else logging.INFO,
    }
    if wanted.text == HERE:
        options |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        _start_here(options)
        return
    wanted = _found(wanted)
    check_reachable(wanted)
    try:
        ray.init(wanted.text, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise wanted.silent(str(error)) from None
    except ImportError as error:
        how = "pip install 'ray[client]', or give host:port" if wanted.text.startswith("ray://") else "install it again"
        raise UserError(f"Ray cannot connect to '{wanted.text}' ({wanted.named_by}): {error}; {how}") from None


def _found(wanted: Address) -> Address:
    """Return the cluster that "auto" means, as Ray finds it: `ray.init` would wait minutes for one that is gone."""
    if wanted.text != FOUND_BY_RAY:
        return wanted
    try:
        return replace(wanted, text=services.canonicalize_bootstrap_address_or_die(FOUND_BY_RAY))
    except ConnectionError:
        raise wanted.silent("none runs on this machine, or several do") from None


def _start_here(options: dict[str, Any]) -> None:
    """Start Ray on this machine; a machine that was too busy to start it in time gets another try."""
    check_room(Path(get_default_system_temp_dir()))
    for left in reversed(range(START_TRIES)):
        try:
            with _loopback_only():
                ray.init("local", **options)
            return
        except Exception as error:  # Ray raises nothing more specific
            ray.shutdown()
            if TOO_LATE not in str(error):
                raise
            if not left:
                message = f"Ray did not start on this machine in {START_TRIES} tries; is it overloaded? ({error})"
                raise UserError(message) from None


def check_room(folder: Path) -> None:
    """Look whether Ray can write to its folder, if there is one yet: of a full disk it says only that it timed out.

    Raises:
        UserError: it cannot.
    """
    if not folder.exists():
        return
    how = "make room there, or set TMPDIR to another folder"
    try:
        free = shutil.disk_usage(folder).free
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"Ray cannot write its files to '{folder}': {error.strerror}; {how}") from None
    if free < LEAST_ROOM:
        raise UserError(f"Ray cannot start: '{folder}', for its files, has {free / 2**20:.0f} MB left; {how}")


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Have what starts within the block listen on 127.0.0.1 only.

    Ray binds to all interfaces on Linux, turns an explicit 127.0.0.1 back into the machine's own
    address, and offers this switch, which it reads once, when it is imported.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"  # for the processes it starts
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR]


def stop() -> None:
    """Disconnect; a local Ray ends with all its processes."""
    ray.shutdown()


def resources() -> list[tuple[float, float]]:
    """Return the processor cores and the GPUs of each node."""
    return [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in _nodes()]


def memories() -> list[int]:
    """Return the bytes of memory that Ray divides on each node, in the order of `resources`."""
    return [int(node.get("memory", 0)) for node in _nodes()]


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def capacity(cpus: float, gpus: float = 0.0) -> int:
    """Return how many actors of this size fit into all of the cluster at once; each has to fit on one node.

    Raises:
        UserError: not even one.
    """
    nodes = resources()
    fits = fitting(nodes, cpus, gpus)
    if fits < 1:
        have = " and ".join(f"{node_cpus:g} CPUs, {node_gpus:g} GPUs" for node_cpus, node_gpus in nodes)
        raise UserError(
            f"resources: an actor is to have {cpus:g} CPUs and {gpus:g} GPUs, but the nodes have {have}: ask for less"
        )
    return fits
