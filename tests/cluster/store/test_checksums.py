"""Whoever loads an artifact gets what was published, or a line, and a store that can be filled again."""

import json
from pathlib import Path

import pytest

from cluster.store import StorageError, Store, open_store


@pytest.fixture(params=["folder", "S3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "S3":
        return open_store(request.getfixturevalue("s3").bucket())
    return open_store(tmp_path / "runs")


def write(folder: Path) -> None:
    (folder / "weights").write_bytes(b"w" * 1000)
    (folder / "manifest.json").write_text(json.dumps({"seed": 0, "ψ": [1.5e-5, None]}), encoding="utf-8")


def test_what_is_sound_is_loaded_twice_and_a_damaged_one_is_removed(store: Store) -> None:
    store.publish("component", "k", write)
    for _ in range(2):
        folder = store.sound_folder("component", "k")
        assert (folder / "weights").read_bytes() == b"w" * 1000
    (folder / "weights").write_bytes(b"w" * 500)
    if not store.has_locks:  # that was our copy
        assert (store.sound_folder("component", "k") / "weights").read_bytes() == b"w" * 1000
        (upload,) = (name for name in store.names("components/k") if name != "manifest.json")
        store.write_bytes(f"components/k/{upload}/weights", b"w" * 500)
        (folder / "weights").write_bytes(b"w" * 500)
    with pytest.raises(StorageError, match=r"damaged \(weights: 500 bytes of 1000\); it is removed"):
        store.sound_folder("component", "k")
    assert store.publish("component", "k", write)
    assert store.sound_folder("component", "k").is_dir()
