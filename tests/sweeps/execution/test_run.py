"""The driver, on real Ray, real MLflow and components trained for a few steps."""

import io
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from ray._private.utils import get_num_cpus
from rich.console import Console

from cluster import packs
from cluster.ray import start as ray_cluster
from cluster.store import open_store
from cluster.work import run_pack
from mpcwdwm.data import dataset_path, find_task
from sweeps.execution.driver import Outcome, run
from sweeps.execution.progress import ProgressLines
from sweeps.plan.plan import build_plan, cell_packs
from sweeps.records.recorder import Recorder
from sweeps.spec.document import write_yaml
from sweeps.spec.spec import Spec, load_spec
from sweeps.watching.status import status_of
from sweeps.watching.units import read_units

BUNDLED = "hopper-medium-replay-mini-ppo-v0"
TINY = {"steps": 20, "hidden_dim": 8, "batch_size": 16, "evaluations": 1}
SPEC: dict[str, Any] = {
    "name": "tiny",
    "tasks": [BUNDLED],
    "seeds": 2,
    "components": dict.fromkeys(("rebrac", "iql", "bc", "reward"), TINY)
    | {"world_model": {**TINY, "denoising_steps": 2}},
    "planners": {"mpc": {"kind": "policy", "horizon": [1, 2], "rollouts": 2, "updates": 1}},
    "baselines": ["rebrac", "iql", "bc"],
    "evaluation": {"episodes": 2, "env_seed": 0},
    "resources": {"retries": 0},
}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One Ray for all of them: starting and ending it is what the tests of the command line hold."""
    stop = ray_cluster.stop
    ray_cluster.start("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_cluster, "stop", lambda: None)
        yield
    stop()


@pytest.fixture(autouse=True)
def records(new_records: Callable[[Path], str], tmp_path: Path) -> None:
    """Have an empty store where a spec in the test's folder has its records."""
    new_records(tmp_path / "runs")


def spec_in(folder: Path, **changes: object) -> Spec:
    file = folder / "tiny.yaml"
    file.write_text(write_yaml({**SPEC, **changes}))
    return load_spec(file)


def run_quietly(spec: Spec, compute: Callable | None = None) -> tuple[Outcome, str]:
    out = io.StringIO()
    return run(spec, lines=ProgressLines(Console(file=out, width=300)), compute=compute), out.getvalue()


def recorded(spec: Spec) -> dict[str, str]:
    """Return the status of every MLflow run by key; a doubled key fails."""
    with sqlite3.connect(spec.tracking_uri.removeprefix("sqlite:///")) as database:
        rows = database.execute(
            "select value, status from runs join tags using (run_uuid) "
            "where key = 'mpcwdwm.key' and lifecycle_stage = 'active'"
        ).fetchall()
    assert len(rows) == len(dict(rows))
    return dict(rows)


class Looking:
    """Looks at a sweep again and again, as `sweep status` does, at least a hundred times.

    It makes a file once it has seen something run.
    """

    def __init__(self, spec: Spec, saw_running: Path) -> None:
        self.spec, self.seen, self.ended, self.saw_running = spec, list[set[str]](), threading.Event(), saw_running
        self.thread = threading.Thread(target=self._look)
        self.thread.start()

    def _look(self) -> None:
        store = open_store(self.spec.storage)
        while not self.ended.wait(0.05) or len(self.seen) < 100:
            if planned := read_units(store, self.spec.record):
                self.seen.append({one.state for one in status_of(self.spec.record, planned, store).units})
                if "running" in self.seen[-1]:
                    self.saw_running.touch()

    def end(self) -> list[set[str]]:
        """Return the states that were seen, a set for each look."""
        self.ended.set()
        self.thread.join()
        return self.seen


def failing(component: str, wait_for: Path | None = None) -> Callable:
    """Return what computes all but one component, each once a file is there, or after half a minute.

    Of that one a temporary name is left, as of a process that was killed.
    """

    def compute(store, pack, device, threads, on_progress):  # nested: pickled by value
        import os
        import time

        from cluster.store.files import writer_name
        from cluster.work import compute_pack

        latest = time.monotonic() + 30
        while wait_for and not wait_for.exists() and time.monotonic() < latest:
            time.sleep(0.05)
        if getattr(pack.units[0], "component", "") == component:
            no_process = 2**22  # Linux has none above
            (store.root / ".tmp" / writer_name().replace(f"~{os.getpid()}~", f"~{no_process}~")).touch()
            raise ZeroDivisionError("no such luck")
        return compute_pack(store, pack, device, threads, on_progress)

    return compute


