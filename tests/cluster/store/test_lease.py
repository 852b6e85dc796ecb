"""Leases: one holder, and none that is dead."""

import contextlib
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cluster.store import Store, lease, open_store
from cluster.store.lease import Busy, Lost, hold, holder, is_held
from mpcwdwm.errors import Interrupted

HOLD_AND_SLEEP = """
import sys, time
from pathlib import Path
from cluster.store.lease import hold
from cluster.store import Store
with hold(Store(Path(sys.argv[1])), "pack", wait=True):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["folder", "memory", "S3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(lease, "POLL", 0.02)
    monkeypatch.setattr(lease, "SETTLE", 0.02)
    monkeypatch.setattr(lease, "RENEW", 0.05)
    monkeypatch.setattr(lease, "EXPIRY", 0.5)
    monkeypatch.setattr(lease, "CONFIRM", 0.1)
    if request.param == "S3":
        monkeypatch.setattr(lease, "EXPIRY", 20.0)  # a request takes a tenth of a second on a busy machine
        return open_store(request.getfixturevalue("s3").bucket())
    return open_store(tmp_path / "runs" if request.param == "folder" else f"memory://lease-{tmp_path.name}")


def holding_process(store: Store) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD_AND_SLEEP, store.location], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_held_lease_is_refused_with_its_holder_named(store: Store) -> None:
    with hold(store, "pack", wait=False):
        assert is_held(store, "pack")
        named = rf"pid {os.getpid()} on .* is computing pack"
        with pytest.raises(Busy, match=named), hold(store, "pack", wait=False):
            pytest.fail("two holders")
    assert not is_held(store, "pack")
    with hold(store, "pack", wait=False):
        pass


def test_leases_of_other_packs_are_free(store: Store) -> None:
    with hold(store, "one", wait=False), hold(store, "two", wait=False):
        assert is_held(store, "one")
        assert is_held(store, "two")
        assert not is_held(store, "three")


def test_asking_leaves_no_traces(store: Store) -> None:
    assert not is_held(store, "pack")
    assert store.work_ids() == []


def test_the_lease_is_free_after_an_error(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), hold(store, "pack", wait=False):
        raise ZeroDivisionError
    assert not is_held(store, "pack")


def test_waiting_ends_when_the_holder_lets_go(store: Store) -> None:
    order, notes = [], []

    def wait_for_it() -> None:
        with hold(store, "pack", wait=True, on_wait=notes.append):
            order.append("second")

    with hold(store, "pack", wait=False):
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert len(notes) == 1
    assert notes[0].endswith("is computing pack, waiting")


def test_a_lease_outlives_many_expiries_while_its_holder_lives(store: Store) -> None:
    with hold(store, "pack", wait=False):
        time.sleep(1.2)
        assert is_held(store, "pack")


def test_a_lease_is_handed_over_when_its_holder_is_killed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    process = holding_process(store)
    try:
        assert is_held(store, "pack")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    started = time.monotonic()
    with hold(store, "pack", wait=True):
        assert time.monotonic() - started < 5


def test_a_heartbeat_that_stopped_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(lease, "SETTLE", 0.02)
    store = open_store(f"memory://stopped-{tmp_path.name}")

    def beat(host: str, pid: int, age: float) -> None:
        record = {"host": host, "pid": pid, "token": "t", "renewed": time.time() - age}
        store.write_text("work/pack/lease", json.dumps(record))

    beat("elsewhere", 1, age=1)
    assert is_held(store, "pack")
    beat("elsewhere", 1, age=lease.EXPIRY + 1)
    assert not is_held(store, "pack")
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    beat(os.uname().nodename, dead.pid, age=1)  # fresh, but known to be dead
    assert not is_held(store, "pack")


def taken_over(store: Store) -> None:
    """Write the fresh heartbeat of another process."""
    record = {"host": "elsewhere", "pid": 1, "token": "another", "renewed": time.time()}
    store.write_text("work/pack/lease", json.dumps(record))


def test_of_two_that_take_over_at_once_the_one_that_was_overwritten_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = open_store(f"memory://takers-{tmp_path.name}")
    store.write_text("work/pack/lease", json.dumps({"host": "elsewhere", "pid": 2, "token": "dead", "renewed": 0.0}))
    monkeypatch.setattr(lease.time, "sleep", lambda _: taken_over(store))  # while the first waits to settle
    with pytest.raises(Busy, match="pid 1 on elsewhere"), hold(store, "pack", wait=False):
        pytest.fail("two holders")


@pytest.mark.parametrize("store", ["folder", "S3"], indirect=True)
def test_of_many_takers_at_once_one_gets_the_lease(store: Store) -> None:
    got: list[int] = []
    begin, end = threading.Barrier(6), threading.Barrier(6)

    def take(number: int) -> None:
        begin.wait()
        with contextlib.suppress(Busy), hold(store, "pack", wait=False):
            got.append(number)
            end.wait()  # the lease is kept until all have tried
            return
        end.wait()

    threads = [threading.Thread(target=take, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_who_lost_a_lease_leaves_the_record_of_its_new_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(lease, "SETTLE", 0.02)
    store = open_store(f"memory://lost-{tmp_path.name}")
    with hold(store, "pack", wait=False):
        taken_over(store)
    assert (holder(store, "pack") or {})["token"] == "another"


def test_a_file_system_without_locks_falls_back_to_heartbeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch)
    monkeypatch.setattr(lease, "SETTLE", 0.02)
    store = Store(tmp_path)
    with hold(store, "pack", wait=False):
        assert "renewed" in (holder(store, "pack") or {})
        assert is_held(store, "pack")
    assert not is_held(store, "pack")


def test_a_lock_on_a_removed_file_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, real_open = Store(tmp_path), os.open
    others = contextlib.ExitStack()

    def open_late(path: Path, *arguments: int) -> int:
        """Between our opening and our locking, the holder finishes, and another one begins anew."""
        monkeypatch.setattr(lease.os, "open", real_open)
        descriptor = real_open(path, *arguments)
        store.remove_work("pack")
        others.enter_context(hold(store, "pack", wait=False))
        return descriptor

    monkeypatch.setattr(lease.os, "open", open_late)
    with others, pytest.raises(Busy), hold(store, "pack", wait=False):
        pytest.fail("two holders")


def _contend(root: str, name: int) -> None:
    """Take the lease again and again, remove the work folder while holding it, and note overlaps."""
    store, inside = Store(Path(root)), Path(root) / "inside"
    for _ in range(60):
        with hold(store, "pack", wait=True):
            descriptor = os.open(inside, os.O_CREAT | os.O_EXCL)  # fails if another one is inside
            os.close(descriptor)
            inside.unlink()
            store.remove_work("pack")
        with (Path(root) / f"count-{name}").open("a") as file:
            file.write("x")


def test_removing_the_work_folder_never_lets_two_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "POLL", 0.001)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_contend, args=(str(tmp_path), name)) for name in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [len((tmp_path / f"count-{name}").read_text()) for name in range(3)] == [60, 60, 60]


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_a_full_disk_leaves_the_lease_free(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(lease.os, "write", full)
        with pytest.raises(OSError, match="No space left"), hold(store, "pack", wait=False):
            pytest.fail("held without a record")
    with hold(store, "pack", wait=False):
        pass


# Clocks that are wrong


def beat_elsewhere(store: Store, ahead: float, until: float = 0.0) -> None:
    """Write the heartbeat of a process of another machine, whose clock is ahead; renew it until then."""
    while True:
        record = {"host": "elsewhere", "pid": 1, "token": "t", "renewed": time.time() + ahead}
        store.write_text("work/pack/lease", json.dumps(record))
        if time.monotonic() >= until:
            return
        time.sleep(0.02)


@pytest.mark.parametrize("store", ["memory", "S3"], indirect=True)
def test_a_dead_holder_whose_clock_was_ahead_is_waited_for_no_longer_than_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRY", 0.5)
    beat_elsewhere(store, ahead=86400.0)
    assert is_held(store, "pack")  # who does not wait has the clocks alone
    stop = threading.Event()
    threading.Timer(15.0, stop.set).start()
    began = time.monotonic()
    with hold(store, "pack", wait=True, stop=stop):
        assert time.monotonic() - began >= 0.5


@pytest.mark.parametrize("store", ["memory"], indirect=True)
@pytest.mark.parametrize("ahead", [-86400.0, 86400.0])
def test_a_living_holder_keeps_its_lease_whatever_its_clock_says(
    store: Store, ahead: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "CONFIRM", 0.5)
    beat_elsewhere(store, ahead)
    began = time.monotonic()
    holding = threading.Thread(target=beat_elsewhere, args=(store, ahead, began + 1.2))
    holding.start()
    with hold(store, "pack", wait=True) as held:
        assert time.monotonic() - began > 1.2
        held.check()
    holding.join()


def test_a_clock_that_jumps_does_not_lose_a_lease(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = time.time
    with hold(store, "pack", wait=False) as held:
        for jump in (3600.0, -3600.0):
            monkeypatch.setattr(lease.time, "time", lambda jump=jump: clock() + jump)
            time.sleep(0.3)  # renewals by that clock
            held.check()
            assert is_held(store, "pack")


def test_waiting_can_be_given_up(store: Store) -> None:
    stop = threading.Event()
    with hold(store, "pack", wait=False):
        threading.Timer(0.1, stop.set).start()
        with pytest.raises(Interrupted), hold(store, "pack", wait=True, stop=stop):
            pytest.fail("two holders")


# Storage that fails, and nodes with and without locks on one file system


class Outage:
    """Whether writing to a store fails."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on, write = False, type(store).write_text

        def write_text(own: Store, name: str, text: str) -> None:
            if self.on:
                raise OSError("no answer")
            write(own, name, text)

        monkeypatch.setattr(type(store), "write_text", write_text)


