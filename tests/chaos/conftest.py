"""The undisturbed run, with which all others are compared."""

import pytest

from tests.support.disturbed_sweeps import Sandbox


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    sandbox = Sandbox(tmp_path_factory.mktemp("chaos") / "undisturbed")
    sandbox.finish()
    return sandbox
