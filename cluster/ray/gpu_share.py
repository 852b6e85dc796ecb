"""What a share of a GPU is: how many processes fit, and how much of its memory each may take.

Ray only counts. Of four processes with a quarter each, one could take all of the memory, and the others would fail.
"""

from collections.abc import Iterable

__all__ = ["cap_gpu_memory", "fitting", "memory_share", "on_gpus"]

CONTEXT_BYTES = 512 * 2**20  # of a process on a GPU, outside what torch allocates


def on_gpus(have: float, each: float) -> int:
    """Return how many processes with ``each`` GPUs fit on ``have`` of them; a fraction lies on one GPU."""
    return int(have) * int(1 / each) if each < 1 else int(have / each)


def fitting(nodes: Iterable[tuple[float, float]], cpus: float, gpus: float) -> int:
    """Return how many processes of a size fit on nodes with these processor cores and GPUs; each lies on one node."""
    return sum(
        min(int(node_cpus / cpus), on_gpus(node_gpus, gpus)) if gpus else int(node_cpus / cpus)
        for node_cpus, node_gpus in nodes
    )


def memory_share(gpus: float, total: int) -> float:
    """Return the part of a GPU's memory that torch may allocate in a process with a fraction of the GPU.

    Args:
        gpus: the fraction.
        total: bytes of the GPU.
    """
    # on a GPU so small that contexts would take more than half of it, sharing cannot be had without risk
    return gpus - min(CONTEXT_BYTES / total, gpus / 2)


def cap_gpu_memory(gpus: float) -> None:
    """Keep what torch allocates in this process within its fraction of a GPU; with whole GPUs nothing is capped."""
    if not 0 < gpus < 1:
        return
    import torch

    if torch.cuda.is_available():  # Ray may have been told of GPUs that are none
        _, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(memory_share(gpus, total))