@pytest.mark.slow
def test_what_depends_on_a_failed_component_fails_with_its_reason_and_all_else_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, drain = list[str](), Recorder.drain
    monkeypatch.setattr(ray_cluster, "stop", lambda: ends.append("workers"))
    monkeypatch.setattr(Recorder, "drain", lambda recorder: (ends.append("records"), drain(recorder))[1])
    spec = spec_in(tmp_path)
    outcome, shown = run_quietly(spec, failing("world_model"))
    assert ends == ["workers", "records"], "nobody waits for MLflow with a cluster at hand"
    assert list(tmp_path.glob("runs/.tmp/*")) == []
    plan = build_plan(spec, store := open_store(spec.storage))
    states = plan.states(store)
    for unit in [*plan.components, *plan.cells]:
        builds_on_it = unit.key.startswith("world_model") or "world_model" in getattr(unit, "parts", {})
        assert states[unit.key] == ("failed" if builds_on_it else "cached"), unit.key
        assert (unit.key in outcome.failed) == builds_on_it
    for cell in plan.cells:
        if cell.key in outcome.failed:
            failure = outcome.failed[cell.key]
            assert failure.error.startswith("component world_model failed: ZeroDivisionError: no such luck")
            assert "Traceback" in Path(failure.log).read_text()
            assert failure.error in shown
    status = recorded(spec)
    assert status.pop("sweep/tiny") == "FAILED"
    assert set(status) == {key for key, state in states.items() if state == "cached"}
    assert set(status.values()) == {"FINISHED"}

    before = {key: store.manifest("component", key) for key in store.keys("component")}
    again, _ = run_quietly(spec)  # nothing is in the way any more: only what failed is computed
    assert (again.trained, again.evaluated, again.failed) == (2, 4, {})
    assert {key: store.manifest("component", key) for key in before} == before
    assert set(recorded(spec)) == {"sweep/tiny", *states}
    assert set(recorded(spec).values()) == {"FINISHED"}


@pytest.mark.slow
def test_what_failed_three_times_for_one_reason_is_set_aside_and_whoever_looks_meanwhile_disturbs_nothing(
    tmp_path: Path,
) -> None:
    spec = spec_in(tmp_path, planners={}, baselines=["bc", "iql"], seeds=1, resources={"retries": 2})
    store = open_store(spec.storage)
    looked = Looking(spec, tmp_path / "saw it run")
    try:
        first, _ = run_quietly(spec, failing("bc", wait_for=tmp_path / "saw it run"))
    finally:
        seen = looked.end()
    assert len(seen) >= 100
    assert {"running", "done", "set aside"} <= set().union(*seen)
    assert len(first.failed) == len(first.set_aside) == 2  # the component, and the cell that is built on it
    assert (first.trained, first.evaluated) == (1, 1)  # the rest goes on
    again, shown = run_quietly(spec)  # nothing would be in the way any more
    assert (again.trained, again.evaluated, again.set_aside) == (0, 0, first.set_aside)
    assert "set aside: 2" in shown
    for key in store.failed():
        store.clear_failure(key)
    forgotten, _ = run_quietly(spec)
    assert (forgotten.trained, forgotten.evaluated, forgotten.failed) == (1, 1, {})


@pytest.mark.slow
def test_a_sweep_that_is_done_needs_no_ray_and_mends_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_in(tmp_path, planners={}, baselines=["bc"], seeds=1)
    run_quietly(spec)
    first = recorded(spec)
    client = MlflowClient(spec.tracking_uri)
    for run_info in client.search_runs(["1"], "tags.`mpcwdwm.kind` = 'cell'"):
        client.delete_run(run_info.info.run_id)
    assert len(recorded(spec)) == len(first) - 1

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("Ray is started")

    monkeypatch.setattr(ray_cluster, "start", refuse)
    outcome, _ = run_quietly(spec)
    assert (outcome.trained, outcome.evaluated) == (0, 0)
    assert recorded(spec) == first


