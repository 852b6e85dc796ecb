"""Packs: what was begun is continued as it was, and nothing is computed twice."""

import contextlib
import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from cluster import packs, work
from cluster.store import Store, open_store
from cluster.store.lease import Lease, hold
from cluster.units import CellUnit, ComponentUnit, Pack, TaskRef
from cluster.work import PackFailure, PackResult, attempt_pack, record_failures, run_pack
from mpcwdwm.artifact_names import CHECKPOINT, MANIFEST
from mpcwdwm.components import component_config
from mpcwdwm.data import dataset_path, find_task, sha256_of
from mpcwdwm.envs.factory import mujoco_version
from mpcwdwm.errors import UserError
from mpcwdwm.nn.products import faster_library

TASK = TaskRef("hopper", "Hopper-v4", "/data/hopper.hdf5", "0" * 64, "3.4.0", "hopper", (-20.0, 3234.0), 1000, "local")


def pack_of(*seeds: int, component: str = "bc") -> Pack:
    return Pack(tuple(ComponentUnit(f"{component}-s{seed}", component, {"steps": 1}, TASK, seed) for seed in seeds))


class Counting:
    """A `Compute` that notes every pack it computes and can end its process between two units."""

    def __init__(self, log: Path, die_writing: str = "", seconds: float = 0.0) -> None:
        self.log, self.die_writing, self.seconds = log, die_writing, seconds

    def __call__(self, store, pack, device, threads, on_progress):
        with self.log.open("a") as file:
            file.write(" ".join(pack.keys) + "\n")
        time.sleep(self.seconds)

        def writer(key: str):
            def write(folder: Path) -> None:
                if key == self.die_writing:
                    os.kill(os.getpid(), signal.SIGKILL)
                (folder / MANIFEST).write_text(json.dumps({"packed_with": list(pack.keys), "pid": os.getpid()}))

            return write

        return {key: writer(key) for key in pack.keys}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "computed"


def run(store: Store, pack: Pack, compute: Counting) -> PackResult:
    return run_pack(store.location, pack, device="cpu", threads=1, compute=compute)


def run_in_process(store: Store, pack: Pack, compute: Counting) -> multiprocessing.Process:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=run, args=(store, pack, compute))
    process.start()
    return process  # type: ignore[return-value]


def test_every_unit_is_published_and_the_work_is_removed(store: Store, log: Path) -> None:
    result = run(store, pack_of(0, 1), Counting(log))
    assert result.keys == ("bc-s0", "bc-s1")
    assert not result.skipped
    assert store.keys("component") == ["bc-s0", "bc-s1"]
    assert store.work_ids() == []


def test_a_pack_that_is_done_is_skipped_without_a_trace(store: Store, log: Path) -> None:
    run(store, pack_of(0, 1), Counting(log))
    assert run(store, pack_of(0, 1), Counting(log)) == PackResult((), 0.0, skipped=True)
    assert log.read_text().splitlines() == ["bc-s0 bc-s1"]
    assert store.work_ids() == []


def test_a_pack_killed_between_two_units_is_continued_as_it_was_and_publishes_the_rest(store: Store, log: Path) -> None:
    process = run_in_process(store, pack_of(0, 1, 2), Counting(log, die_writing="bc-s1"))
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert store.keys("component") == ["bc-s0"]
    first = store.manifest("component", "bc-s0")

    planned = packs.plan_packs(store, [pack_of(0, 1, 2, 3)], {"bc-s0", "bc-s1", "bc-s2", "bc-s3"})
    assert [pack.keys for pack in planned] == [("bc-s0", "bc-s1", "bc-s2"), ("bc-s3",)]
    assert run(store, planned[0], Counting(log)).keys == ("bc-s1", "bc-s2")
    assert store.manifest("component", "bc-s0") == first
    assert store.manifest("component", "bc-s2")["packed_with"] == ["bc-s0", "bc-s1", "bc-s2"]
    assert store.work_ids() == []


def test_adding_a_seed_computes_only_that_seed(store: Store, log: Path) -> None:
    run(store, pack_of(0, 1), Counting(log))
    planned = packs.plan_packs(store, [pack_of(0, 1, 2)], {"bc-s0", "bc-s1", "bc-s2"})
    assert [pack.keys for pack in planned] == [("bc-s2",)]


def test_groups_do_not_shift_with_what_happened_to_be_finished(store: Store) -> None:
    groups, wanted = [pack_of(0, 1), pack_of(2, 3)], {f"bc-s{seed}" for seed in range(4)}
    store.publish("component", "bc-s0", lambda folder: (folder / MANIFEST).write_text("{}") and None)
    assert [pack.keys for pack in packs.plan_packs(store, groups, wanted)] == [("bc-s1",), ("bc-s2", "bc-s3")]


