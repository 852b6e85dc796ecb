"""Evaluation on a real local Ray: order, retries, reasons, and giving processors back."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import ray

from cluster.ray import start as ray_cluster
from cluster.ray.attempts import Finished
from cluster.store import Store
from cluster.units import CellUnit, Pack, TaskRef
from cluster.work import PackFailure
from mpcwdwm.errors import UserError
from sweeps.execution.search_algorithm import ReadyPacks
from sweeps.execution.trials import TrialPool

TASK = TaskRef("hopper", "Hopper-v4", "/data/hopper.hdf5", "0" * 64, "3.4.0", "hopper", (-20.0, 3234.0), 1000, "local")


def cell(name: str, seed: int = 0) -> CellUnit:
    return CellUnit(
        f"{name}-s{seed}", name, name, None, "rebrac", {}, {"rebrac": "k"}, TASK, seed, episodes=1, env_seed=0
    )


def pack(name: str, seeds: int = 1) -> Pack:
    return Pack(tuple(cell(name, seed) for seed in range(seeds)))


def computing(folder: Path) -> Callable:
    """What stands in for the science: obeys the cell's name, and notes in which process it ran."""
    place = str(folder)

    def compute(store, pack, device, threads, on_progress):  # nested: pickled by value, workers see no tests
        import os
        import time
        from pathlib import Path

        name = pack.units[0].method
        tries = Path(place) / f"{name}-tries"
        count = int(tries.read_text()) + 1 if tries.exists() else 1
        tries.write_text(str(count))
        if name == "hopeless":
            raise UserError("the dataset is wrong: mend it")
        if name == "bad" or (name == "flaky" and count <= 2):
            raise ZeroDivisionError("division\nby zero")
        if name == "dies":
            os._exit(1)
        time.sleep(30 if name == "slow" else 0)

        def write(target):
            (target / "manifest.json").write_text(json.dumps({"pid": os.getpid()}))

        return dict.fromkeys(pack.keys, write)

    return compute


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray_cluster.start("local", cpus=2)
    yield
    ray_cluster.stop()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def evaluation(store: Store, tmp_path: Path) -> Iterator[TrialPool]:
    running = TrialPool(store, retries=2, compute=computing(tmp_path))
    yield running
    running.close()


def wait_for(evaluation: TrialPool, count: int, seconds: float = 60) -> list[Finished]:
    ended: list[Finished] = []
    deadline = time.monotonic() + seconds
    while len(ended) < count and time.monotonic() < deadline:
        ended += evaluation.poll()
        time.sleep(0.05)
    assert len(ended) == count
    return ended


@pytest.mark.slow
def test_packs_run_in_order_in_one_process_also_when_they_come_late(evaluation: TrialPool, store: Store) -> None:
    names = ["a", "b", "c"]
    for name in names:
        evaluation.submit(pack(name, seeds=2))
    assert [end.pack.units[0].method for end in wait_for(evaluation, 3)] == names
    time.sleep(1.5)  # nothing is ready for a while
    evaluation.submit(pack("late"))
    ended = wait_for(evaluation, 1)
    assert [end.error for end in ended] == [None]
    assert store.keys("cell") == ["a-s0", "a-s1", "b-s0", "b-s1", "c-s0", "c-s1", "late-s0"]
    assert len({store.manifest("cell", key)["pid"] for key in store.keys("cell")}) == 1


@pytest.mark.slow
def test_a_trial_that_fails_twice_is_tried_a_third_time(evaluation: TrialPool, store: Store, tmp_path: Path) -> None:
    evaluation.submit(pack("flaky"))
    (end,) = wait_for(evaluation, 1)
    assert end.error is None
    assert (tmp_path / "flaky-tries").read_text() == "3"
    assert store.has("cell", "flaky-s0")
    assert store.failure("flaky-s0") is None


@pytest.mark.slow
def test_a_trial_that_always_fails_says_why_in_one_line_and_where_the_traceback_is(
    evaluation: TrialPool, store: Store, tmp_path: Path
) -> None:
    evaluation.allow(2)
    evaluation.submit(pack("bad", seeds=2))
    evaluation.submit(pack("dies"))
    ended = {end.pack.units[0].method: end for end in wait_for(evaluation, 2)}
    assert (tmp_path / "bad-tries").read_text() == (tmp_path / "dies-tries").read_text() == "3"
    assert ended["bad"].error is not None
    assert ended["bad"].error.startswith("ZeroDivisionError: division by zero")
    assert "Traceback" in Path(ended["bad"].log).read_text()
    assert "died" in str(ended["dies"].error)
    for end in ended.values():
        for key in end.pack.keys:
            record = store.failure(key)
            assert record is not None
            assert (record["error"], record["log"]) == (end.error, end.log)


@pytest.mark.slow
def test_an_error_of_the_user_is_not_tried_again(evaluation: TrialPool, tmp_path: Path) -> None:
    evaluation.submit(pack("hopeless"))
    (end,) = wait_for(evaluation, 1)
    assert end.error == "the dataset is wrong: mend it"
    assert (tmp_path / "hopeless-tries").read_text() == "1"


