"""An exclusive lock on a pack's work that is released when its holder ends.

Two drivers, or a driver and the workers of a killed one, may want the same pack. The holder of the
lease works; the other waits, and finds the artifacts published.

In a folder the lease is ``flock`` on ``work/<pack id>/lease``: the kernel releases it when the
holder ends, however it ends, on NFS also across machines. Behind a URL, and on file systems without
locks, it is a heartbeat: a record that one process alone can create, renewed every few seconds, and
taken over once it has expired. A holder that cannot renew it until then has lost the lease, and
`Lease.check` says so.

Who waits believes no other machine's clock (`Watch`): a record that its clock calls old is watched until it should
have been renewed twice, and one that is not renewed for the time of an expiry is old, whatever time stands in it. Who
does not wait has only the clocks. Two that take over the same expired record within one second can both get in; that
costs time, not correctness, because publishing never overwrites.

Nodes with and without locks may share a folder: each reads the record of the other. A lock's record
does not expire, but is cleared on release.
"""

import contextlib
import errno
import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.provenance import is_dead, process
from cluster.store.files import Store
from cluster.store.texts import parsed
from mpcwdwm.errors import Interrupted

__all__ = ["Busy", "Lease", "Lost", "hold", "holder", "is_held"]

POLL = 0.2  # seconds between two looks while waiting: short against any work, long against a syscall
RENEW = 15.0  # seconds between two heartbeats
EXPIRY = 90.0  # seconds without a heartbeat until the holder counts as dead: several were missed
CONFIRM = 2 * RENEW  # seconds that a record has to stay as it is for a clock to be believed that calls it old
SETTLE = 1.0  # seconds between writing a heartbeat and trusting it: another taker would show by then
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # errors of file systems without flock


class Busy(RuntimeError):
    """Another process holds the lease; the message names it."""


class Lost(OSError):
    """The lease expired under its holder, through its storage or clocks: another process may hold it now."""


@dataclass(frozen=True)
class Lease:
    """A lease that was taken."""

    release: Callable[[], None]
    is_lost: Callable[[], bool]

    def check(self) -> None:
        """Raise `Lost` if the lease has expired or was taken over."""
        if self.is_lost():
            raise Lost(f"the lease was lost: the storage could not be written for {EXPIRY:g} s, or it was taken over")


@contextmanager
def hold(
    store: Store,
    pack_id: str,
    *,
    wait: bool,
    on_wait: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Lease]:
    """Hold the lease of a pack within the block.

    After waiting, look again at what is published: the previous holder has probably done the work.

    Args:
        store: where the pack's work folder lies.
        pack_id: `cluster.units.Pack.id`.
        wait: wait until the lease is free; otherwise raise `Busy` at once.
        on_wait: called with "another process (pid … on …) is computing …, waiting", once per holder.
        stop: set from outside to give up waiting: `Interrupted`.
    """
    told, watch = "", Watch() if wait else None
    while (lease := _take(store, pack_id, watch)) is None:
        record = holder(store, pack_id)
        message = f"{_describe(record)} is computing {pack_id}"
        if not wait:
            raise Busy(message)
        if on_wait and record and message != told:  # no record: it is being released
            told = message
            on_wait(f"{message}, waiting")
        if stop and stop.is_set():
            raise Interrupted(message)
        time.sleep(POLL)
    try:
        yield lease
    finally:
        lease.release()


def holder(store: Store, pack_id: str) -> dict[str, Any] | None:
    """Return who took the lease last: host, pid, started; None if nobody did or it cannot be read."""
    return _record(store.read_text(_name(pack_id)))


def _record(text: str | None) -> dict[str, Any] | None:
    found = parsed(text) or {}  # nothing: released, or read between truncation and writing
    whole = isinstance(found.get("host"), str) and isinstance(found.get("pid"), int)
    return found if whole and isinstance(found.get("renewed", 0.0), (int, float)) else None


def _is_alive(record: dict[str, Any], watch: "Watch | None" = None) -> bool:
    """Say whether a record is that of a living holder; the record of a lock does not expire."""
    if is_dead(record["host"], record["pid"]):
        return False
    if "renewed" not in record:
        return True
    looks_fresh = time.time() - record["renewed"] < EXPIRY
    return looks_fresh if watch is None else watch.sees_life(record, looks_fresh=looks_fresh)


