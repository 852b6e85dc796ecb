"""The store, in each kind of place that it can have."""

import random
from pathlib import Path

import pytest

from cluster.store import Store, open_store


@pytest.fixture(params=["folder", "file URL", "memory URL", "S3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "S3":
        return open_store(f"{request.getfixturevalue('s3').bucket()}/with space")
    place = tmp_path / "with space"
    return open_store(
        {
            "folder": str(place),
            "file URL": place.as_uri(),
            "memory URL": f"memory://{tmp_path.name}-{random.getrandbits(40):x}",
        }[request.param]
    )