@pytest.mark.slow
def test_at_rest_it_holds_no_processor_and_starts_again_when_needed(evaluation: TrialPool, store: Store) -> None:
    evaluation.submit(pack("a"))
    wait_for(evaluation, 1)
    evaluation.rest()
    deadline = time.monotonic() + 10
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 2
    evaluation.submit(pack("b"))
    wait_for(evaluation, 1)
    assert store.has("cell", "b-s0")


@pytest.mark.slow
def test_closing_does_not_wait_for_trials_that_run(evaluation: TrialPool, store: Store) -> None:
    evaluation.submit(pack("slow"))
    deadline = time.monotonic() + 30
    while not store.work_ids() and time.monotonic() < deadline:
        time.sleep(0.1)
    began = time.monotonic()
    evaluation.close()
    assert time.monotonic() - began < 15
    assert not store.has("cell", "slow-s0")


@pytest.mark.slow
def test_packs_that_fail_are_tried_again_alone_and_those_behind_them_are_computed_once(
    evaluation: TrialPool, store: Store, tmp_path: Path
) -> None:
    names = ["a", "flaky", "b", "hopeless", "c", "bad", "d", "dies", "e"]
    for name in names:
        evaluation.submit(pack(name))
    ended = {end.pack.units[0].method: end.error for end in wait_for(evaluation, len(names), 120)}
    failed = {name: error.split(":")[0] for name, error in ended.items() if error}
    assert failed.keys() == {"hopeless", "bad", "dies"}
    assert failed["bad"] == "ZeroDivisionError"
    assert failed["hopeless"] == "the dataset is wrong"
    assert "died" in str(ended["dies"])
    tries = {name: (tmp_path / f"{name}-tries").read_text() for name in names}
    assert tries == {**dict.fromkeys("abcde", "1"), "flaky": "3", "hopeless": "1", "bad": "3", "dies": "3"}
    assert set(store.keys("cell")) == {f"{name}-s0" for name in "abcde"} | {"flaky-s0"}


@pytest.mark.slow
def test_what_may_not_run_holds_no_processor_and_runs_when_it_may(evaluation: TrialPool, store: Store) -> None:
    evaluation.submit(pack("a"))
    wait_for(evaluation, 1)
    evaluation.allow(0)
    evaluation.submit(pack("b"))
    evaluation.rest()
    deadline = time.monotonic() + 10
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 2
    assert evaluation.waiting == 1
    evaluation.allow(1)
    wait_for(evaluation, 1)
    assert store.has("cell", "b-s0")


def test_packs_are_handed_out_in_order_and_no_more_than_there_are_slots(store: Store) -> None:
    search = ReadyPacks(store)
    assert search.suggest("t0") is None
    search.ready.extend(pack(name) for name in "abc")
    search.slots = 2
    assert [name_in(search.suggest(f"t{i}")) for i in range(2)] == ["a", "b"]
    assert search.suggest("t2") is None
    end_well(search, store, "t0", "a")
    assert search.ended.get_nowait() == Finished(pack("a"))
    assert name_in(search.suggest("t3")) == "c"
    search.finished = True
    assert search.suggest("t4") == ReadyPacks.FINISHED


def test_a_pack_that_fails_is_tried_again_before_all_others_unless_that_is_hopeless(store: Store) -> None:
    search = ReadyPacks(store, retries=1)
    search.ready.extend(pack(name) for name in "ab")
    for trial in ("t0", "t1"):
        assert name_in(search.suggest(trial)) == "a"
        report(search, trial, failure=PackFailure("no luck", "log"))
        search.close(trial, "the text of the exception by which the process gives itself up")
    assert name_in(search.suggest("t2")) == "b"
    report(search, "t2", failure=PackFailure("wrong data", "log", hopeless=True))
    search.close("t2")
    ended = [search.ended.get_nowait() for _ in range(2)]
    assert [(end.pack.units[0].method, end.error) for end in ended] == [("a", "no luck"), ("b", "wrong data")]
    assert search.suggest("t3") is None


def test_a_process_that_dies_before_it_publishes_has_failed_and_one_that_dies_after_has_not(store: Store) -> None:
    search = ReadyPacks(store, retries=0)
    search.ready.extend(pack(name) for name in "ab")
    search.suggest("t0")
    report(search, "t0", fraction=0.5)
    store.publish("cell", "a-s0", lambda folder: (folder / "manifest.json").write_text("{}") and None)
    search.close("t0", "killed")
    search.suggest("t1")
    search.close("t1", "killed")
    ended = [search.ended.get_nowait() for _ in range(2)]
    assert [(end.pack.units[0].method, end.error) for end in ended] == [("a", None), ("b", "killed")]
    assert store.failure("a-s0") is None
    assert store.failure("b-s0") is not None


def name_in(given: object) -> str:
    assert isinstance(given, dict)
    (unit,) = json.loads(given["pack"])["units"]
    return str(unit["method"])


def report(search: ReadyPacks, trial: str, fraction: float = 0.0, failure: PackFailure | None = None) -> None:
    search.hear(trial, {"fraction": fraction, "note": "", "failure": failure and asdict(failure)})


def end_well(search: ReadyPacks, store: Store, trial: str, name: str) -> None:
    store.publish("cell", f"{name}-s0", lambda folder: (folder / "manifest.json").write_text("{}") and None)
    search.close(trial)
