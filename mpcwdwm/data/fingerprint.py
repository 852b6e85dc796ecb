"""Fingerprints: the SHA-256 of a file, computed once as long as the file does not change.

Every key contains its dataset's hash, and hashing hundreds of megabytes takes seconds, so it is cached in the user's
cache folder by path, size and time of modification.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

__all__ = ["cache_folder", "sha256_of", "write_json"]


def cache_folder() -> Path:
    """Return the user's cache folder, on Linux ``$XDG_CACHE_HOME/mpcwdwm`` or ``~/.cache/mpcwdwm``."""
    return platformdirs.user_cache_path("mpcwdwm", appauthor=False)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file atomically, making its folder; raises OSError where that is not possible."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def sha256_of(path: Path | str) -> str:
    """Return the file's SHA-256 in hexadecimal, from the cache if size and time are unchanged.

    Raises:
        OSError: the file cannot be read.
    """
    path = Path(path).resolve()
    status = path.stat()
    state = {"path": str(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    entry = cache_folder() / "sha256" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:24]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):  # absent or damaged: compute anew
        known = json.loads(entry.read_text(encoding="utf-8"))
        if {name: known.get(name) for name in state} == state:
            return str(known["sha256"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
        write_json(entry, {**state, "sha256": digest})
    return digest
