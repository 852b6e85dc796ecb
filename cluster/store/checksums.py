"""Whether an artifact is what its writer left: sha256 of every file, and of the manifest that lists them.

A disk that flips a bit, or a copy that was cut short, leaves a file that may still load and give other numbers.
Artifacts published by versions without checksums cannot be checked.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpcwdwm.artifact_names import MANIFEST

__all__ = ["DIGEST", "FILES", "checksummed", "faults", "size"]

FILES = "files"  # field of a manifest: name → {"bytes", "sha256"} of every other file
DIGEST = "manifest_sha256"  # field of a manifest: over its other fields as sorted JSON


def checksummed(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a manifest with the checksums of the files in its folder and of itself."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name != MANIFEST:
            with path.open("rb") as file:
                files[path.name] = {
                    "bytes": path.stat().st_size,
                    "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                }
    listed = {**{name: value for name, value in manifest.items() if name != DIGEST}, FILES: files}
    return {**listed, DIGEST: _digest(listed)}


def faults(manifest: dict[str, Any], read: Callable[[str], bytes | None]) -> list[str] | None:
    """Return what is wrong with an artifact, a line for each file; None if it carries no checksums.

    Args:
        manifest: as it was read, without what the store added after `checksummed`.
        read: returns the content of a file of the artifact; None if there is none.
    """
    if DIGEST not in manifest and FILES not in manifest:
        return None
    if manifest.get(DIGEST) != _digest({name: value for name, value in manifest.items() if name != DIGEST}):
        return [f"{MANIFEST}: changed since it was written"]
    found = []
    for name, listed in manifest[FILES].items():
        content = read(name)
        if content is None:
            found.append(f"{name}: missing")
        elif len(content) != listed["bytes"]:
            found.append(f"{name}: {len(content)} bytes of {listed['bytes']}")
        elif hashlib.sha256(content).hexdigest() != listed["sha256"]:
            found.append(f"{name}: changed since it was written")
    return found


def size(manifest: dict[str, Any]) -> int | None:
    """Return the bytes of an artifact's files, its manifest left out; None if that was not written down."""
    return sum(int(listed["bytes"]) for listed in manifest[FILES].values()) if FILES in manifest else None


def _digest(manifest: dict[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
