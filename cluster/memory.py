"""How much memory a pack takes at its peak: of the machine, and of a GPU.

Measured in the process that computes it, and told to the driver beside the outcome. It decides how many packs share a
machine (`sweeps.execution.packing`), never what they compute.
"""

import re
import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Memory", "PeakMemory"]

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # what proc(5) has one write there


@dataclass(frozen=True)
class Memory:
    """A peak, in bytes."""

    processor: int  # resident in the process, what it shares with others included
    gpu: int = 0  # held by torch's allocator on the GPU; 0 on a processor
    gpu_total: int = 0  # of that GPU; 0 on a processor


class PeakMemory:
    """Measures a process from its making on, after what it held before was handed back.

    Args:
        device: "cpu", "cuda" or "cuda:1".
    """

    def __init__(self, device: str) -> None:
        self._device = device
        with suppress(OSError):  # then the peak is that of the process since its start: never too low
            RESET.write_text(RESET_PEAK, encoding="utf-8")
        if gpu := _torch_on(device):
            gpu.empty_cache()  # what an earlier pack had is not this one's
            gpu.reset_peak_memory_stats(device)

    def so_far(self) -> Memory:
        """Return the peak until now."""
        gpu = _torch_on(self._device)
        if gpu is None:
            return Memory(_resident_peak())
        total = int(gpu.get_device_properties(self._device).total_memory)
        # What is reserved, not what is allocated: gaps between blocks are taken from the others on the GPU as well.
        return Memory(_resident_peak(), int(gpu.max_memory_reserved(self._device)), total)


def _resident_peak() -> int:
    """Return the most bytes that were resident at a time."""
    with suppress(OSError):
        if found := re.search(r"^VmHWM:\s+(\d+) kB$", STATUS.read_text(encoding="utf-8"), re.MULTILINE):
            return 1024 * int(found[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _torch_on(device: str) -> Any:
    """Return `torch.cuda` if the device is a GPU that is there; a process without torch is not made to load it."""
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda if torch.cuda.is_available() else None
