"""Listings of S3, in a third of the time that the libraries take by themselves.

botocore reads each of a thousand dates on a page with a parser that guesses their format, and s3fs looks for each
folder of a listing in a list of all.
"""

import os
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from typing import Any

__all__ = ["PROTOCOLS", "client_options", "names_below", "timestamp"]

PROTOCOLS = frozenset({"s3", "s3a"})


def client_options(protocol: str) -> dict[str, Any]:
    """Return what fsspec is to make the file system of a protocol with.

    Raises:
        ImportError: the package for S3 is not installed.
    """
    if protocol not in PROTOCOLS:
        return {}
    return {"session": _session(tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))}


def names_below(files: Any, folder: str) -> Iterator[str]:
    """Yield the paths of all objects below a folder, relative to it, by one request for a thousand.

    Args:
        files: s3fs's file system.
        folder: "bucket/path".
    """
    bucket, key, _ = files.split_path(folder)
    asked = {"Bucket": bucket, "Prefix": f"{key}/"}
    while True:
        page = files.call_s3("list_objects_v2", **asked)
        yield from (one["Key"].removeprefix(asked["Prefix"]) for one in page.get("Contents", ()))
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]


def timestamp(value: Any) -> datetime:
    """Return a date of a response: ISO 8601 in listings, other formats in headers."""
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        from botocore.utils import parse_timestamp

        return parse_timestamp(value)


@cache
def _session(settings: tuple[tuple[str, str], ...]) -> Any:  # one for each environment: it keeps what it reads there
    from aiobotocore.session import get_session

    session = get_session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=timestamp)
    return session
