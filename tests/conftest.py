"""Shared fixtures: the bundled dataset, empty MLflow stores, and one thread per test process."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two cores are shared by everything

import pytest
import torch

from mpcwdwm.data import Dataset, dataset_path, find_task, read_dataset
from tests.support.parts import BUNDLED

if TYPE_CHECKING:
    from tests.support.s3 import S3Server

LONGEST = ("run", "kills", "end_to_end", "trials", "tracking")  # files, longest first


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


@pytest.fixture(scope="session")
def new_records(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Return what puts an empty MLflow store into a folder and returns its URI: a copy, as making one takes seconds."""
    from sweeps.records.tracker import Tracker

    empty = tmp_path_factory.mktemp("records") / "mlflow.db"
    Tracker(f"sqlite:///{empty}", "empty")._connect()

    def new(folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(empty, folder / "mlflow.db")
        with sqlite3.connect(folder / "mlflow.db") as database:
            place = (folder / "mlartifacts").as_uri()
            database.execute("update experiments set artifact_location = ? where name = 'mpcwdwm'", [place])
        return f"sqlite:///{folder}/mlflow.db"

    return new


@pytest.fixture(scope="session")
def s3_session() -> Iterator["S3Server"]:
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'mpcwdwm[s3]'")
    from tests.support.s3 import s3_server

    with s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_session: "S3Server", monkeypatch: pytest.MonkeyPatch) -> "S3Server":
    """An S3-compatible server on loopback, to which this test's environment points."""
    s3_session.use(monkeypatch)
    return s3_session
