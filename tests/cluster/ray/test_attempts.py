"""How often a pack is tried, and what is said of a process that was lost."""

from pathlib import Path

from cluster.failures import is_of_the_machine, is_set_aside
from cluster.ray.attempts import Attempts, death_line
from cluster.store import Store
from cluster.units import ComponentUnit, Pack, TaskRef
from cluster.work import PackFailure

TASK = TaskRef("hopper", "Hopper-v4", "/data/hopper.hdf5", "0" * 64, "3.4.0", "hopper", None, 1000, "local")


def pack(name: str) -> Pack:
    return Pack((ComponentUnit(f"{name}-s0", name, {}, TASK, 0),))


def test_a_pack_is_tried_once_and_then_as_often_as_retries_says(tmp_path: Path) -> None:
    store = Store(tmp_path)
    attempts, failure = Attempts(store, retries=2), PackFailure("no luck", "a log")
    ends = [attempts.fail(pack("bc"), failure) for _ in range(3)]
    assert ends[:2] == [None, None]
    assert ends[2] is not None
    assert (ends[2].error, ends[2].log) == ("no luck", "a log")
    assert (store.failure("bc-s0") or {})["error"] == "no luck"
    assert attempts.fail(pack("iql"), failure) is None  # counted for each pack
    again = [(each.pack, each.error, each.log) for each in attempts.tried_again()]
    assert again == [(pack(name), "no luck", "a log") for name in ("bc", "bc", "iql")]
    assert list(attempts.tried_again()) == []


def test_a_pack_that_ran_out_of_memory_is_handed_back_to_be_tried_alone_as_often_as_retries_says(
    tmp_path: Path,
) -> None:
    store, failure = Store(tmp_path), PackFailure("no memory", "log", of_the_machine=True, out_of_memory=True)
    attempts = Attempts(store, retries=1, hands_back=True)
    first, second = attempts.fail(pack("bc"), failure), attempts.fail(pack("bc"), failure)
    assert first is not None
    assert second is not None
    assert (first.to_try_alone, second.to_try_alone) == (True, False)
    assert Attempts(store, retries=1).fail(pack("bc"), failure) is None
    killed = attempts.death(pack("iql"), "Task was killed due to the node running low on memory.")
    assert killed.out_of_memory
    assert not attempts.death(pack("iql"), "the actor died").out_of_memory


def test_a_hopeless_pack_is_not_tried_again(tmp_path: Path) -> None:
    ended = Attempts(Store(tmp_path), retries=2).fail(pack("bc"), PackFailure("the dataset is wrong", "", True))
    assert ended is not None
    assert ended.error == "the dataset is wrong"


def tries_of(store: Store) -> int:
    return int((store.failure("bc-s0") or {})["tries"])


def test_tries_that_fail_for_the_same_reason_are_counted_over_runs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    reason = PackFailure("ValueError: loss 0.25 at step 7 (at loop.py:12)", "log")
    alike = PackFailure("ValueError: loss 1e-3 at step 12 (at loop.py:12)", "log")
    run = Attempts(store, retries=1)
    assert [run.fail(pack("bc"), failure) is None for failure in (reason, alike)] == [True, False]
    assert (tries_of(store), is_set_aside(store.failure("bc-s0"))) == (2, False)
    Attempts(store, retries=0).fail(pack("bc"), reason)
    assert (tries_of(store), is_set_aside(store.failure("bc-s0"))) == (3, True)
    Attempts(store, retries=0).fail(pack("bc"), PackFailure("another reason", "log"))
    assert (tries_of(store), is_set_aside(store.failure("bc-s0"))) == (1, False)


def test_what_the_machine_did_is_never_set_aside(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for _ in range(5):
        attempts = Attempts(store, retries=0)
        attempts.fail(pack("bc"), attempts.death(pack("bc"), "the actor died"))
    assert tries_of(store) == 0
    assert is_of_the_machine(OSError("no space left on device"))
    assert is_of_the_machine(ConnectionResetError())
    wrapped = RuntimeError("cannot write")
    wrapped.__cause__ = TimeoutError()
    assert is_of_the_machine(wrapped)
    assert not is_of_the_machine(ZeroDivisionError())
    assert not is_set_aside(None)


def test_running_out_of_memory_says_what_to_do() -> None:
    line = death_line("Task was killed due to the node running low on memory.\n…")
    assert line.startswith("the worker ran out of memory: ")


def test_an_error_before_the_pack_begins_is_said_in_its_own_words() -> None:
    text = "The actor died because of an error raised in its creation task, ray::Worker.__init__()\nOSError: no torch"
    assert death_line(text) == "OSError: no torch"


def test_a_lost_worker_is_said_whatever_ray_says_of_it() -> None:
    assert death_line("The actor died unexpectedly\nbefore finishing").startswith("the worker died (killed")
    assert death_line("node 3 is gone\n…") == "node 3 is gone"
    assert death_line("") == "no reason is known"
