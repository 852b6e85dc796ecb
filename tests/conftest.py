"""Shared fixtures: the bundled dataset, a small part of it, and one thread per test process."""

import dataclasses
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two cores are shared by everything

import pytest
import torch

from mpcwdwm.data import Dataset, dataset_path, find_task, read_dataset

BUNDLED = "hopper-medium-replay-mini-ppo-v0"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return read_dataset(dataset_path(find_task(BUNDLED)))


def part_of(dataset: Dataset, start: int, stop: int) -> Dataset:
    """Rows start..stop as a dataset of its own (episodes at the cut keep their flags)."""
    per_row = {
        field.name: getattr(dataset, field.name)[start:stop]
        for field in dataclasses.fields(dataset)
        if getattr(getattr(dataset, field.name), "shape", (0,))[:1] == dataset.reward.shape[:1]
    }
    return dataclasses.replace(dataset, sha256=f"{dataset.sha256}-{start}-{stop}", **per_row)
