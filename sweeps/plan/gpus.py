"""Which share of a GPU a process gets where the YAML leaves it open, and which GPUs would stay unused.

A sweep runs where Ray runs, and the driver's own machine often has no GPU: once Ray is connected, the cluster is asked
(`sweeps.execution.workers`). A plan connects to none. It knows this machine, and says so of a cluster.
"""

import math

import torch

from cluster.ray.address import HERE, wanted_address
from sweeps.spec.schema import Resources

__all__ = ["gpus_here", "idle_gpus"]


def gpus_here(resources: Resources) -> int | None:
    """Return the number of GPUs that a run will find, None where a cluster has to be asked."""
    return torch.cuda.device_count() if wanted_address(resources.address).text == HERE else None


def idle_gpus(resources: Resources, cpus: float, gpus: float) -> list[str]:
    """Return a line for each kind of process that would leave whole GPUs unused.

    Args:
        resources: with every share filled in.
        cpus: processor cores of the cluster.
        gpus: GPUs of the cluster.
    """
    lines = []
    for role, share, what in (
        ("actor", resources.actor, "training"),
        ("trial", resources.trial, "evaluation"),
    ):
        if not gpus:
            continue
        if not share.gpus:
            lines.append(f"resources.{role}.gpus is 0: {what} runs on processors, though Ray has {gpus:g} GPUs")
            continue
        limits = {
            f"resources.{role}.cpus is {share.cpus:g} and Ray has {cpus:g} CPUs": int(cpus / share.cpus),
            f"resources.concurrency is {resources.concurrency}": resources.concurrency or math.inf,
        }
        reason, most = min(limits.items(), key=lambda limit: limit[1])
        used = min(gpus, most * share.gpus)
        if gpus - used >= 1:
            each = f"at most {most:g} processes with {share.gpus:g} GPU each"
            lines.append(f"{what} uses {used:g} of Ray's {gpus:g} GPUs: {reason}, so there are {each}")
    return lines
