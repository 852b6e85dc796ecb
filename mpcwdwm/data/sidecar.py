"""Sidecars: size and hash of a downloaded dataset at first use, in ``<file>.json`` beside it.

D4RL publishes no checksums, so a file is trusted at first use and compared from then on: one that was replaced,
truncated or updated upstream is noticed before anything is trained on it.
"""

import contextlib
import json
from datetime import UTC, datetime
from pathlib import Path

from mpcwdwm.data.fingerprint import sha256_of, write_json
from mpcwdwm.errors import UserError

__all__ = ["recorded_size", "sidecar_path", "verify_or_record"]

# OverflowError: a size of 1e400; RecursionError: lists in lists
UNREADABLE = (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError)


def sidecar_path(path: Path) -> Path:
    """Return the name of a dataset's sidecar."""
    return path.with_name(path.name + ".json")


def recorded_size(path: Path) -> int | None:
    """Return the size in bytes that the file had at first use, None if that is not recorded."""
    with contextlib.suppress(*UNREADABLE):
        return int(json.loads(sidecar_path(path).read_text(encoding="utf-8"))["size"])
    return None


def verify_or_record(path: Path, url: str | None) -> str:
    """Return the dataset's SHA-256 after comparing it with its sidecar, or after writing that.

    Raises:
        UserError: size or hash are not the recorded ones, or the sidecar cannot be understood.
    """
    sidecar = sidecar_path(path)
    size, found = path.stat().st_size, sha256_of(path)
    if not sidecar.exists():
        record = {"url": url, "size": size, "sha256": found, "recorded_at": datetime.now(UTC).isoformat()}
        with contextlib.suppress(OSError):  # a shared folder may be read-only; every key holds the hash anyway
            write_json(sidecar, record)
        return found
    try:
        recorded = json.loads(sidecar.read_text(encoding="utf-8"))
        expected_size, expected = int(recorded["size"]), str(recorded["sha256"])
    except UNREADABLE as error:
        raise UserError(
            f"'{sidecar}' cannot be read ({type(error).__name__}): delete it to record '{path.name}' anew"
        ) from None
    if (size, found) != (expected_size, expected):
        raise UserError(
            f"'{path}' is not the file recorded at first use: expected {expected_size} bytes, sha256 {expected};"
            f" found {size} bytes, sha256 {found}; delete it and download again,"
            f" or delete '{sidecar.name}' to accept it as it is"
        )
    return found
