"""Which pack Tune's next trial gets, what is heard of it, and how it ends."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from ray.tune.experiment import Trial

from cluster.memory import Memory
from cluster.ray.attempts import Finished
from cluster.ray.grant import Grant
from cluster.store import Store
from cluster.work import PackFailure
from sweeps.execution.search_algorithm import Outcomes, ReadyPacks
from tests.support.named_cells import pack


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


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