def test_begun_packs_come_first_in_the_order_they_were_begun(store: Store) -> None:
    for pack in (pack_of(3, 2), pack_of(0, 1), pack_of(9, component="iql")):
        packs.begin(store, pack)
        time.sleep(0.01)
    planned = packs.plan_packs(store, [pack_of(0, 1, 2, 3, 4)], {f"bc-s{seed}" for seed in range(5)})
    assert [pack.keys for pack in planned] == [("bc-s3", "bc-s2"), ("bc-s0", "bc-s1"), ("bc-s4",)]


def test_a_begun_pack_that_covers_nothing_more_is_left_alone(store: Store) -> None:
    packs.begin(store, pack_of(0, 1, 2))
    time.sleep(0.01)
    packs.begin(store, pack_of(0, 1))
    planned = packs.plan_packs(store, [pack_of(0, 1)], {"bc-s0", "bc-s1"})
    assert [pack.keys for pack in planned] == [("bc-s0", "bc-s1", "bc-s2")]


def test_a_packing_that_failed_altogether_may_be_replaced(store: Store, log: Path) -> None:
    packs.begin(store, pack_of(0, 1))
    record_failures(store, pack_of(0, 1), PackFailure("out of memory", "log"))
    smaller = [pack_of(0), pack_of(1)]
    assert packs.plan_packs(store, smaller, {"bc-s0", "bc-s1"}) == smaller
    run(store, smaller[0], Counting(log))
    assert store.failure("bc-s0") is None
    # One unit of the recorded pack exists: from here on its composition is binding again.
    assert packs.plan_packs(store, smaller, {"bc-s0", "bc-s1"}) == [pack_of(0, 1)]


def test_what_was_begun_survives_the_trip_through_json(store: Store) -> None:
    cell = CellUnit(
        "mpc-s0", "mpc H=1", "mpc", {"horizon": 1}, "rebrac", {"rebrac": {}}, {"rebrac": "k"}, TASK, 0, 5, 0
    )
    packs.begin(store, Pack((cell,)))
    assert packs.open_packs(store) == [Pack((cell,))]


def test_sweeping_up_removes_finished_and_empty_work_but_not_begun_or_held_work(store: Store) -> None:
    done, begun = pack_of(0), pack_of(1)
    for pack in (done, begun):
        packs.begin(store, pack)
        (store.work_folder(pack.id) / CHECKPOINT).write_bytes(b"c")
    store.publish("component", "bc-s0", lambda folder: (folder / MANIFEST).write_text("{}") and None)
    store.work_folder("component-empty")
    with hold(store, "component-held", wait=False):
        packs.sweep_up(store)
        assert store.work_ids() == sorted([begun.id, "component-held"])
    assert (store.work_folder(begun.id) / CHECKPOINT).exists()


def test_two_processes_with_one_pack_compute_it_once(store: Store, log: Path) -> None:
    processes = [run_in_process(store, pack_of(0, 1), Counting(log, seconds=0.5)) for _ in range(3)]
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text().splitlines() == ["bc-s0 bc-s1"]
    assert store.work_ids() == []


def test_an_orphan_that_still_works_is_waited_for(store: Store, log: Path) -> None:
    orphan = run_in_process(store, pack_of(0), Counting(log, seconds=1.0))
    while not log.exists():
        time.sleep(0.01)
    notes: list[str] = []
    result = run_pack(store.location, pack_of(0), device="cpu", threads=1, compute=Counting(log), on_wait=notes.append)
    assert result.skipped
    assert f"pid {orphan.pid} on" in notes[0]
    assert store.manifest("component", "bc-s0")["pid"] == orphan.pid
    orphan.join()


