"""A store behind a URL: S3, GCS, or another file system of fsspec.

Object stores have no rename. An artifact's files are uploaded first, under a name of their own, and
``manifest.json``, which names that place, last: it is the commit marker. Two writers of one key can
therefore never mix their files, and where the store can refuse to overwrite an object, the manifest is
written exactly once. Artifacts are downloaded once into the user's cache; keys name content, so a cached
copy is never out of date.

Checkpoints stay on the disk of the machine that writes them: if it is lost, unfinished work starts again.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.dirfs import DirFileSystem

from cluster.store.files import FOLDERS, Store, Writer, fill, is_stale, writer_name
from cluster.units import Kind
from mpcwdwm.artifact_names import MANIFEST
from mpcwdwm.data.fingerprint import cache_folder
from mpcwdwm.errors import UserError

__all__ = ["RemoteStore"]

EXCLUSIVE = frozenset({"s3", "gs", "abfs", "memory"})  # protocols whose `pipe_file` knows mode="create"
UPLOAD = "upload"  # field of a remote manifest: the folder, below the key's, that holds the files


class RemoteStore(Store):
    """An artifact store behind a URL; cached artifacts and work in progress lie in a local folder."""

    has_locks = False

    def __init__(self, location: str) -> None:
        location = location.rstrip("/")
        try:
            files, root = fsspec.core.url_to_fs(location)
        except (ImportError, ValueError) as error:  # no such protocol, or its package is missing
            raise UserError(f"storage '{location}' cannot be opened: {error}") from None
        super().__init__(cache_folder() / "stores" / hashlib.sha256(location.encode()).hexdigest()[:12])
        self.location = location
        self._files = DirFileSystem(root, files)  # paths below the location
        protocol = files.protocol
        self._creates = not EXCLUSIVE.isdisjoint((protocol,) if isinstance(protocol, str) else protocol)
        if not self._creates:
            self.notices = (
                f"storage '{location}' cannot refuse to overwrite an object: of two sweeps that publish the same"
                " at once, the later one is kept",
            )
        self._cache = Store(self.root)

    # Artifacts

    def keys(self, kind: Kind) -> list[str]:
        """Return the keys of all published artifacts of a kind, sorted, from one listing."""
        self._files.invalidate_cache()
        found = self._files.glob(f"{FOLDERS[kind]}/*/{MANIFEST}")
        return sorted(str(path).split("/")[-2] for path in found)

    def folder(self, kind: Kind, key: str) -> Path:
        """Return a local folder with a published artifact; it is downloaded the first time."""
        if not self._cache.has(kind, key):
            manifest = self.manifest(kind, key)

            def download(folder: Path) -> None:
                for path in self._files.ls(f"{FOLDERS[kind]}/{key}/{manifest[UPLOAD]}", detail=False):
                    self._files.get_file(path, str(folder / _last(path)))
                (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")

            self._cache.publish(kind, key, download)
        return self._cache.folder(kind, key)

    def publish(self, kind: Kind, key: str, write: Writer) -> bool:
        """Upload an artifact, its manifest last; False, and nothing changed, if it exists already."""
        if self.has(kind, key):
            return False
        place, upload = f"{FOLDERS[kind]}/{key}", writer_name()
        with self._cache.temporary() as folder:
            fill(folder, key, write)
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            for path in sorted(folder.iterdir()):
                if path.name != MANIFEST:
                    self._files.makedirs(f"{place}/{upload}", exist_ok=True)
                    self._files.put_file(str(path), f"{place}/{upload}/{path.name}")
        if not self.has(kind, key):  # another writer may have come first while we uploaded
            self._commit(f"{place}/{MANIFEST}", json.dumps({**manifest, UPLOAD: upload}, indent=1).encode())
        if self.manifest(kind, key)[UPLOAD] == upload:
            return True
        self.delete_tree(f"{place}/{upload}")
        return False

    def _commit(self, name: str, manifest: bytes) -> None:
        """Write a manifest unless there is one; read it back to see whose it is, as an answer may be lost."""
        try:
            self._write(name, manifest, **({"mode": "create"} if self._creates else {}))
        except Exception:  # the back ends have no error in common for an object that exists
            if not self.exists(name):
                raise

    def delete(self, kind: Kind, key: str) -> None:
        """Remove an artifact, its manifest first, and our copy of it."""
        if self.has(kind, key):
            self._files.rm_file(f"{FOLDERS[kind]}/{key}/{MANIFEST}")
        super().delete(kind, key)
        self._cache.delete(kind, key)

    # Failures and logs

    def failures(self, keys: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return the recorded failures of these units, by key, from requests that do not wait for one another."""
        names = [f"failures/{key}.json" for key in sorted(self.failed().intersection(keys))]
        found = self._files.cat(names, on_error="omit") if names else {}
        return {record["key"]: record for record in map(json.loads, found.values())}

    def read_log(self, name: str) -> str | None:
        """Return a log's entries, each an object whose name begins with its time."""
        path = f"logs/{name}.log"
        entries = [self.read_text(f"{path}/{entry}") for entry in self.names(path)]
        return "".join(entry for entry in entries if entry) or None

    # Work in progress and sweeps: names are shared, checkpoints are local

    def remove_work(self, pack_id: str) -> None:
        """Remove all a pack kept, here and there."""
        super().remove_work(pack_id)
        self._cache.remove_work(pack_id)

    # Small files

    def place(self, name: str) -> str:
        """Return where a name lies, for messages."""
        return f"{self.location}/{name}"

    def names(self, name: str) -> list[str]:
        """Return what lies under a prefix, sorted, dot names left out."""
        self._files.invalidate_cache()
        try:
            entries = set(map(_last, self._files.ls(name, detail=False)))
        except FileNotFoundError:
            return []
        return sorted(entry for entry in entries if not entry.startswith("."))

    def exists(self, name: str) -> bool:
        """Say whether there is such an object."""
        self._files.invalidate_cache()
        return bool(self._files.isfile(name))

    def read_text(self, name: str) -> str | None:
        """Return the content of an object; None if there is none."""
        self._files.invalidate_cache()
        try:
            return bytes(self._files.cat_file(name)).decode()
        except FileNotFoundError:
            return None

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write an object; object stores replace whole objects."""
        self._write(name, content)

    def _write(self, name: str, content: bytes, **options: Any) -> None:
        self._files.makedirs(name.rsplit("/", 1)[0], exist_ok=True)
        self._files.pipe_file(name, content, **options)

    def _append(self, name: str, entry: bytes) -> None:
        """Write a log's entry as an object of its own: objects cannot be appended to."""
        self.write_bytes(f"{name}/{time.time_ns()}~{uuid.uuid4().hex[:12]}", entry)

    def delete_tree(self, name: str) -> None:
        """Remove an object, or all below a prefix."""
        self._files.invalidate_cache()
        if self._files.exists(name):
            self._files.rm(name, recursive=True)

    def sweep_up(self) -> int:
        """Remove what dead writers left, uploads without a commit included; return how many there were."""
        removed = super().sweep_up()
        for folder in FOLDERS.values():
            for key in self.names(folder):
                for upload in (name for name in self.names(f"{folder}/{key}") if name.count("~") == 3):
                    committed = json.loads(self.read_text(f"{folder}/{key}/{MANIFEST}") or "{}").get(UPLOAD)
                    if upload != committed and is_stale(upload):
                        self.delete_tree(f"{folder}/{key}/{upload}")
                        removed += 1
        return removed


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]
