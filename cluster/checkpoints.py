"""A pack's checkpoint: in the storage's folder, or behind a URL on this machine with a copy in the storage.

Training writes a checkpoint to a file. Where storage is a folder, every machine sees that file. Behind a URL it is
uploaded after it was written, in a thread, so that a machine that is lost costs no more there than anywhere else.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.store import Store
from mpcwdwm.artifact_names import CHECKPOINT
from mpcwdwm.errors import Interrupted

__all__ = ["copied", "latest_checkpoint"]


def latest_checkpoint(store: Store, pack_id: str) -> Path:
    """Return the file of a pack's checkpoint; behind a URL it is by then the further one of here and there, if any."""
    file = store.work_folder(pack_id) / CHECKPOINT
    if not store.shares_work:
        fetched = file.with_name(f"{CHECKPOINT}.fetched")
        if store.download(_name(pack_id), fetched):
            if _step(fetched) > _step(file):
                fetched.replace(file)
            fetched.unlink(missing_ok=True)
    return file


class _Copier:
    """Uploads a file each time that it was replaced, one upload at a time."""

    def __init__(self, store: Store, pack_id: str, file: Path) -> None:
        self._store, self._name, self._file = store, _name(pack_id), file
        self._copied = self._state()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Begin an upload if the file is new and none is under way."""
        state = self._state()
        if state is None or state == self._copied or (self._thread and self._thread.is_alive()):
            return
        self._copied = state
        self._thread = threading.Thread(target=self._upload, name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait for the upload under way."""
        if self._thread:
            self._thread.join()

    def _upload(self) -> None:
        with contextlib.suppress(Exception):  # each back end raises its own; the next checkpoint is uploaded again
            self._store.upload(self._file, self._name)

    def _state(self) -> tuple[int, int] | None:
        """Return what differs between two checkpoints: each is a new file."""
        with contextlib.suppress(FileNotFoundError):
            status = self._file.stat()
            return status.st_ino, status.st_mtime_ns
        return None


@contextlib.contextmanager
def copied(store: Store, pack_id: str, file: Path) -> Iterator[Callable[[], None]]:
    """Yield what is to be called now and then while a pack's checkpoint is written; it never waits for the storage."""
    if store.shares_work:
        yield lambda: None
        return
    copier = _Copier(store, pack_id, file)
    try:
        yield copier.look
    except Interrupted:
        copier.wait()
        copier.look()  # what was saved last
        raise
    finally:
        copier.wait()


def _step(file: Path) -> int:
    """Return at which step a checkpoint stands; -1 if there is none that can be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return int(json.loads(opened.metadata()["facts"])["step"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return -1


def _name(pack_id: str) -> str:
    return f"work/{pack_id}/{CHECKPOINT}"