@pytest.mark.slow
def test_what_an_orphan_publishes_after_the_plan_was_made_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_packs = packs.plan_packs

    def late(store, planned, wanted):
        for pack in planned:
            if pack.kind == "component":
                run_pack(store.location, pack, device="cpu", threads=1)
        return plan_packs(store, planned, wanted)

    def give_up(*_):
        raise TimeoutError("the driver waits for what is there")

    monkeypatch.setattr(packs, "plan_packs", late)
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(90)
    try:
        outcome, _ = run_quietly(spec_in(tmp_path, planners={}, baselines=["bc"], seeds=1))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert (outcome.trained, outcome.evaluated, outcome.failed) == (0, 1, {})


@pytest.mark.slow
def test_cells_are_chosen_on_the_select_seeds_and_only_the_chosen_one_is_reported(tmp_path: Path) -> None:
    evaluation = {"episodes": 2, "env_seed": 0, "select": {"seeds": [7], "env_seed": 100, "episodes": 1}}
    spec = spec_in(tmp_path, evaluation=evaluation, seeds=1, baselines=["rebrac"])
    outcome, _ = run_quietly(spec)
    assert not outcome.failed
    plan = build_plan(spec, store := open_store(spec.storage))
    assert plan.awaiting_choice == 0
    assert set(plan.states(store).values()) == {"cached"}
    roles = [(cell.name, cell.role, cell.seed) for cell in plan.cells]
    assert sorted(roles) == [("mpc", "report", 0), ("mpc", "select", 7), ("mpc", "select", 7), ("rebrac", "report", 0)]


@pytest.mark.slow
def test_a_task_is_evaluated_while_another_still_trains(tmp_path: Path) -> None:
    file = str(dataset_path(find_task(BUNDLED)))
    tasks = [{"name": name, "dataset": file, "env": "Hopper-v4"} for name in ("first", "second")]
    components = {**SPEC["components"], "bc": {**TINY, "steps": 40}}  # the longest is trained first
    changes = {"tasks": tasks, "components": components, "seeds": 1, "planners": {}}
    spec = spec_in(tmp_path, **changes)
    seen = tmp_path / "evaluated"

    def compute(store, pack, device, threads, on_progress):  # nested: pickled by value
        import time

        from cluster.work import compute_pack

        unit = pack.units[0]
        if pack.kind == "cell" and unit.task.name == "first":
            seen.touch()
        deadline = time.monotonic() + 180
        while pack.kind == "component" and unit.task.name == "second" and unit.component == "rebrac":  # one alone:
            if seen.exists():
                break
            if time.monotonic() > deadline:
                raise TimeoutError("the first task was not evaluated meanwhile")
            time.sleep(0.1)
        return compute_pack(store, pack, device, threads, on_progress)

    outcome, _ = run_quietly(spec, compute)
    assert not outcome.failed
    assert (outcome.trained, outcome.evaluated) == (6, 6)


@pytest.mark.slow
def test_a_pack_of_cells_begun_for_more_seeds_than_are_planned_now_is_not_waited_for(tmp_path: Path) -> None:
    changes = {"planners": {}, "baselines": ["bc"]}
    three = spec_in(tmp_path, **changes, seeds=3)
    run_quietly(three)
    store = open_store(three.storage)
    (pack,) = cell_packs(build_plan(three, store))
    for key in pack.keys:
        store.delete("cell", key)
    store.delete("component", pack.units[2].parts["bc"])
    packs.begin(store, pack)  # as if killed while it was evaluated, the files of a seed then deleted
    outcome, _ = run_quietly(spec_in(tmp_path, **changes, seeds=2))
    assert (outcome.trained, outcome.evaluated, outcome.failed) == (0, 2, {})


