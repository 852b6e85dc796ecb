"""How often a pack is tried, and what is said of a process that was lost."""

from pathlib import Path

from cluster.failures import is_of_the_machine, is_set_aside
from cluster.ray.attempts import Attempts
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


LOST = PackFailure("its node was lost", "log", of_the_machine=True, lost=True)


def test_a_pack_that_gets_further_is_lost_with_any_number_of_nodes_and_that_is_none_of_its_failures(
    tmp_path: Path,
) -> None:
    attempts, failure = Attempts(Store(tmp_path), retries=2), PackFailure("no luck", "log")
    ends = [attempts.fail(pack("bc"), LOST, reached=percent / 100) for percent in range(1, 100, 2)]
    assert ends == [None] * 50
    assert [attempts.fail(pack("bc"), failure) for _ in range(2)] == [None, None]
    assert attempts.fail(pack("bc"), LOST, reached=1.0) is None
    assert attempts.fail(pack("bc"), failure) is not None
    assert tries_of(attempts.store) == 3  # in a row: what was lost between is no other reason


def test_a_pack_that_is_lost_without_getting_further_is_given_up_and_tried_by_the_next_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    attempts = Attempts(store, retries=0)
    ends = [attempts.fail(pack("bc"), LOST, reached) for reached in (0.2, 0.201, 0.1, 0.2)]
    assert ends == [None] * 4
    end = attempts.fail(pack("bc"), LOST, reached=0.0)
    assert end is not None
    assert end.error is not None
    assert end.error.startswith("its node was lost, 5 times in a row before it got further than 20%: run it where")
    assert (store.failure("bc-s0") or {})["error"] == end.error
    assert not is_set_aside(store.failure("bc-s0"))
    slow = Attempts(store, retries=0)  # a third of a percent each time adds up
    assert all(slow.fail(pack("bc"), LOST, step / 300) is None for step in range(1, 300))


def test_a_kill_by_the_kernel_for_want_of_memory_is_handed_back_to_be_tried_alone(tmp_path: Path) -> None:
    asked: list[str] = []
    attempts = Attempts(
        Store(tmp_path), retries=1, hands_back=True, kernel_killed=lambda address: not asked.append(address)
    )
    failure = attempts.death(pack("bc"), KILLED)
    assert asked == ["10.0.0.7"]
    assert Path(failure.log).read_text().count("10.0.0.7") == 1
    end = attempts.fail(pack("bc"), failure)
    assert end is not None
    assert end.to_try_alone


KILLED = """The actor died unexpectedly before finishing this task.
\tclass_name: Worker
\tpid: 4711
\tip: 10.0.0.7
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"""