class Watch:
    """What a process that waits has seen of a heartbeat, by a clock that nobody sets."""

    def __init__(self) -> None:
        self._seen: tuple[Any, Any] | None = None
        self._since = 0.0

    def sees_life(self, record: dict[str, Any], *, looks_fresh: bool) -> bool:
        """Take note of the record and return whether its holder may live.

        Args:
            record: the heartbeat's, as it is now.
            looks_fresh: whether it is, if this machine's clock and the holder's agree.
        """
        seen = (record.get("token"), record["renewed"])
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        return time.monotonic() - self._since < (EXPIRY if looks_fresh else CONFIRM)


def is_held(store: Store, pack_id: str) -> bool:
    """Say whether the lease's record is that of a living holder; nothing is locked, so that nobody has to wait.

    Of another host's process it is only known that it did not release the lease.
    """
    record = holder(store, pack_id)
    return record is not None and _is_alive(record)


def _name(pack_id: str) -> str:
    return f"work/{pack_id}/lease"


def _describe(record: dict[str, Any] | None) -> str:
    return f"another process (pid {record['pid']} on {record['host']})" if record else "another process"


def _take(store: Store, pack_id: str, watch: Watch | None) -> Lease | None:
    if store.has_locks:
        try:
            return _lock(store.root / _name(pack_id), watch)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    return _beat(store, pack_id, watch)


# The lock of a folder


def _lock(path: Path, watch: Watch | None) -> Lease | None:
    """Lock the file; None if another process has it, or renews a heartbeat in it from a node without locks."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except (FileNotFoundError, FileExistsError):
            if path.parent.is_file():
                raise
            continue  # the holder removed the finished work between two of these steps (mkdir has two)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                break
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)  # we locked a file that was removed while we opened it: a lock on nothing
    try:
        record = _record(path.read_text(encoding="utf-8"))
        if record and "renewed" in record and _is_alive(record, watch):
            os.close(descriptor)
            return None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(process()).encode())
    except OSError:  # the disk is full: a lock that is not closed would keep this process, too, from the work
        os.close(descriptor)
        raise

    def release() -> None:
        try:
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    return Lease(release, lambda: False)


def _is_at(descriptor: int, path: Path) -> bool:
    """Say whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


# The heartbeat behind a URL


def _beat(store: Store, pack_id: str, watch: Watch | None) -> Lease | None:
    """Start a heartbeat; None if another process's is fresh."""
    name, token = _name(pack_id), uuid.uuid4().hex
    record = holder(store, pack_id)
    if record and _is_alive(record, watch):
        return None
    me = {**process(), "token": token}
    taken, stopped = threading.Event(), threading.Event()

    def is_ours() -> bool:
        return (holder(store, pack_id) or {}).get("token") == token

    def beat() -> str:
        return json.dumps({**me, "renewed": time.time()})

    def renew() -> float:
        began = time.monotonic()
        store.write_text(name, beat())
        return began

    renewed = time.monotonic()
    alone = record is None and store.create(name, beat().encode()) and store.creates
    if not alone:  # one that has expired or was released, or a store where two can create
        record = holder(store, pack_id) or {}
        if record.get("token") != token:  # it is ours if only the answer to `create` was lost
            if record and _is_alive(record, watch):
                return None
            renewed = renew()
        time.sleep(SETTLE)
        if not is_ours():
            return None

    def is_lost() -> bool:
        return taken.is_set() or time.monotonic() - renewed > EXPIRY

    def keep_renewing() -> None:
        nonlocal renewed
        while not stopped.wait(RENEW) and not is_lost():
            with contextlib.suppress(Exception):  # each back end raises its own errors; tried again until expiry
                if is_ours():
                    renewed = renew()
                else:
                    taken.set()

    def stop() -> None:
        stopped.set()
        thread.join()
        with contextlib.suppress(Exception):  # storage that cannot be reached: the heartbeat expires
            if is_ours():
                store.delete_tree(name)

    thread = threading.Thread(target=keep_renewing, name=f"lease {pack_id}", daemon=True)
    thread.start()
    return Lease(stop, is_lost)
