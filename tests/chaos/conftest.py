"""The undisturbed sweep, with which all others are compared, and what makes sweeps to disturb."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.disturbed_sweeps import Sandbox, end_all


@pytest.fixture(scope="session")
def new_sandbox(new_records: Callable[[Path], str]) -> Callable[..., Sandbox]:
    """Return what makes a sweep in a folder, with an empty MLflow store where its YAML says."""

    def new(folder: Path, environment: Mapping[str, str] | None = None, **sections: object) -> Sandbox:
        sandbox = Sandbox(folder, environment, **sections)
        new_records(folder / "runs")
        return sandbox

    return new


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """End the processes of a test that failed."""
    yield
    end_all()


@pytest.fixture(scope="session")
def undisturbed(new_sandbox: Callable[..., Sandbox], tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    sandbox = new_sandbox(tmp_path_factory.mktemp("chaos") / "undisturbed")
    sandbox.compute()
    return sandbox
