"""Evaluation on a real local Ray: order, retries, reasons, and giving processors back."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from cluster import ray_cluster
from cluster.actors import Finished
from cluster.store import Store
from cluster.units import CellUnit, Pack, TaskRef
from mpcwdwm.errors import UserError
from sweeps.trials import Evaluation, Feed

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
def evaluation(store: Store, tmp_path: Path) -> Iterator[Evaluation]:
    running = Evaluation(store, retries=2, compute=computing(tmp_path))
    yield running
    running.close()


def wait_for(evaluation: Evaluation, count: int, seconds: float = 60) -> list[Finished]:
    ended: list[Finished] = []
    deadline = time.monotonic() + seconds
    while len(ended) < count and time.monotonic() < deadline:
        ended += evaluation.poll()
        time.sleep(0.05)
    assert len(ended) == count
    return ended


@pytest.mark.slow
def test_packs_run_in_order_in_one_process_also_when_they_come_late(evaluation: Evaluation, store: Store) -> None:
    names = ["a", "b", "c"]
    for name in names:
        evaluation.submit(pack(name, seeds=2))
    assert [end.pack.units[0].method for end in wait_for(evaluation, 3)] == names
    time.sleep(1.5)  # nothing is ready for a while
    evaluation.submit(pack("late"))
    ended = wait_for(evaluation, 1)
    assert [end.error for end in ended] == [None]
    assert store.keys("results") == ["a-s0", "a-s1", "b-s0", "b-s1", "c-s0", "c-s1", "late-s0"]
    assert len({store.manifest("results", key)["pid"] for key in store.keys("results")}) == 1


@pytest.mark.slow
def test_a_trial_that_fails_twice_is_tried_a_third_time(evaluation: Evaluation, store: Store, tmp_path: Path) -> None:
    evaluation.submit(pack("flaky"))
    (end,) = wait_for(evaluation, 1)
    assert end.error is None
    assert (tmp_path / "flaky-tries").read_text() == "3"
    assert store.has("results", "flaky-s0")
    assert store.failure("flaky-s0") is None


@pytest.mark.slow
def test_a_trial_that_always_fails_says_why_in_one_line_and_where_the_traceback_is(
    evaluation: Evaluation, store: Store, tmp_path: Path
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
def test_an_error_of_the_user_is_not_tried_again(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.submit(pack("hopeless"))
    (end,) = wait_for(evaluation, 1)
    assert end.error == "the dataset is wrong: mend it"
    assert (tmp_path / "hopeless-tries").read_text() == "1"


@pytest.mark.slow
def test_at_rest_it_holds_no_processor_and_starts_again_when_needed(evaluation: Evaluation, store: Store) -> None:
    evaluation.submit(pack("a"))
    wait_for(evaluation, 1)
    evaluation.rest()
    deadline = time.monotonic() + 10
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 2
    evaluation.submit(pack("b"))
    wait_for(evaluation, 1)
    assert store.has("results", "b-s0")


@pytest.mark.slow
def test_closing_does_not_wait_for_trials_that_run(evaluation: Evaluation, store: Store) -> None:
    evaluation.submit(pack("slow"))
    deadline = time.monotonic() + 30
    while not store.work_ids() and time.monotonic() < deadline:
        time.sleep(0.1)
    began = time.monotonic()
    evaluation.close()
    assert time.monotonic() - began < 15
    assert not store.has("results", "slow-s0")


def test_the_feed_hands_out_what_is_ready_in_order_and_no_more_than_there_are_slots() -> None:
    feed = Feed()
    assert feed.suggest("t0") is None
    for name in "abc":
        feed.add(pack(name))
    feed.slots = 2
    given = [feed.suggest(f"t{i}") for i in range(3)]
    assert [json.loads(g["pack"])["units"][0]["method"] for g in given[:2]] == ["a", "b"]
    assert given[2] is None
    feed.end("t0", None)
    assert feed.suggest("t3") is not None
    feed.finished = True
    assert feed.suggest("t4") == Feed.FINISHED
