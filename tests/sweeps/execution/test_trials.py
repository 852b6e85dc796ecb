"""Evaluation on a real local Ray: order, retries, reasons, and giving processors back."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import ray
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial

from cluster.memory import Memory
from cluster.ray import start as ray_cluster
from cluster.ray.attempts import Finished
from cluster.ray.grant import Grant
from cluster.store import Store
from cluster.units import CellUnit, Pack, TaskRef
from cluster.work import PackFailure
from mpcwdwm.errors import UserError
from sweeps.execution.interrupt import SIGNALS
from sweeps.execution.search_algorithm import Outcomes, ReadyPacks
from sweeps.execution.trials import CellTrial, TrialPool, hand_on_no_credentials
from sweeps.execution.workers import Workers
from sweeps.spec.schema import Resources

PATIENCE = 60.0  # seconds
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


def test_packs_take_as_many_slots_as_they_are_granted(store: Store) -> None:
    slots = {"a": 2.0, "b": 2.0, "c": 1.0, "d": 9.0}
    search = ReadyPacks(store, grant=lambda pack: Grant(slots=slots[pack.units[0].method]))
    search.ready.extend(pack(name) for name in slots)
    search.slots = 3
    assert name_in(search.suggest("t0")) == "a"
    assert search.suggest("t1") is None
    end_well(search, store, "t0", "a")
    assert [name_in(search.suggest(trial)) for trial in ("t2", "t3")] == ["b", "c"]
    end_well(search, store, "t2", "b")
    assert search.suggest("t4") is None
    end_well(search, store, "t3", "c")
    assert name_in(search.suggest("t5")) == "d"  # one that needs more than there is runs by itself


def test_of_a_thousand_trials_no_more_is_heard_each_second_than_of_a_hundred(store: Store) -> None:
    search = ReadyPacks(store)
    search.ready.extend(pack(name) for name in "ab")
    beats = []
    for slots in (100, 1000):
        search.slots = slots
        given = search.suggest(f"t{slots}")
        assert isinstance(given, dict)
        beats.append(given["beat"])
    assert beats == [5, 50]


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


def test_a_pack_that_its_trial_says_is_published_is_not_looked_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = ReadyPacks(store)
    search.ready.append(pack("a"))
    search.suggest("t0")
    monkeypatch.setattr(Store, "has", lambda *_: pytest.fail("behind a URL this takes tens of milliseconds a unit"))
    search.hear(
        "t0", {"fraction": 1.0, "note": "", "done": True, "failure": None, "memory": {"processor": 7, "gpu": 0}}
    )
    search.close("t0")
    end = search.ended.get_nowait()
    assert (end.error, end.memory) == (None, Memory(7))


def test_a_trial_that_has_ended_keeps_nothing_of_its_pack(store: Store) -> None:
    search = ReadyPacks(store)
    search.ready.append(pack("a"))
    given = search.suggest("t0")
    assert isinstance(given, dict)
    trial = Trial("stub", stub=True, trial_id="t0", config=given, evaluated_params=dict(given))
    trial.set_experiment_tag(f"1_pack={given['pack']}")
    trial.update_last_result({"config": dict(given), "done": True})
    search.hear("t0", {"fraction": 1.0, "note": "", "done": True, "failure": None, "memory": None})
    kept = [trial.config, trial.evaluated_params, trial.experiment_tag, trial.last_result]
    assert repr(kept).count("hopper.hdf5") == 5
    Outcomes(search).on_trial_complete(0, [], trial)
    assert search.ended.get_nowait().error is None
    kept = [trial.config, trial.evaluated_params, trial.experiment_tag, trial.last_result]
    assert "hopper" not in repr(kept)


def name_in(given: object) -> str:
    assert isinstance(given, dict)
    (unit,) = json.loads(given["pack"])["units"]
    return str(unit["method"])


def report(search: ReadyPacks, trial: str, fraction: float = 0.0, failure: PackFailure | None = None) -> None:
    told = {"fraction": fraction, "note": "", "done": False, "memory": None}
    search.hear(trial, {**told, "failure": failure and asdict(failure)})


def end_well(search: ReadyPacks, store: Store, trial: str, name: str) -> None:
    store.publish("cell", f"{name}-s0", lambda folder: (folder / "manifest.json").write_text("{}") and None)
    search.close(trial)
