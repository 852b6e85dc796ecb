"""Peaks of memory, and errors that say there was none left."""

from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from cluster import memory
from cluster.failures import is_of_the_machine, is_out_of_memory
from cluster.memory import Memory, PeakMemory

MIB = 2**20


def test_a_peak_is_what_was_held_at_a_time_and_not_that_of_the_pack_before() -> None:
    before = psutil.Process().memory_info().rss
    first = PeakMemory("cpu")
    for _ in range(2):  # one after the other, not together
        block = np.ones(256 * MIB, dtype=np.uint8)
        del block
    taken = first.so_far().processor - before
    assert 250 * MIB < taken < 330 * MIB
    second = PeakMemory("cpu")
    block = np.ones(64 * MIB, dtype=np.uint8)
    assert second.so_far().processor - before < 180 * MIB
    del block


def test_where_a_peak_cannot_be_reset_it_is_not_too_low(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(memory, "RESET", tmp_path / "none" / "clear_refs")
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    peak = PeakMemory("cpu")
    block = np.ones(64 * MIB, dtype=np.uint8)
    resident = psutil.Process().memory_info().rss
    del block
    assert peak.so_far().processor >= resident - MIB


class StandInGpu(SimpleNamespace):
    """Notes what is asked of `torch.cuda`: this machine may have no GPU."""

    def __init__(self) -> None:
        super().__init__(asked=[])

    def is_available(self) -> bool:
        return True

    def empty_cache(self) -> None:
        self.asked.append("empty")

    def reset_peak_memory_stats(self, device: str) -> None:
        self.asked.append(device)

    def max_memory_reserved(self, device: str) -> int:
        return 3000

    def get_device_properties(self, device: str) -> SimpleNamespace:
        return SimpleNamespace(total_memory=80_000)


def test_on_a_gpu_the_peak_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = StandInGpu()
    monkeypatch.setattr(torch, "cuda", gpu)
    found = PeakMemory("cuda").so_far()
    assert (found.gpu, found.gpu_total) == (3000, 80_000)
    assert gpu.asked == ["empty", "cuda"]
    assert PeakMemory("cpu").so_far().gpu == Memory(0).gpu


def test_errors_of_memory_are_known_whatever_raises_them() -> None:
    errors = list[BaseException]()
    for ask in (lambda: torch.empty(2**50), lambda: np.ones(2**50), lambda: bytearray(2**60)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            ask()
        errors.append(caught.value)
    wrapped = ValueError("cannot plan")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    errors += [wrapped, RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")]
    for error in errors:
        assert is_out_of_memory(error), error
        assert is_of_the_machine(error), error
    for other in (RuntimeError("shapes differ"), OSError("no space left on device"), ZeroDivisionError()):
        assert not is_out_of_memory(other)
