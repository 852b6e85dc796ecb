"""The artifact store: immutable folders under a key, and the small files around them.

    <storage>/components/<key>/   weights.safetensors, manifest.json, curve.json
    <storage>/results/<key>/      episodes.parquet, manifest.json
    <storage>/work/<pack id>/     pack.json, lease, checkpoint: removed when its units are published
    <storage>/failures/<key>.json why a unit could not be computed; removed on success
    <storage>/logs/<name>.log     tracebacks; behind a URL a folder with one object per entry
    <storage>/sweeps/<name>/      resolved spec, tables
    <storage>/.tmp/               files being written, named after their writer

A manifest lists size and sha256 of the other files (`cluster.store.checksums`).

Files and folders are complete: each is written under a temporary name, flushed to the disk and
renamed. A process killed at any moment leaves at most a temporary name, which `Store.sweep_up`
removes once its writer is dead. Publishing a key twice is a no-op: the first writer wins, artifacts
are never overwritten.

`Store` is a folder that every worker sees: a local disk, NFS, Lustre. `cluster.store.urls.RemoteStore`
keeps the same things behind a URL.
"""

import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.provenance import host_name, is_dead, now
from cluster.store.checksums import checksummed, faults
from cluster.store.texts import failure_in, parsed
from cluster.units import Kind
from mpcwdwm.artifact_names import MANIFEST
from mpcwdwm.errors import UserError

__all__ = ["FOLDERS", "StorageError", "Store", "Writer"]

FOLDERS: dict[Kind, str] = {"component": "components", "cell": "results"}
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # errors of file systems without hard links
STALE_AFTER = 24 * 3600.0  # seconds, of another host's writer, whose process we cannot see; no write takes a day

Writer = Callable[[Path], None]
"""Fills an existing empty folder with an artifact, its manifest.json included."""


class StorageError(UserError, OSError):
    """The storage does not answer or refuses: one line for the user, and worth another try for a worker."""


class Damaged(UserError):
    """An artifact is not what its writer left."""

    def __init__(self, kind: Kind, key: str, location: str, wrong: list[str]) -> None:
        self.wrong = wrong
        self.found = f"{kind} '{key}' in {location} is damaged ({'; '.join(wrong)})"
        super().__init__(f"{self.found}: `mpcwdwm store verify {location} --repair`, then run the sweep again")


