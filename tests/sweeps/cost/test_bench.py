"""`mpcwdwm bench`: what it stores is what `sweep plan` reads, and its report says what was measured."""

import contextlib
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mpcwdwm.components import COMPONENTS, component_config
from mpcwdwm.data.tasks import ROBOTS
from mpcwdwm.errors import UserError
from mpcwdwm.nn.compute_config import ComputeConfig
from mpcwdwm.planning import planner_config
from sweeps.cost import bench as bench_module
from sweeps.cost import speed
from sweeps.cost.bench import BUDGET_SECONDS, DIMS, Report, bench, bench_place, times_around, to_json, to_text
from sweeps.cost.machine import Crowding, Machine, known_machine
from sweeps.cost.works import Acts, Cost, Place, Updates

PLACE = Place("cpu", 1)
EAGER = ComputeConfig(capture="eager")
FACTS = {"processor": "Abacus", "cores": 2, "threads": 1, "gpu": None, "device": "cpu", "torch": "2"}
AROUND = Machine(start=9.0, trial=4.0, pack=0.1, end=3.0, crowding=Crowding(1, {"rebrac": 1.25}))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements that take no time and can be told apart."""
    numbers = itertools.count(1)
    for name in ("time_updates", "time_acts", "time_env"):
        monkeypatch.setattr(speed, name, lambda *work: Cost(float(next(numbers))))
    monkeypatch.setattr(bench_module, "empty_sweep", lambda: AROUND)
    monkeypatch.setattr(bench_module, "crowding", lambda place: AROUND.crowding)


@pytest.mark.usefixtures("fake")
def test_what_bench_measures_is_what_a_plan_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = list[str]()
    report = bench(PLACE, stages.append)
    assert report.skipped == []
    assert stages[:2] == ["environments", "updates of rebrac"]

    def measured_again(*work: Any) -> Cost:
        raise AssertionError(work)

    for name in ("time_updates", "time_acts", "time_env"):
        monkeypatch.setattr(speed, name, measured_again)
    assert known_machine(PLACE) == AROUND == report.around
    assert known_machine(Place("cpu", 2)) is None
    for robot in ROBOTS:
        assert speed.env_cost(f"{robot}-v4") == report.environments[f"{robot}-v4"]
    for name in COMPONENTS:
        config = component_config(name, {}, {"steps": 1000})
        for seeds in (1, 5):
            assert speed.update_cost(Updates(name, config, DIMS, seeds, EAGER), PLACE) == report.updates[name][seeds]
    assert len(report.planning) == 12
    for shape, cost in report.planning:
        parts = {name: component_config(name, {}, {}) for name in ("rebrac", "world_model", "reward")}
        sizes = {"horizon": shape["H"], "rollouts": shape["M"], "updates": shape["E"]}
        planner = planner_config({"kind": "policy", **sizes})
        assert shape["K"] == parts["world_model"].to_dict()["denoising_steps"]
        assert speed.act_cost(Acts(planner, parts, "rebrac", DIMS, 1, shape["episodes"]), PLACE) == cost


@pytest.mark.usefixtures("fake")
def test_another_bench_measures_anew() -> None:
    first, second = bench(PLACE), bench(PLACE)
    assert second.updates["iql"][5].step > first.updates["iql"][5].step
    config = component_config("iql", {}, {})
    assert speed.update_cost(Updates("iql", config, DIMS, 5, EAGER), PLACE) == second.updates["iql"][5]


@pytest.mark.usefixtures("fake")
def test_nothing_is_begun_after_the_budget_is_spent() -> None:
    times = iter([0.0, 1.0, 2.0, BUDGET_SECONDS + 1])
    report = bench(PLACE, clock=lambda: next(times, BUDGET_SECONDS + 2))
    assert list(report.updates) == ["rebrac"]
    assert "updates of iql" in report.skipped
    assert report.planning == []
    assert known_machine(PLACE) == Machine()
    assert "left out, the machine is too slow or too busy: updates of iql" in to_text(report)


def test_the_report_is_a_table_and_json_is_in_seconds() -> None:
    report = Report(
        FACTS,
        environments={"Hopper-v4": Cost(2e-4)},
        acting=Cost(5e-4),
        updates={"bc": {1: Cost(0.01, first=1.0), 5: Cost(0.04)}},
        planning=[({"E": 1, "H": 5, "K": 5, "M": 64, "episodes": 10}, Cost(0.1234))],
        around=AROUND,
        seconds=41.0,
    )
    assert to_text(report) == (
        "machine      Abacus, 2 cores, 1 thread a process\n"
        "device       cpu, GPU: none, torch 2\n"
        "\n"
        "updates/s         1 seed   5 seeds\n"
        "  bc               100.0      25.0\n"
        "  first updates: up to 1.0 s besides, once a process\n"
        "\n"
        "ms a planned step     M 8, 1 ep.   M 8, 10 ep.   M 64, 1 ep.  M 64, 10 ep.\n"
        "  E 1, H 1, K 5                –             –             –             –\n"
        "  E 1, H 5, K 5                –             –             –         123.4\n"
        "  E 5, H 5, K 5                –             –             –             –\n"
        "\n"
        "environment steps/s\n"
        "  Hopper-v4             5000\n"
        "  policy of 10 episodes, without a planner: 0.50 ms a step\n"
        "\n"
        "a sweep      9.0 s to the first update, 4.0 s from training to cells, 0.10 s a pack, 3.0 s to the table\n"
        "side by side 2 processes, time over that of one alone: rebrac 1.25\n"
        "measured in 41 s; `mpcwdwm sweep plan` uses it"
    )
    plain = json.loads(to_json(report))
    assert plain["updates"]["bc"]["5"]["step"] == 0.04
    assert plain["planning"] == [{"E": 1, "H": 5, "K": 5, "M": 64, "episodes": 10, **vars(Cost(0.1234))}]
    assert plain["around"]["crowding"]["factors"] == {"rebrac": 1.25}


def test_times_around_the_work_are_read_off_the_files(tmp_path: Path) -> None:
    for kind, when, seconds in (
        ("components/a", 112.0, 2.0),
        ("components/b", 115.5, 3.0),  # half a second between them
        ("results/c", 121.5, 1.0),
        ("results/d", 123.6, 2.0),
    ):
        path = tmp_path / kind / "manifest.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"seconds": seconds}))
        os.utime(path, (when, when))
    around = times_around(tmp_path, started=100.0, ended=126.0)
    assert around.start == pytest.approx(10.0)
    assert around.trial == pytest.approx(5.0)
    assert around.pack == pytest.approx((0.5 + 0.1) / 2)
    assert around.end == pytest.approx(2.4)


def test_the_default_is_where_a_sweep_runs() -> None:
    import torch

    assert bench_place(None, 1) == Place("cuda" if torch.cuda.is_available() else "cpu", 1)


@pytest.mark.parametrize(
    ("device", "threads", "says"),
    [("gpu", 1, "give cpu or cuda"), ("cpu", 0, "cores"), ("cpu", 10**6, "cores"), ("cuda", 1, "no GPU here")],
)
def test_what_cannot_be_measured_is_refused(
    device: str, threads: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_module.torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=says):
        bench_place(device, threads)


def test_crowding_is_the_time_beside_others_over_that_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    beside = list[int]()

    @contextlib.contextmanager
    def others(count: int, place: Place) -> Iterator[None]:
        beside.append(count)
        yield
        beside.append(0)

    def cost(alone: float) -> Cost:
        return Cost(alone * (1.5 if beside else 1.0))

    monkeypatch.setattr(bench_module, "_others", others)
    monkeypatch.setattr(bench_module, "cores", lambda: 8)
    for name, alone in (("time_updates", 0.01), ("time_acts", 0.02), ("time_env", 0.001)):
        monkeypatch.setattr(speed, name, lambda *work, alone=alone: cost(alone))
    found = bench_module.crowding(Place("cpu", 2))
    assert beside == [3, 0]
    assert found.beside == 3
    assert found.factors == pytest.approx(
        dict.fromkeys(("rebrac", "iql", "world_model", "planning", "environment"), 1.5)
    )
    assert bench_module.crowding(Place("cpu", 5)) == Crowding()  # no second process fits


@pytest.mark.slow
def test_other_processes_work_within_the_block_and_are_gone_after(monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[Any]()
    popen = bench_module.subprocess.Popen
    monkeypatch.setattr(bench_module.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    with bench_module._others(1, PLACE):
        (other,) = started
        cpu = psutil.Process(other.pid).cpu_times().user
        while psutil.Process(other.pid).cpu_times().user < cpu + 0.1:  # until it has worked on
            time.sleep(0.05)
    assert other.poll() is not None
