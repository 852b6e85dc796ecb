"""What is written of failures is read back, in a folder and behind a URL."""

import re
from pathlib import Path

import pytest

from cluster.store import Store, open_store


@pytest.fixture(params=["folder", "memory URL"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return open_store(str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path.name}-failures")


def test_a_log_is_read_back_and_failures_are_read_together(store: Store) -> None:
    assert store.read_log("component-1") is None
    assert store.failures({"bc-s0"}) == {}
    store.append_log("component-1", "first trouble")
    store.append_log("component-1", "second trouble")
    assert re.sub(r"===.*\n", "", store.read_log("component-1") or "").split("\n\n")[:2] == [
        "first trouble",
        "second trouble",
    ]
    for key in ("bc-s0", "bc-s1", "another"):
        store.record_failure(key, f"no luck with {key}", "log", tries=2)
    found = store.failures({"bc-s0", "bc-s1", "bc-s2"})
    assert {key: (each["error"], each["tries"]) for key, each in found.items()} == {
        "bc-s0": ("no luck with bc-s0", 2),
        "bc-s1": ("no luck with bc-s1", 2),
    }
