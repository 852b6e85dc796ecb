"""A store behind a URL: conditional commits, servers that fail, what a listing costs and shows, leftover uploads."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.store import StorageError, Store, open_store, urls
from mpcwdwm.errors import UserError
from tests.support.artifacts import artifact
from tests.support.s3 import S3Server


@pytest.mark.parametrize("store", ["S3"], indirect=True)
def test_keys_are_one_listing_however_many_there_are(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from aiobotocore.client import AioBaseClient

    published = [f"cell-{number}" for number in range(7)]
    for key in published:
        store.publish("cell", key, artifact())
    store.write_bytes("results/stray", b"")
    store.write_bytes("results/not-yet/upload/weights", b"")
    asked = []
    call = AioBaseClient._make_api_call

    async def counted(self: AioBaseClient, operation: str, parameters: dict[str, object]) -> object:
        asked.append(operation)
        return await call(self, operation, parameters)

    monkeypatch.setattr(AioBaseClient, "_make_api_call", counted)
    assert store.keys("cell") == published
    assert asked == ["ListObjectsV2"]


@pytest.mark.parametrize("store", ["memory URL", "S3"], indirect=True)
def test_a_manifest_behind_a_url_is_written_once_though_two_writers_saw_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.publish("component", "k", artifact(version="first"))
    monkeypatch.setattr(type(store), "has", lambda *_: False)  # as the late writer saw it, before the first committed
    assert not store.publish("component", "k", artifact(version="late"))
    assert store.manifest("component", "k")["version"] == "first"
    assert len(store.names("components/k")) == 2  # the manifest and what the first uploaded


@pytest.mark.parametrize("store", ["memory URL", "S3"], indirect=True)
def test_a_commit_whose_answer_was_lost_counts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write = type(store)._write

    def unheard(own: Store, name: str, content: bytes, **options: Any) -> None:
        write(own, name, content, **options)
        raise OSError("connection reset")

    monkeypatch.setattr(type(store), "_write", unheard)
    assert store.publish("component", "k", artifact(version=1))
    assert store.manifest("component", "k")["version"] == 1


class Failing:
    """Has a back end fail for so many calls, after it was called so many times."""

    def __init__(self, store: Store, name: str, calls: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, real = calls, getattr(store._files, name)  # type: ignore[attr-defined]

        def call(*arguments: Any, **options: Any) -> Any:
            if self.left:
                self.left -= 1
                raise error
            return real(*arguments, **options)

        monkeypatch.setattr(store._files, name, call)  # type: ignore[attr-defined]


@pytest.mark.parametrize("store", ["memory URL"], indirect=True)
def test_a_server_that_restarts_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "PAUSE", 0.0)
    assert store.keys("component") == []
    said: list[str] = []
    store.on_outage = said.append
    for name in ("put_file", "info", "cat_file", "find", "ls", "rm"):
        Failing(store, name, 3, ConnectionError("refused"), monkeypatch)
    Failing(store, "pipe_file", 1, ConnectionError("refused"), monkeypatch)  # on condition that there is no object
    assert store.publish("component", "k", artifact(version=1))
    assert store.manifest("component", "k")["version"] == 1
    assert store.keys("component") == ["k"]
    assert store.names("components") == ["k"]
    store.delete("component", "k")
    assert len(said) == 6  # once for each outage that was waited for
    assert all("refused; it is tried again for 120 s" in line for line in said)


@pytest.mark.parametrize("store", ["memory URL"], indirect=True)
def test_a_server_that_stays_away_forbids_or_never_answered_is_an_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "PAUSE", 0.0)
    refused = Failing(store, "info", 10**9, ConnectionError("refused"), monkeypatch)
    with pytest.raises(StorageError, match="refused"):
        store.exists("k")
    assert refused.left == 10**9 - 1  # it never answered
    assert store.names("") == []
    monkeypatch.setattr(urls, "PATIENCE", 0.2)
    with pytest.raises(StorageError, match="refused"):
        store.exists("k")
    assert refused.left < 10**9 - 2
    forbidden = Failing(store, "cat_file", 10**9, PermissionError("forbidden"), monkeypatch)
    with pytest.raises(StorageError, match="forbidden"):
        store.read_text("k")
    assert forbidden.left == 10**9 - 1


def test_a_store_that_cannot_refuse_to_overwrite_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = open_store(f"local://{tmp_path}/runs")
    (notice,) = store.notices
    assert "cannot refuse to overwrite" in notice
    assert store.publish("component", "k", artifact(version=1))
    assert not store.publish("component", "k", artifact(version=2))


@pytest.mark.parametrize("store", ["memory URL", "S3"], indirect=True)
def test_a_server_that_ignores_conditions_is_found_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.check() == ()
    write = type(store)._write
    monkeypatch.setattr(type(store), "_write", lambda own, name, content, **_: write(own, name, content))
    (notice,) = store.check()
    assert "cannot refuse to overwrite" in notice
    assert store.names("") == []


def test_a_store_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(UserError, match=r"pip install 'mpcwdwm\[s3\]'"):
        open_store("s3://bucket/runs")


def test_a_bucket_that_does_not_exist_is_one_line_and_not_made(s3: S3Server, tmp_path: Path) -> None:
    store = open_store("s3://nobody-made-it/runs")
    with pytest.raises(StorageError, match="no such bucket"):
        store.check()
    with pytest.raises(StorageError, match="no such bucket"):
        store.check()


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match="by the environment") as error:
        open_store("s3://me:hidden@bucket/runs")
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize("store", ["memory URL", "S3"], indirect=True)
def test_a_damaged_artifact_is_not_downloaded(store: Store) -> None:
    store.publish("component", "k", artifact())
    (upload,) = (name for name in store.names("components/k") if name != "manifest.json")
    store.write_bytes(f"components/k/{upload}/weights", b"w" * 10)
    with pytest.raises(UserError, match=r"weights: 10 bytes of 1000.*store verify .* --repair"):
        store.folder("component", "k")


def test_uploads_that_were_never_committed_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = open_store(f"memory://uploads-{tmp_path.name}")
    store.publish("component", "whole", artifact())
    store.write_text("components/half/elsewhere~1~1000~x/weights", "half")
    store.write_text("components/whole/elsewhere~1~1000~x/weights", "lost the race")
    monkeypatch.setattr(urls, "writer_name", lambda: "elsewhere~1~1000~y")
    store.publish("component", "old", artifact())  # by a writer that is dead now
    assert store.keys("component") == ["old", "whole"]
    assert store.sweep_up() == 2
    assert store.names("components/old") == ["elsewhere~1~1000~y", "manifest.json"]
    assert store.names("components/half") == []
    assert (store.folder("component", "whole") / "weights").read_bytes() == b"w" * 1000


def test_what_is_committed_while_leftovers_are_looked_for_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = open_store(f"memory://late-{tmp_path.name}")
    upload = "elsewhere~1~1000~x"
    store.write_text(f"components/late/{upload}/weights", "whole")

    def committed_and_ended(name: str) -> bool:
        store.write_text("components/late/manifest.json", json.dumps({"upload": name}))
        return True

    monkeypatch.setattr(urls, "is_stale", committed_and_ended)
    assert store.sweep_up() == 0
    assert store.names("components/late") == [upload, "manifest.json"]
