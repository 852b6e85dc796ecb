"""Which share of a GPU a process gets where the YAML leaves it open, and which GPUs would stay unused.

A sweep runs where Ray runs, and the driver's own machine often has no GPU: once Ray is connected, the cluster is asked
(`sweeps.execution.workers`). A plan connects to none. It knows this machine, and says so of a cluster.
"""

import math
from collections.abc import Sequence

import torch

from cluster.ray.address import HERE, wanted_address
from cluster.ray.gpu_share import fitting
from sweeps.spec.schema import Resources

__all__ = ["gpus_here", "idle_gpus"]


def gpus_here(resources: Resources) -> int | None:
    """Return the number of GPUs that a run will find, None where a cluster has to be asked."""
    return torch.cuda.device_count() if wanted_address(resources.address).text == HERE else None


def idle_gpus(resources: Resources, nodes: Sequence[tuple[float, float]]) -> list[str]:
    """Return a line for each kind of process that would leave whole GPUs unused.

    Args:
        resources: with every share filled in.
        nodes: processor cores and GPUs of each node.
    """
    gpus = sum(node_gpus for _, node_gpus in nodes)
    if not gpus:
        return []
    lines = []
    for role, share, what in (("actor", resources.actor, "training"), ("trial", resources.trial, "evaluation")):
        if not share.gpus:
            lines.append(f"resources.{role}.gpus is 0: {what} runs on processors, though Ray has {gpus:g} GPUs")
            continue
        cpus = sum(node_cpus for node_cpus, node_gpus in nodes if node_gpus)
        fits = fitting(nodes, share.cpus, share.gpus)
        limits = {
            f"resources.{role}.cpus is {share.cpus:g} and the nodes with GPUs have {cpus:g} CPUs": fits,
            f"resources.concurrency is {resources.concurrency}": resources.concurrency or math.inf,
        }
        reason, most = min(limits.items(), key=lambda limit: limit[1])
        used = most * share.gpus
        if gpus - used >= 1:
            each = f"at most {most:g} processes with {share.gpus:g} GPU each"
            lines.append(f"{what} uses {used:g} of Ray's {gpus:g} GPUs: {reason}, so there are {each}")
    return lines
