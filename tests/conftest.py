"""Shared fixtures: the bundled dataset, and one thread per test process."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two cores are shared by everything

import pytest
import torch

from mpcwdwm.data import Dataset, dataset_path, find_task, read_dataset
from tests.support.parts import BUNDLED

LONGEST = ("run", "killed_driver", "end_to_end", "trials", "tracking")  # files, longest first


def pytest_configure(config: pytest.Config) -> None:
    """Have pytest-xdist hand out files in our order; its own begins those with the fewest tests, the longest, last."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that processes end at about the same time."""
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return read_dataset(dataset_path(find_task(BUNDLED)))
