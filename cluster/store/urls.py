"""A store behind a URL: S3, GCS, or another file system of fsspec.

Object stores have no rename. An artifact's files are uploaded first, under a name of their own, and
``manifest.json``, which names that place, last: it is the commit marker. Two writers of one key can
therefore never mix their files, and where the store can refuse to overwrite an object, the manifest is
written exactly once. Artifacts are downloaded once into the user's cache; keys name content, so a cached
copy is never out of date.

Checkpoints are written to the disk of the machine that trains, and copied from there (`cluster.checkpoints`).

A server that restarts, or is overloaded, is waited for: what fails after the storage has answered once is asked again
for two minutes. A storage that has never answered is an error at once.

Credentials and endpoint are those of the back end's own environment (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``,
a role of the machine); nothing of them is written anywhere.
"""

import hashlib
import json
import os
import re
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.dirfs import DirFileSystem

from cluster.store import checksums
from cluster.store.files import (
    FOLDERS,
    Damaged,
    StorageError,
    Store,
    Writer,
    content,
    fill,
    is_stale,
    writer_name,
)
from cluster.store.s3 import PROTOCOLS, client_options, names_below
from cluster.store.texts import failure_in, parsed
from cluster.units import Kind
from mpcwdwm.artifact_names import MANIFEST
from mpcwdwm.data.fingerprint import cache_folder
from mpcwdwm.errors import UserError

__all__ = ["RemoteStore"]

OBJECTS = frozenset({"s3", "gs", "abfs", "memory"})  # protocols without folders, whose `pipe_file` can create only
LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "requests", "gcsfs", "azure")  # whose errors are the storage's
PATIENCE = 120.0  # seconds that a storage which has answered before may fail: servers restart within them
PAUSE = 1.0  # seconds between two tries; the back ends' own are some tenths of a second apart
AT_ONCE = 500  # manifests that are asked for together
UPLOAD = "upload"  # field of a remote manifest: the folder, below the key's, that holds the files


