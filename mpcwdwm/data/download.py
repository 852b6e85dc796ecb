"""Downloads: a D4RL dataset into D4RL's own cache folder, resumed where an earlier attempt stopped.

A download grows as ``<file>.part`` and gets its name only when it is complete and is HDF5, so a file under
its name is always whole. Beside the part lies ``<file>.part.json``: the address it came from, the server's
mark of its version and its size, so that two versions are never joined. Mirrors are base addresses in the
user's settings,

    # ~/.config/mpcwdwm/settings.yaml
    mirrors: [https://mirror.example.org/d4rl]

tried in order, before the original, as ``<mirror>/<file name>``. After the original comes a copy of D4RL's files on
Hugging Face, at a fixed revision; ``HF_ENDPOINT`` names another host for it, and ``HF_TOKEN`` is sent there alone.

D4RL's host is asked by https (d4rl itself asks by http), and no redirection leads from https to http. A mirror is asked
as its address says.
"""

import contextlib
import fcntl
import http.client
import json
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import h5py
import platformdirs
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mpcwdwm.data.fingerprint import write_json
from mpcwdwm.data.sidecar import recorded_size, verify_or_record
from mpcwdwm.data.tasks import Task, dataset_path, expected_path
from mpcwdwm.errors import UserError

__all__ = ["download", "mirrors_from_settings", "settings_path"]

BLOCK = 1 << 18  # bytes between two calls of on_progress
ATTEMPTS = 3  # per address; each continues the one before
PAUSE_S = 1.0  # before another attempt
SILENCE_S = 8.0  # without a byte, a connection counts as broken
HUGGING_FACE = "https://huggingface.co"
COPY = "datasets/imone/D4RL/resolve/9ed58d8a76c12f4c1cb5db51fa71389e703d2ec5"  # flat, under Berkeley's file names

OnBytes = Callable[[int, int | None], None]


class _Broken(Exception):
    """The connection ended early; another attempt may go on from here."""


class _Silent(_Broken):
    """No byte came for `SILENCE_S`."""


class _Refused(Exception):
    """This address will not give the file; another one may."""


# ── The user's settings ───────────────────────────────────────────────────────


def settings_path() -> Path:
    """Return the path of the user's settings, on Linux under ``$XDG_CONFIG_HOME/mpcwdwm`` or ``~/.config/mpcwdwm``."""
    return platformdirs.user_config_path("mpcwdwm", appauthor=False) / "settings.yaml"


def mirrors_from_settings() -> list[str]:
    """Return the base addresses under ``mirrors`` in the user's settings, none without a file.

    Raises:
        UserError: the file is not YAML, or ``mirrors`` is not a list of http(s) addresses.
    """
    path = settings_path()
    if not path.exists():
        return []
    try:
        settings = YAML(typ="safe", pure=True).load(path) or {}
    except (OSError, ValueError, YAMLError) as error:
        raise UserError(f"settings '{path}' cannot be read: {error}") from None
    mirrors = (settings.get("mirrors") or []) if isinstance(settings, dict) else None
    if not isinstance(mirrors, list):
        raise UserError(f"settings '{path}' must read 'mirrors: [https://host/folder, ...]'")
    for mirror in mirrors:
        if not isinstance(mirror, str) or not mirror.startswith(("http://", "https://")):
            raise UserError(f"settings '{path}': mirror '{mirror}' is not an http or https address")
    return mirrors


# ── Downloading ───────────────────────────────────────────────────────────────


def download(task: Task, *, mirrors: Sequence[str] | None = None, on_progress: OnBytes | None = None) -> Path:
    """Return the path of the task's dataset, downloading it first if it is not there.

    Args:
        task: a D4RL task; for any other its existing file is returned.
        mirrors: base addresses tried before the original and Hugging Face; None: those in the user's settings.
        on_progress: called with bytes so far (those of an earlier attempt included) and in all, if known.

    Raises:
        UserError: no address gave the file (the message says which file to put where, and keeps what has
            arrived), what arrived is not HDF5, the disk is full or not writable, another process is downloading
            it, or an existing file is not the one recorded at first use.
    """
    target = expected_path(task)
    if task.url is None or target.exists():
        return dataset_path(task)
    bases = mirrors_from_settings() if mirrors is None else mirrors
    mirrored = [f"{base.rstrip('/')}/{target.name}" for base in bases]
    addresses = [*mirrored, task.url, f"{_hugging_face()}/{target.name}"]
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(part) as file:
            if target.exists():  # another process has finished it
                return dataset_path(task)
            origin = _first_that_gives_it(addresses, file, target, on_progress)
            os.fsync(file.fileno())
            os.replace(part, target)
            _note(file).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write '{part}': {error.strerror or error}") from None
    verify_or_record(target, _shown(origin))
    return target


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[IO[bytes]]:
    """Open the part for appending, refusing if another process has it open."""
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is downloading '{part.name}': wait for it to finish") from None
        yield file


def _first_that_gives_it(addresses: list[str], file: IO[bytes], target: Path, on_progress: OnBytes | None) -> str:
    """Complete the part from the first address that can, and return it; raises UserError if none does."""
    failures = []
    for address in addresses:
        try:
            _complete(address, file, recorded_size(target), on_progress)
            _require_hdf5(file)
            return address
        except (_Refused, _Broken) as error:
            failures.append(f"{_shown(address)}: {error}")
    kept = "; the part that has arrived is kept, run the same command again to continue" if _size(file) else ""
    if not kept:
        Path(file.name).unlink(missing_ok=True)
        _note(file).unlink(missing_ok=True)
    raise UserError(
        f"could not download '{target.name}' ({'; '.join(failures)}){kept};"
        f" without a connection, put the file at '{target}' yourself"
    )