class Store:
    """An artifact store in a folder. Names are relative paths below it, with "/"."""

    has_locks = True  # whether a lease can be a lock on a file; behind a URL there are none
    shares_work = True  # whether all machines see one work folder of a pack
    creates = True  # whether `create` is exclusive
    notices: tuple[str, ...] = ()  # what the user should know of the store, one line each

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)
        self.on_outage: Callable[[str], None] = lambda line: None  # told once for each time the storage has to wait

    # Artifacts

    def has(self, kind: Kind, key: str) -> bool:
        """Say whether the artifact is published."""
        return self.exists(f"{FOLDERS[kind]}/{_plain(key)}/{MANIFEST}")

    def keys(self, kind: Kind) -> list[str]:
        """Return the keys of all published artifacts of a kind, sorted."""
        return [key for key in self.names(FOLDERS[kind]) if self.has(kind, key)]

    def manifest(self, kind: Kind, key: str) -> dict[str, Any]:
        """Return the manifest of a published artifact; UserError if there is none."""
        text = self.read_text(f"{FOLDERS[kind]}/{_plain(key)}/{MANIFEST}")
        if text is None:
            raise UserError(f"{kind} '{key}' is not in the store {self.location}: run the sweep again")
        manifest = parsed(text)
        if manifest is None:
            raise Damaged(kind, key, self.location, [f"{MANIFEST}: no JSON"])
        return manifest

    def manifests(self, kind: Kind) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """Yield key and manifest of all artifacts of a kind; None for one whose manifest is missing or no JSON."""
        for key in self.names(FOLDERS[kind]):
            yield key, parsed(self.read_text(f"{FOLDERS[kind]}/{key}/{MANIFEST}"))

    def faults(self, kind: Kind, key: str) -> list[str] | None:
        """Read an artifact and return what is wrong with it, a line for each file; None if it has no checksums."""
        manifest = parsed(self.read_text(f"{FOLDERS[kind]}/{_plain(key)}/{MANIFEST}"))
        if manifest is None:
            return [f"{MANIFEST}: missing, or no JSON"]
        return faults(manifest, lambda name: self._read_bytes(f"{FOLDERS[kind]}/{key}/{name}"))

    def folder(self, kind: Kind, key: str) -> Path:
        """Return the folder of a published artifact, for reading; UserError if there is none."""
        self.manifest(kind, key)
        return self.root / FOLDERS[kind] / key

    def damage(self, kind: Kind, key: str) -> list[str]:
        """Return what is wrong with an artifact as this machine reads it, a line for each file."""
        return self.faults(kind, key) or []

    def sound_folder(self, kind: Kind, key: str) -> Path:
        """Return what `folder` does, if the checksums are right; otherwise remove the artifact, to be made again.

        Raises:
            StorageError: it was damaged.
        """
        if wrong := self.damage(kind, key):
            self.delete(kind, key)
            found = Damaged(kind, key, self.location, wrong).found
            raise StorageError(f"{found}; it is removed: run the sweep again")
        return self.folder(kind, key)

    def publish(self, kind: Kind, key: str, write: Writer) -> bool:
        """Write an artifact and give it its name; False, and nothing changed, if it exists already."""
        if self.has(kind, key):
            return False
        target = self.root / FOLDERS[kind] / key
        with self.temporary() as folder:
            fill(folder, key, write)
            flush(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                folder.rename(target)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                if self.has(kind, key):
                    return False  # another writer came first
                raise UserError(f"{target} exists but has no {MANIFEST}: move it out of the way") from None
            _flush_one(target.parent)
        return True

    def delete(self, kind: Kind, key: str) -> None:
        """Remove an artifact in one step: readers never see a part of it."""
        self.delete_tree(f"{FOLDERS[kind]}/{_plain(key)}")

    # Failures and logs

    def record_failure(self, key: str, error: str, log: str, tries: int = 0) -> None:
        """Note why a unit failed: one line, where the traceback is, and how many tries in a row ended like this."""
        record = {"key": key, "error": error, "log": log, "tries": tries, "time": now()}
        self.write_text(f"failures/{_plain(key)}.json", json.dumps(record, indent=1))

    def failure(self, key: str) -> dict[str, Any] | None:
        """Return a unit's recorded failure: key, error, log, tries, time; None if there is none that can be read."""
        return failure_in(self.read_text(f"failures/{_plain(key)}.json"))

    def failed(self) -> set[str]:
        """Return the keys of the units whose failure is recorded."""
        return {name.removesuffix(".json") for name in self.names("failures")}

    def failures(self, keys: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return the recorded failures of these units, by key."""
        found = {key: self.failure(key) for key in sorted(self.failed().intersection(keys))}
        return {key: failure for key, failure in found.items() if failure}

    def clear_failure(self, key: str) -> None:
        """Forget the failure of a unit, if there is one."""
        self.delete_tree(f"failures/{_plain(key)}.json")

    def read_log(self, name: str) -> str | None:
        """Return a log's entries, the oldest first; None if there is no such log."""
        return self.read_text(f"logs/{_plain(name)}.log")

    def append_log(self, name: str, text: str) -> str:
        """Append a dated entry to a log and return the log's place, for messages."""
        path = f"logs/{_plain(name)}.log"
        self._append(path, f"=== {now()} {host_name()}\n{text.rstrip()}\n\n".encode())
        return self.place(path)

    def _append(self, name: str, entry: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:  # O_APPEND and one write: entries of two processes do not mix
            file.write(entry)

    # Work in progress

    def work_folder(self, pack_id: str) -> Path:
        """Return the folder where a pack keeps its checkpoint; it is created."""
        folder = self.root / "work" / _plain(pack_id)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def work_ids(self) -> list[str]:
        """Return the ids of all packs that were begun and not removed, sorted."""
        return self.names("work")

    def remove_work(self, pack_id: str) -> None:
        """Remove all a pack kept; its lease goes too, so only the holder may do this."""
        self.delete_tree(f"work/{_plain(pack_id)}")

    # Sweeps

    def save_sweep_file(self, name: str, filename: str, content: str | bytes) -> str:
        """Write one of a sweep's files and return its place, for messages; a part is named SWEEP/PART."""
        path = "/".join(map(_plain, ["sweeps", *name.split("/"), filename]))
        self.write_bytes(path, content.encode() if isinstance(content, str) else content)
        return self.place(path)

    # Small files, on which the rest is built

    def place(self, name: str) -> str:
        """Return where a name lies, for messages."""
        return str(self.root / name)

    def names(self, name: str) -> list[str]:
        """Return what lies in a folder, sorted, dot names left out; empty if there is no such folder."""
        try:
            return sorted(entry for entry in os.listdir(self.root / name) if not entry.startswith("."))
        except FileNotFoundError:
            return []

    def check(self) -> tuple[str, ...]:
        """Write a small file and remove it; return what the user should know of the place, one line each.

        Raises:
            StorageError: nothing can be written there.
        """
        name = f".check~{writer_name()}"
        try:
            self.write_bytes(name, b"")
            self.delete_tree(name)
        except OSError as error:
            raise StorageError(f"storage '{self.location}' cannot be written: {error.strerror}") from error
        return ()

    def exists(self, name: str) -> bool:
        """Say whether there is such a file."""
        return (self.root / name).is_file()

    def read_text(self, name: str) -> str | None:
        """Return the content of a file; None if there is none."""
        try:
            return (self.root / name).read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _read_bytes(self, name: str) -> bytes | None:
        return content(self.root / name)

    def create(self, name: str, text: bytes) -> bool:
        """Write a file unless there is one; return whether it was written. Of several writers one succeeds."""
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with self.temporary() as temporary:
            temporary.write_bytes(text)
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                try:
                    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                except FileExistsError:
                    return False
                os.write(descriptor, text)
                os.close(descriptor)
        return True

    def write_text(self, name: str, text: str) -> None:
        """Write a file of text like `write_bytes`."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file; readers see the old content or the new, nothing between."""
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with self.temporary() as temporary:
            temporary.write_bytes(content)
            _flush_one(temporary)
            os.replace(temporary, target)

    def upload(self, file: Path, name: str) -> None:
        """Write the content of a file of this machine like `write_bytes`."""
        self.write_bytes(name, file.read_bytes())

    def download(self, name: str, file: Path) -> bool:
        """Write what lies under a name to a file of this machine; return whether there is such a thing."""
        found = self._read_bytes(name)
        if found is None:
            return False
        file.write_bytes(found)
        return True

    def delete_tree(self, name: str) -> None:
        """Remove a file or folder under its name at once, its content after that."""
        with self.temporary() as temporary:
            try:
                os.rename(self.root / name, temporary)
            except FileNotFoundError:
                return

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """Yield an unused path named after this process; what is still there at the end is removed."""
        path = self.root / ".tmp" / writer_name()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield path
        finally:
            _remove(path)

    def sweep_up(self) -> int:
        """Remove what dead writers left under temporary names; return how many there were."""
        stale = [path for path in (self.root / ".tmp").glob("*~*~*~*") if is_stale(path.name)]
        for path in stale:
            _remove(path)
        return len(stale)


# Writing durably


def writer_name() -> str:
    """Return an unused temporary name: host, pid, time and a random part."""
    return f"{host_name()}~{os.getpid()}~{int(time.time())}~{uuid.uuid4().hex[:12]}"


def is_stale(name: str) -> bool:
    """Say whether the writer of a temporary name is dead, or for another host too old to be alive."""
    host, pid, started, _ = name.rsplit("~", 3)
    return is_dead(host, int(pid)) or time.time() - int(started) > STALE_AFTER


def fill(folder: Path, key: str, write: Writer) -> None:
    """Create the folder and have the artifact written into it, its manifest included; add checksums to that."""
    folder.mkdir()
    write(folder)
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"the writer of '{key}' left no {MANIFEST}")
    manifest = checksummed(json.loads((folder / MANIFEST).read_text(encoding="utf-8")), folder)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def flush(folder: Path) -> None:
    """Flush a folder to the disk, so that its content is complete before it is renamed."""
    for path in [*folder.rglob("*"), folder]:
        _flush_one(path)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def content(path: Path) -> bytes | None:
    """Return the content of a file; None if there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


# Names


def _plain(name: str) -> str:
    """Refuse a name that would lead out of its folder or hide there."""
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise ValueError(f"'{name}' is not a plain name")
    return name
