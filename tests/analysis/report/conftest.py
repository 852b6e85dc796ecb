"""The recorded sweep and its page, made once."""

import pytest

from tests.support.reported_sweeps import reported


@pytest.fixture(scope="session")
def sweep(tmp_path_factory, new_records):
    folder = tmp_path_factory.mktemp("told")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return reported(folder, new_records(folder))