@pytest.mark.slow
def test_a_choice_that_asks_for_more_training_gets_the_processors_that_evaluation_held(tmp_path: Path) -> None:
    file = str(dataset_path(find_task(BUNDLED)))
    everything = {"cpus": int(get_num_cpus())}  # of the machine: training and evaluation exclude each other
    spec = spec_in(
        tmp_path,
        seeds=1,
        tasks=[{"name": name, "dataset": file, "env": "Hopper-v4"} for name in ("first", "second")],
        planners={"mpc": {"base": ["rebrac", "iql"], "horizon": 1, "rollouts": 2, "updates": 1}},
        baselines=["rebrac"],
        evaluation={"episodes": 1, "select": {"seeds": [7], "env_seed": 100, "episodes": 1}},
        resources={"actor": everything, "trial": everything, "retries": 0},
    )

    def compute(store, pack, device, threads, on_progress):  # nested: pickled by value
        import json

        from cluster.work import compute_pack

        def with_score(write, score):
            def written(folder):
                write(folder)
                manifest = json.loads((folder / "manifest.json").read_text())
                manifest["episodes_mean"]["normalized_score"] = score
                (folder / "manifest.json").write_text(json.dumps(manifest))

            return written

        unit = pack.units[0]
        writers = compute_pack(store, pack, device, threads, on_progress)
        if getattr(unit, "role", "") != "select":
            return writers
        score = float((unit.task.name, unit.base) in (("first", "rebrac"), ("second", "iql")))
        return {key: with_score(write, score) for key, write in writers.items()}

    outcome, _ = run_quietly(spec, compute)
    chosen = {cell.task.name: cell.base for cell in build_plan(spec, open_store(spec.storage)).cells if cell.planner
              and cell.role == "report"}  # fmt: skip
    assert (outcome.failed, chosen) == ({}, {"first": "rebrac", "second": "iql"})


@pytest.mark.slow
def test_every_kind_of_planner_runs_on_every_base_it_can_have(tmp_path: Path) -> None:
    small = {"horizon": 1, "updates": 1}
    planners = {
        "mpc": {"kind": "policy", "base": ["rebrac", "iql", "bc"], "rollouts": 2, **small},
        "ascent": {"kind": "action", "base": "iql", "rollouts": 2, "reset": "episode", **small},
        "borrowed": {"kind": "action", "base": "bc", "critic_from": "rebrac", "horizon": 0},
        "sampling": {"kind": "mppi", "base": "bc", "samples": 8, "policy_samples": 2, "elites": 4, **small},
        "frozen": {"kind": "none", "base": "bc"},
    }
    spec = spec_in(tmp_path, planners=planners, baselines=["bc"], seeds=1, evaluation={"episodes": 1})
    outcome, _ = run_quietly(spec)
    assert (outcome.trained, outcome.evaluated, outcome.failed) == (5, 8, {})
    store = open_store(spec.storage)
    done = {cell.method: store.manifest("cell", cell.key) for cell in build_plan(spec, store).cells}
    assert {"rebrac", "bc"} < set(done["borrowed"]["parts"])
    assert done["frozen"]["episodes_mean"]["return"] == done["bc"]["episodes_mean"]["return"]
    for method, manifest in done.items():
        rows = pd.read_parquet(Path(spec.storage) / "results" / manifest["key"] / "episodes.parquet")
        assert rows["fallbacks"].sum() == 0
        adapts = manifest["planner"] is not None and method != "frozen"
        assert rows["imagined_return"].notna().all() == adapts, method


@pytest.mark.slow
def test_a_component_that_builds_on_others_waits_for_them_and_learns_with_them(tmp_path: Path) -> None:
    tilted, value = {**TINY, "kind": "meanflow", "tilt": 0.1}, {**TINY, "episodes": 10, "length": 5}
    components = {**SPEC["components"], "world_model": tilted, "value": value}
    planners = {"mpc": {"kind": "policy", "horizon": 1, "rollouts": 2, "critic_from": ["base", "value"]}}
    spec = spec_in(tmp_path, components=components, planners=planners, baselines=[])
    outcome, _ = run_quietly(spec)
    assert (outcome.trained, outcome.evaluated, outcome.failed) == (8, 4, {})
    plan = build_plan(spec, store := open_store(spec.storage))
    keys = {(unit.component, unit.seed): unit.key for unit in plan.components}
    for unit in plan.components:
        manifest = store.manifest("component", unit.key)
        names = {"world_model": ("rebrac",), "value": ("rebrac", "world_model", "reward")}.get(unit.component, ())
        assert manifest.get("parts", {}) == {name: keys[name, unit.seed] for name in names}
        if unit.component == "world_model":
            assert 1 / TINY["batch_size"] <= manifest["metrics"]["world_model/effective_share"] < 1
        if unit.component == "value":
            assert 1 <= manifest["metrics"]["value/imagined_length"] <= 5
