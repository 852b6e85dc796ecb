"""Processes that share a GPU: how many fit, and that none takes the memory of the others."""

from pathlib import Path

import pytest
import torch

from cluster.ray.gpu_share import cap_gpu_memory, memory_share, on_gpus
from cluster.ray.grant import Grant
from cluster.ray.pool import Worker
from cluster.work import error_line
from sweeps.execution.trials import CellTrial
from sweeps.spec.schema import Share

GIB = 2**30


@pytest.fixture
def capped(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The caps that were set on a GPU of 80 GiB."""
    caps: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (70 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", caps.append)
    return caps


def test_a_fraction_lies_on_one_gpu() -> None:
    fits = {(4, 0.25): 16, (4, 2): 2, (3, 2): 1, (0, 0.5): 0, (16, 0.0103): 16 * 97}
    assert {size: on_gpus(*size) for size in fits} == fits


@pytest.mark.parametrize("processes", range(1, 101))
def test_as_many_processes_as_were_meant_fit_on_a_gpu_as_ray_counts(processes: int) -> None:
    for given in (1 / processes, f"1/{processes}"):
        share = Share.model_validate({"gpus": given}).gpus
        assert share is not None
        in_steps = round(share * 10_000)  # Ray's fixed point, which rounds to the nearest
        assert processes * in_steps <= 10_000 < (processes + 1) * in_steps
        assert on_gpus(1, share) == processes


@pytest.mark.parametrize(("total", "processes"), [(80 * GIB, 4), (80 * GIB, 1), (8 * GIB, 3), (2 * GIB, 8)])
def test_what_is_left_beside_all_caps_holds_the_contexts_of_the_processes(total: int, processes: int) -> None:
    left = total - processes * memory_share(1 / processes, total) * total
    assert left >= min(processes * GIB / 2, total / 2) * 0.999
    assert memory_share(1 / processes, total) > 0


def test_a_process_with_a_part_of_a_gpu_is_capped_and_one_with_a_whole_is_not(capped: list[float]) -> None:
    for gpus in (0.0, 1.0, 2.0):
        cap_gpu_memory(gpus)
    assert capped == []
    cap_gpu_memory(0.25)
    assert capped == [0.25 - 0.5 / 80]


def test_actors_and_trials_cap_themselves(capped: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Worker(str(tmp_path), Grant(2, 0.5)).options == {"device": "cuda", "threads": 2}
    assert Worker(str(tmp_path), Grant(1, 0.0)).options == {"device": "cpu", "threads": 1}
    monkeypatch.setattr(CellTrial, "reset_config", lambda trial, config: True)
    CellTrial.__new__(CellTrial).setup({"grant": {"gpus": 0.5}}, options={})
    assert capped == [0.5 - 0.5 / 80] * 2


def test_a_gpu_that_is_none_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cap_gpu_memory(0.25)


def test_a_full_share_is_said_with_the_fields_that_mend_it() -> None:
    said = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which …"
    line = error_line(torch.OutOfMemoryError(said))
    assert line.startswith("CUDA out of memory. Tried to allocate 2.00 GiB: ")
    assert "resources.actor.gpus" in line
    assert "resources.seeds_per_pack" in line


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_torch_allocates_no_more_than_the_share() -> None:
    _, total = torch.cuda.mem_get_info()
    cap_gpu_memory(0.1)
    try:
        torch.empty(total // 20, dtype=torch.uint8, device="cuda")
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(total // 9, dtype=torch.uint8, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