@pytest.mark.parametrize("store", ["memory"], indirect=True)
def test_a_heartbeat_survives_errors_of_the_storage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    outage = Outage(store, monkeypatch)
    with hold(store, "pack", wait=False) as held:
        outage.on = True
        time.sleep(0.2)  # several renewals fail
        outage.on = False
        time.sleep(0.8)  # longer than the expiry
        held.check()
        assert is_held(store, "pack")


@pytest.mark.parametrize("store", ["memory"], indirect=True)
def test_a_holder_that_cannot_renew_its_heartbeat_knows_that_the_lease_is_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(store, monkeypatch)
    with hold(store, "pack", wait=False) as first:
        outage.on = True
        time.sleep(0.3)
        outage.on = False  # fresh still, so nobody else gets in
        assert is_held(store, "pack")
        first.check()
        outage.on = True
        time.sleep(0.8)
        outage.on = False
        with pytest.raises(Lost):
            first.check()
        with hold(store, "pack", wait=False) as second:
            time.sleep(0.3)
            second.check()  # the first does not renew what it lost
        with pytest.raises(Lost):
            first.check()


@pytest.mark.parametrize("store", ["memory"], indirect=True)
def test_a_holder_whose_lease_was_taken_over_knows(store: Store) -> None:
    with hold(store, "pack", wait=False) as held:
        store.write_text("work/pack/lease", json.dumps({"host": "elsewhere", "pid": 1, "token": "t", "renewed": 1e12}))
        time.sleep(0.2)
        with pytest.raises(Lost):
            held.check()


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(lease.NO_LOCKS[1], "not supported")

    monkeypatch.setattr(lease.fcntl, "flock", refuse)


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_a_node_without_locks_respects_a_lock_until_its_release(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with hold(store, "pack", wait=False), monkeypatch.context() as elsewhere:
        without_locks(elsewhere)
        with pytest.raises(Busy, match=f"pid {os.getpid()}"), hold(store, "pack", wait=False):
            pytest.fail("two holders")
    without_locks(monkeypatch)
    with hold(store, "pack", wait=False):
        pass


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_a_node_with_locks_respects_a_fresh_heartbeat(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as elsewhere:
        with monkeypatch.context() as node:
            without_locks(node)
            elsewhere.enter_context(hold(store, "pack", wait=False))
        assert is_held(store, "pack")
    assert not is_held(store, "pack")
