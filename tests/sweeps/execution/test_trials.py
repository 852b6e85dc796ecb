"""Evaluation on a real local Ray: order, retries, reasons, and giving processors back."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray.tune.execution import class_cache

from cluster.ray import start as ray_cluster
from cluster.ray.attempts import Finished
from cluster.store import Store
from mpcwdwm.errors import UserError
from sweeps.execution.interrupt import SIGNALS
from sweeps.execution.trials import CellTrial, TrialPool, hand_on_no_credentials
from sweeps.execution.workers import Workers
from sweeps.spec.schema import Resources
from tests.support.named_cells import pack

PATIENCE = 60.0  # seconds


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


def hungry(folder: Path) -> Callable:
    """What stands in for the science: a pack runs out of memory beside another. Notes how many ran beside each."""
    place = str(folder)

    def compute(store, pack, device, threads, on_progress):  # nested: pickled by value
        import time
        from pathlib import Path

        import ray

        name = pack.units[0].method
        mark = Path(place) / f"running-{name}"
        mark.touch()
        try:
            tried = Path(place, "tried")
            beside: list[Path] = []
            for _ in range(600):  # until two have been at it at the same time, however late the second process is
                beside = [other for other in Path(place).glob("running-*") if other != mark]
                if tried.exists() or (name == "hungry" and beside):
                    break
                time.sleep(0.1)
            granted = ray.get_runtime_context().get_assigned_resources().get("memory", 0)
            with Path(place, "log").open("a") as log:
                log.write(f"{name} {len(beside)} {granted}\n")
            if name == "hungry" and not tried.exists():
                tried.touch()
                raise MemoryError("no room")
            time.sleep(0.5)
        finally:
            mark.unlink()
        return dict.fromkeys(pack.keys, lambda target: (target / "manifest.json").write_text("{}") and None)

    return compute


@pytest.mark.slow
def test_a_pack_that_runs_out_of_memory_beside_others_is_tried_alone_with_all_of_it_when_they_are_done(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "stop", lambda: None)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    workers = Workers(store, Resources(retries=1), quiet=True, compute=hungry(tmp_path))
    for name in ("hungry", "a", "b", "c"):
        workers.submit(pack(name))
    ended: list[Finished] = []
    deadline = time.monotonic() + PATIENCE
    while len(ended) < 4 and time.monotonic() < deadline:
        ended += workers.poll()
        workers.share_out(has_trained_task=True)
        time.sleep(0.05)
    workers.close()
    for number, handler in before.items():
        signal.signal(number, handler)
    assert [(end.pack.units[0].method, end.error) for end in ended][-1] == ("hungry", None)
    assert store.keys("cell") == ["a-s0", "b-s0", "c-s0", "hungry-s0"]
    log = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    tries = [(int(beside), float(memory)) for name, beside, memory in log if name == "hungry"]
    (all_of_it,) = ray_cluster.memories()
    assert [beside for beside, _ in tries] == [1, 0]
    assert tries[0][1] == pytest.approx(all_of_it / 2, rel=0.01)  # one core of two
    assert tries[1][1] == pytest.approx(all_of_it, rel=0.01)
    assert log[-1][0] == "hungry"
    assert len(workers.news) == 1
    assert "MemoryError: no room" in workers.news[0]


def test_trials_are_described_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """What describes an actor's environment is in Ray's logs, which everybody on the machine can read."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"):
        monkeypatch.setenv(name, "geheim")
    hand_on_no_credentials()
    described = vars(class_cache._ActorClassCache().get(CellTrial))
    assert "PL_DISABLE_FORK" in repr(described)
    assert "geheim" not in repr(described)