def _shown(address: str) -> str:
    """Return an address as it may be printed and recorded, without user and password."""
    return re.sub(r"://[^/@]*@", "://***@", address)


class _StayingEncrypted(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but none from https to anything else."""

    def redirect_request(self, req: urllib.request.Request, *where: Any) -> urllib.request.Request | None:
        """Return the request to the new address, the last argument."""
        if req.full_url.startswith("https://") and not where[-1].startswith("https://"):
            raise _Refused("it redirects from https to an address without encryption")
        return super().redirect_request(req, *where)


_ask = urllib.request.build_opener(_StayingEncrypted).open


def _hugging_face() -> str:
    """Return the base address of the copy on Hugging Face."""
    return f"{(os.environ.get('HF_ENDPOINT') or HUGGING_FACE).rstrip('/')}/{COPY}"


def _complete(address: str, file: IO[bytes], size: int | None, on_progress: OnBytes | None) -> None:
    """Fetch what the part lacks, in several attempts; raises _Refused or, after the last one, _Broken.

    A host that falls silent before it has sent a byte is not asked again: another one may answer.
    """
    for _ in range(ATTEMPTS - 1):
        before = _size(file)
        try:
            return _fetch(address, file, size, on_progress)
        except _Broken as error:
            if isinstance(error, _Silent) and _size(file) <= before:
                raise
            time.sleep(PAUSE_S)
    return _fetch(address, file, size, on_progress)


def _fetch(address: str, file: IO[bytes], size: int | None, on_progress: OnBytes | None) -> None:
    """Make one request for what the part lacks and append what comes; ``size``: that of the file seen before."""
    note = _read_note(file)
    start = _size(file) if note.get("address") == address else 0  # a part from elsewhere is not continued
    request = urllib.request.Request(address, headers={"User-Agent": "mpcwdwm"})
    if address.startswith(_hugging_face()) and (token := os.environ.get("HF_TOKEN")):
        request.add_unredirected_header("Authorization", f"Bearer {token}")  # the storage it redirects to needs none
    if start:
        request.add_header("Range", f"bytes={start}-")
        if note.get("version"):
            request.add_header("If-Range", str(note["version"]))
    try:
        with _ask(request, timeout=SILENCE_S) as response:
            first, total = _extent(response)
            if size is not None and total not in (None, size):
                raise _Refused(f"the server's file has {total} bytes, the one recorded at first use {size}")
            if first not in (0, start):
                raise _Refused(f"the server sent bytes from {first} on instead of {start}")
            if first and total != note.get("size"):
                file.truncate(0)
                raise _Broken("the server's file has changed, started again")
            if first == 0:  # new, or the server knows no ranges, or has another version now
                file.truncate(0)
                write_json(_note(file), {"address": address, "version": _version(response), "size": total})
            _append(response, file, total, on_progress)
    except urllib.error.HTTPError as error:
        _answer_error(error, start, file)
    except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError):
            raise _Silent(f"silent for {SILENCE_S:g} s") from None
        raise _Broken(str(reason) or type(reason).__name__) from None


def _append(response: Any, file: IO[bytes], total: int | None, on_progress: OnBytes | None) -> None:
    """Append the body block by block; raises _Broken if it ends before the announced length."""
    done = _size(file)
    while block := response.read(BLOCK):
        file.write(block)
        done += len(block)
        if on_progress:
            on_progress(done, total)
    file.flush()
    if total is not None and done < total:
        raise _Broken(f"the connection ended after {done} of {total} bytes")


def _answer_error(error: urllib.error.HTTPError, start: int, file: IO[bytes]) -> None:
    """Return if the part is complete already (416), else raise what the status means."""
    if error.code == 416 and start:
        match = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        if match and int(match[1]) == start:
            return
        file.truncate(0)
        raise _Broken("the part is longer than the server's file, started again")
    if error.code in (408, 429) or error.code >= 500:
        raise _Broken(f"HTTP {error.code} {error.reason}")
    raise _Refused(f"HTTP {error.code} {error.reason}")


# ── The part, and the note beside it ──────────────────────────────────────────


def _note(file: IO[bytes]) -> Path:
    """Return where the part's address, version and size are kept."""
    return Path(file.name + ".json")


def _read_note(file: IO[bytes]) -> dict[str, Any]:
    """Return the part's address, version and size, nothing if they are absent or damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
        return dict(json.loads(_note(file).read_text(encoding="utf-8")))
    return {}


def _size(file: IO[bytes]) -> int:
    """Return the part's size in bytes."""
    file.flush()
    return os.fstat(file.fileno()).st_size


def _version(response: Any) -> str | None:
    """Return the server's mark of the file's version, fit for If-Range: a strong ETag or a date."""
    etag = response.headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return str(etag)
    return response.headers.get("Last-Modified") or None


def _extent(response: Any) -> tuple[int, int | None]:
    """Return at which byte the body starts, and the whole file's size where it is announced."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not match:
            raise _Refused("the server sent a part without saying which")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length")
    return 0, int(length) if length and length.isdigit() else None


def _require_hdf5(file: IO[bytes]) -> None:
    """Empty the part and raise _Refused unless it is a complete HDF5 file, not a log-in page, say."""
    _size(file)  # so that everything is on disk
    try:
        h5py.File(file.name, "r", locking=False).close()  # HDF5's own lock would wait for ours
    except OSError:
        start = Path(file.name).read_bytes()[:20]
        file.truncate(0)
        raise _Refused(f"what arrived is not a complete HDF5 file, it starts with {start!r}") from None