class RemoteStore(Store):
    """An artifact store behind a URL; cached artifacts and work in progress lie in a local folder."""

    has_locks = False
    shares_work = False

    def __init__(self, location: str) -> None:
        location = location.rstrip("/")
        scheme = location.partition("://")[0]
        if "@" in location.removeprefix(f"{scheme}://").partition("/")[0]:
            shown = re.sub(r"://[^/]*@", "://***@", location)
            raise UserError(f"storage '{shown}': give user and password by the environment, not in the URL")
        try:
            # of what others write meanwhile no earlier listing knows
            files, root = fsspec.core.url_to_fs(location, use_listings_cache=False, **client_options(scheme))
        except ImportError as error:
            extra = "pip install 'mpcwdwm[s3]'" if scheme in PROTOCOLS else str(error)
            raise UserError(f"storage '{location}' needs a package that is not installed: {extra}") from None
        except (ValueError, OSError) as error:  # no such protocol, or a server that does not answer
            raise UserError(f"storage '{location}' cannot be opened: {error}") from None
        super().__init__(cache_folder() / "stores" / hashlib.sha256(location.encode()).hexdigest()[:12])
        self.location = location
        self._files, self._protocol = DirFileSystem(root, files), scheme  # paths below the location
        protocol = files.protocol
        self.creates = not OBJECTS.isdisjoint((protocol,) if isinstance(protocol, str) else protocol)
        self._has_folders = not self.creates
        if not self.creates:
            self.notices = (self._overwrites(),)
        self._cache = Store(self.root)
        self._has_answered = False

    # Artifacts

    def keys(self, kind: Kind) -> list[str]:
        """Return the keys of all published artifacts of a kind, sorted, from one listing of all that lies there."""
        return sorted(key for key, entries in self._entries(FOLDERS[kind]).items() if MANIFEST in entries)

    def manifests(self, kind: Kind) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """Yield key and manifest of all artifacts of a kind; requests do not wait for one another."""
        keys = self.names(FOLDERS[kind])
        for first in range(0, len(keys), AT_ONCE):
            names = {key: f"{FOLDERS[kind]}/{key}/{MANIFEST}" for key in keys[first : first + AT_ONCE]}
            found = self._ask(self._files.cat, list(names.values()), on_error="return")
            for key, name in names.items():
                content = found.get(name)
                if isinstance(content, FileNotFoundError):
                    continue  # another writer is uploading it
                if isinstance(content, Exception):
                    raise StorageError(f"storage '{self.place(name)}' failed: {content}")
                yield key, parsed(content.decode(errors="replace")) if isinstance(content, bytes) else None

    def faults(self, kind: Kind, key: str) -> list[str] | None:
        """Read an artifact and return what is wrong with it, a line for each file; None if it has no checksums."""
        manifest = parsed(self.read_text(f"{FOLDERS[kind]}/{key}/{MANIFEST}"))
        if manifest is None or UPLOAD not in manifest:
            return [f"{MANIFEST}: missing, or not that of an artifact"]
        place = f"{FOLDERS[kind]}/{key}/{manifest.pop(UPLOAD)}"
        return checksums.faults(manifest, lambda name: self._read_bytes(f"{place}/{name}"))

    def folder(self, kind: Kind, key: str) -> Path:
        """Return a local folder with a published artifact; it is downloaded the first time."""
        if not self._cache.has(kind, key):
            manifest = self.manifest(kind, key)
            place = f"{FOLDERS[kind]}/{key}/{manifest.pop(UPLOAD)}"

            def download(folder: Path) -> None:
                for path in self._ask(self._files.ls, place, detail=False):
                    self._ask(self._files.get_file, path, str(folder / _last(path)))
                (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
                if wrong := checksums.faults(manifest, lambda name: content(folder / name)):
                    raise Damaged(kind, key, self.location, wrong)

            self._cache.publish(kind, key, download)
        return self._cache.folder(kind, key)

    def damage(self, kind: Kind, key: str) -> list[str]:
        """Return what is wrong with an artifact as it is downloaded; a damaged copy is downloaded again."""
        if self._cache.has(kind, key) and self._cache.faults(kind, key):
            self._cache.delete(kind, key)
        try:
            self.folder(kind, key)
        except Damaged as error:
            return error.wrong
        return []

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
                    self.upload(path, f"{place}/{upload}/{path.name}")
        if not self.has(kind, key):  # another writer may have come first while we uploaded
            self.create(f"{place}/{MANIFEST}", json.dumps({**manifest, UPLOAD: upload}, indent=1).encode())
        if self.manifest(kind, key)[UPLOAD] == upload:
            return True
        self.delete_tree(f"{place}/{upload}")
        return False

    def delete(self, kind: Kind, key: str) -> None:
        """Remove an artifact, its manifest first, and our copy of it; not what another writer uploads meanwhile."""
        place = f"{FOLDERS[kind]}/{key}"
        text = self.read_text(f"{place}/{MANIFEST}")
        if text is not None:
            self.delete_tree(f"{place}/{MANIFEST}")
        if upload := (parsed(text) or {}).get(UPLOAD):
            self.delete_tree(f"{place}/{upload}")
        self._cache.delete(kind, key)

    # Failures and logs

    def failures(self, keys: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return the recorded failures of these units, by key, from requests that do not wait for one another."""
        names = [f"failures/{key}.json" for key in sorted(self.failed().intersection(keys))]
        found = self._ask(self._files.cat, names, on_error="omit") if names else {}
        records = [failure_in(content.decode(errors="replace")) for content in found.values()]
        return {record["key"]: record for record in records if record}

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
        try:
            entries = set(map(_last, self._ask(self._files.ls, name, detail=False)))
        except FileNotFoundError:
            return []
        return sorted(entry for entry in entries if entry and not entry.startswith("."))

    def exists(self, name: str) -> bool:
        """Say whether there is such an object."""
        try:
            return bool(self._ask(self._files.info, name)["type"] == "file")  # `isfile` takes an error for a no
        except FileNotFoundError:
            return False

    def read_text(self, name: str) -> str | None:
        """Return the content of an object; None if there is none."""
        content = self._read_bytes(name)
        return None if content is None else content.decode(errors="replace")

    def _read_bytes(self, name: str) -> bytes | None:
        try:
            return bytes(self._ask(self._files.cat_file, name))
        except FileNotFoundError:
            return None

    def check(self) -> tuple[str, ...]:
        """Write a small object and remove it; say if the place lets a second writer overwrite, though it should not."""
        name = f".check~{writer_name()}"
        try:
            ignored = self.creates and self.create(name, b"1") and self.create(name, b"2")
            if not self.creates:
                self._write(name, b"")
            self.delete_tree(name)
        except FileNotFoundError:
            raise StorageError(f"storage '{self.location}': there is no such bucket; create it first") from None
        self.creates = self.creates and not ignored
        return (self._overwrites(),) if ignored else ()

    def create(self, name: str, content: bytes) -> bool:
        """Write an object unless there is one; return whether it was written. Of several writers one succeeds."""
        if not self.creates:
            if self.exists(name):
                return False
            self._write(name, content)
            return True
        for is_last in (False, True):
            try:
                self._write(name, content, mode="create")
                return True
            except FileNotFoundError:
                raise
            except Exception:  # the back ends have no error in common for an object that exists
                if self.exists(name):  # waits for a storage that does not answer
                    return False
                if is_last:
                    raise
        return False

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write an object; object stores replace whole objects."""
        self._write(name, content)

    def _write(self, name: str, content: bytes, **options: Any) -> None:
        self._make_folder(name)
        # what exists already is another error of each back end, and must not be tried again
        self._ask(self._files.pipe_file, name, content, patient="mode" not in options, **options)

    def upload(self, file: Path, name: str) -> None:
        """Write a file's content to an object, in parts if it is large."""
        self._make_folder(name)
        self._ask(self._files.put_file, str(file), name)

    def download(self, name: str, file: Path) -> bool:
        """Replace a file by an object's content; return whether there is such an object."""
        if not self.exists(name):
            return False
        with self._cache.temporary() as partial:
            self._ask(self._files.get_file, name, str(partial))
            file.parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial, file)
        return True

    def _make_folder(self, name: str) -> None:
        """Make an object's folder where the back end has folders; S3's would look for the bucket, and make one."""
        if self._has_folders and "/" in name:
            self._ask(self._files.makedirs, name.rsplit("/", 1)[0], exist_ok=True)

    def _append(self, name: str, entry: bytes) -> None:
        """Write a log's entry as an object of its own: objects cannot be appended to."""
        self.write_bytes(f"{name}/{time.time_ns()}~{uuid.uuid4().hex[:12]}", entry)

    def delete_tree(self, name: str) -> None:
        """Remove an object, or all below a prefix."""
        with suppress(FileNotFoundError):
            self._ask(self._files.rm, name, recursive=True)

    def sweep_up(self) -> int:
        """Remove what dead writers left, uploads without a commit included; return how many there were."""
        removed = super().sweep_up()
        for pack_id in self._cache.work_ids():  # listed before what is there, which is begun first
            if pack_id not in self.names("work"):
                self._cache.remove_work(pack_id)
                removed += 1
        for folder in FOLDERS.values():
            for key, entries in self._entries(folder).items():
                uploads = [name for name in entries if name.count("~") == 3]
                if MANIFEST in entries and len(uploads) == 1:
                    continue  # the one that the manifest names
                dead = [name for name in uploads if is_stale(name)]  # asked first: afterwards none of them commits
                committed = (parsed(self.read_text(f"{folder}/{key}/{MANIFEST}")) or {}).get(UPLOAD) if dead else None
                for upload in dead:
                    if upload != committed:
                        self.delete_tree(f"{folder}/{key}/{upload}")
                        removed += 1
        return removed

    def _entries(self, folder: str) -> dict[str, set[str]]:
        """Return what lies in each folder below a folder, from one listing, a request for a thousand objects."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for path in self._ask(self._below, folder):
            key, _, inside = path.partition("/")
            if inside:
                found[key].add(inside.partition("/")[0])
        return found

    def _below(self, folder: str) -> list[str]:
        """Return the paths of all that lies below a folder, relative to it."""
        if self._protocol in PROTOCOLS:
            return list(names_below(self._files.fs, f"{self._files.path}/{folder}"))
        # `glob` would list each folder by a request of its own
        return [str(path).removeprefix(f"{folder}/") for path in self._files.find(folder)]

    # What goes wrong

    def _overwrites(self) -> str:
        return (
            f"storage '{self.location}' cannot refuse to overwrite an object: of two sweeps that publish the same"
            " at once, the later one is kept"
        )

    def _ask(self, act: Callable[..., Any], *arguments: Any, patient: bool = True, **options: Any) -> Any:
        """Call the back end, again for some time where it has answered before; StorageError if it does not answer."""
        began, told = time.monotonic(), False
        while True:
            try:
                with self._answering():
                    answer = act(*arguments, **options)
            except (FileNotFoundError, FileExistsError):
                self._has_answered = True
                raise
            except StorageError as error:
                lasts = time.monotonic() - began < PATIENCE and not isinstance(error.__cause__, PermissionError)
                if not (patient and self._has_answered and lasts):
                    raise
                if not told:
                    self.on_outage(f"{error}; it is tried again for {PATIENCE:g} s")
                told = True
                time.sleep(PAUSE)
            else:
                self._has_answered = True
                return answer

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Turn what the back end's libraries raise into one line; what is missing or exists already stays as it is."""
        try:
            yield
        except (FileNotFoundError, FileExistsError, UserError):
            raise
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in LIBRARIES:
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise StorageError(f"storage '{self.location}' failed: {reason[:200]}") from error


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]