def test_work_whose_lease_was_lost_publishes_nothing_and_is_tried_again(
    store: Store, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = contextlib.nullcontext(Lease(release=lambda: None, is_lost=lambda: True))
    monkeypatch.setattr(work, "hold", lambda *_, **__: lost)
    outcome = attempt_pack(store.location, pack_of(0), device="cpu", threads=1, compute=Counting(log))
    assert isinstance(outcome, PackFailure)
    assert "the lease was lost" in outcome.error
    assert not outcome.hopeless
    assert store.keys("component") == []


def test_two_packs_that_share_a_unit_publish_it_once(store: Store, log: Path) -> None:
    run(store, pack_of(0, 1), Counting(log))
    assert run(store, pack_of(1, 2), Counting(log)).keys == ("bc-s2",)
    assert store.manifest("component", "bc-s1")["packed_with"] == ["bc-s0", "bc-s1"]


def test_a_pack_hands_its_memory_back_whether_it_ends_well_or_not(
    store: Store, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned: list[str] = []
    monkeypatch.setattr(work, "return_freed_memory", lambda: returned.append(str(store.keys("component"))))
    attempt_pack(store.location, pack_of(0), device="cpu", threads=1, compute=Counting(log))
    attempt_pack(store.location, pack_of(1), device="cpu", threads=1, compute=lambda *_: {})
    assert returned == ["['bc-s0']", "['bc-s0']"]


def test_an_error_is_one_line_and_its_traceback_is_in_the_log(store: Store) -> None:
    def compute(*_: object) -> dict:
        raise ZeroDivisionError("division\nby zero")

    outcome = attempt_pack(store.location, pack_of(0, 1), device="cpu", threads=1, compute=compute)
    assert isinstance(outcome, PackFailure)
    assert outcome.error.startswith("ZeroDivisionError: division by zero (at cluster/work.py:")
    assert not outcome.hopeless
    assert "Traceback" in Path(outcome.log).read_text()
    record_failures(store, pack_of(0, 1), outcome)
    assert (store.failure("bc-s1") or {})["error"] == outcome.error


def test_the_users_error_is_passed_on_word_for_word_and_not_tried_again(store: Store) -> None:
    def compute(*_: object) -> dict:
        raise UserError("a.hdf5: no rewards")

    outcome = attempt_pack(store.location, pack_of(0), device="cpu", threads=1, compute=compute)
    assert isinstance(outcome, PackFailure)
    assert (outcome.error, outcome.hopeless) == ("a.hdf5: no rewards", True)


def test_the_pace_of_a_training_that_was_continued_is_that_of_its_last_stretch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr(work.time, "monotonic", lambda: next(clock))
    pace = work._Pace(lambda fraction: None)
    pace(900, 1000)  # continued at 850 or so
    pace(1000, 1000)
    assert pace.per_second(1000) == pytest.approx(10.0)


# The real thing, small


@pytest.fixture(scope="module")
def bundled() -> TaskRef:
    task = find_task("hopper-medium-replay-mini-ppo-v0")
    path = dataset_path(task)
    sha256, mujoco = sha256_of(path), mujoco_version()
    return TaskRef(task.name, task.env_id, str(path), sha256, mujoco, task.termination, task.reference, 40, task.source)


def test_real_components_are_trained_and_evaluated_through_the_store(
    bundled: TaskRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = open_store(f"memory://real-{tmp_path.name}")
    small = {"steps": 20, "hidden_dim": 16, "batch_size": 32}
    config = component_config("bc", {}, small).to_dict()
    units = tuple(ComponentUnit(f"bc-s{seed}", "bc", config, bundled, seed) for seed in (3, 5))
    heard: list[float] = []
    run_pack(store.location, Pack(units), device="cpu", threads=1, on_progress=heard.append)
    assert heard[-1] == 1.0
    manifest = store.manifest("component", "bc-s5")
    assert manifest["seed"] == 5
    assert manifest["config"] == config
    assert manifest["packed_with"] == ["bc-s3", "bc-s5"]
    assert manifest["compute"] == {"path": "eager", "tf32": False, "products": faster_library()}
    assert manifest["seconds"] * 2 == pytest.approx(20 / manifest["updates_per_second"], rel=0.2, abs=0.01)
    for name in ("task", "git_sha", "torch", "mpcwdwm", "host", "device", "threads", "finished_at"):
        assert manifest[name]

    cells = tuple(
        CellUnit(f"bc-cell-s{s}", "bc", "bc", None, "bc", {"bc": config}, {"bc": f"bc-s{s}"}, bundled, s, 3, 0)
        for s in (3, 5)
    )
    cells = tuple(replace(cell, traced_episodes=2) for cell in cells)
    run_pack(store.location, Pack(cells), device="cpu", threads=1)
    result = store.manifest("cell", "bc-cell-s3")
    rows = pd.read_parquet(store.folder("cell", "bc-cell-s3") / "episodes.parquet")
    names = [
        "episode",
        "env_seed",
        "return",
        "normalized_score",
        "length",
        "ms_per_step",
        "evaluations_per_step",
        "imagined_return",
        "fallbacks",
        "adapted_share",
        "action_change",
    ]
    assert list(rows.columns) == names
    assert len(rows) == 3
    assert rows["imagined_return"].isna().all()  # a frozen policy imagines nothing
    assert set(rows["evaluations_per_step"]) == {1.0} == {result["episodes_mean"]["evaluations_per_step"]}
    assert result["env_steps"] == rows["length"].sum()
    assert result["episodes_mean"]["return"] == pytest.approx(rows["return"].mean())
    assert result["dataset_mean_return"] > 0
    steps = pd.read_parquet(store.folder("cell", "bc-cell-s3") / "steps.parquet")
    assert steps.groupby("episode").size().tolist() == rows["length"].tolist()[:2]
    assert steps.groupby("episode")["reward"].sum().tolist() == pytest.approx(rows["return"].tolist()[:2], rel=1e-5)
    assert (result["method"], result["seed"], result["parts"]) == ("bc", 3, {"bc": "bc-s3"})


def test_a_dataset_that_changed_after_planning_is_the_users_error(bundled: TaskRef, store: Store) -> None:
    config = component_config("bc", {}, {"steps": 1, "hidden_dim": 4, "batch_size": 2}).to_dict()
    unit = ComponentUnit("bc-s0", "bc", config, replace(bundled, dataset_sha256="f" * 64), 0)
    outcome = attempt_pack(store.location, Pack((unit,)), device="cpu", threads=1)
    assert isinstance(outcome, PackFailure)
    assert "has changed" in outcome.error
    assert outcome.hopeless
