"""Listings of S3: all pages of them, and dates as the library reads them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.utils import parse_timestamp

from cluster.store import Store
from cluster.store.s3 import client_options, names_below, timestamp


class Pages:
    """A file system that answers with pages of two."""

    def __init__(self, keys: list[str]) -> None:
        self.keys, self.asked = keys, list[dict[str, str]]()

    def split_path(self, path: str) -> tuple[str, str, None]:
        bucket, _, key = path.partition("/")
        return bucket, key, None

    def call_s3(self, operation: str, **asked: str) -> dict[str, Any]:
        assert operation == "list_objects_v2"
        self.asked.append(asked)
        first = int(asked.get("ContinuationToken", 0))
        page = [{"Key": key} for key in self.keys[first : first + 2]]
        more = first + 2 < len(self.keys)
        return {"Contents": page, "IsTruncated": more, **({"NextContinuationToken": str(first + 2)} if more else {})}


def test_every_page_is_asked_for() -> None:
    files = Pages([f"runs/results/cell-{number}/manifest.json" for number in range(5)])
    found = list(names_below(files, "bucket/runs/results"))
    assert found == [f"cell-{number}/manifest.json" for number in range(5)]
    assert [asked.pop("ContinuationToken", None) for asked in files.asked] == [None, "2", "4"]
    assert files.asked == [{"Bucket": "bucket", "Prefix": "runs/results/"}] * 3


def test_nothing_there_is_an_empty_list() -> None:
    assert list(names_below(Pages([]), "bucket/runs/results")) == []


@pytest.mark.parametrize(
    "text",
    [
        *("2026-11-27T19:01:35.000Z", "2026-11-27T19:01:35Z", "2026-11-27T19:01:35.123456+02:00"),
        *("Fri, 27 Nov 2026 19:01:35 GMT", "1795806095"),
    ],
)
def test_dates_are_those_of_the_library(text: str) -> None:
    assert timestamp(text) == parse_timestamp(text)
    assert timestamp(text).tzinfo is not None


@pytest.mark.parametrize("store", ["S3"], indirect=True)
def test_a_client_reads_dates_with_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In listings without the parser that guesses formats, which takes most of the time."""
    store.write_bytes("results/one/manifest.json", b"{}")
    files = store._files.fs  # type: ignore[attr-defined]
    monkeypatch.setattr("dateutil.parser.parse", None)
    (one,) = files.find(f"{store._files.path}/results", detail=True).values()  # type: ignore[attr-defined]
    assert abs(one["LastModified"] - datetime.now(UTC)) < timedelta(hours=1)


def test_clients_of_one_environment_share_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps what it reads in the environment: another one needs another."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    first = client_options("s3")["session"]
    assert client_options("s3a")["session"] is first
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:2")
    assert client_options("s3")["session"] is not first
    assert client_options("memory") == {}
