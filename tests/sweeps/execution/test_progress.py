"""Progress lines: how long something takes, when a line is printed, and that nothing is printed twice."""

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console

from cluster.units import CellUnit, ComponentUnit, Pack, TaskRef
from sweeps.durations import duration
from sweeps.execution.progress import PLAIN_EVERY, Phase, ProgressLines, relative_work, working_order
from sweeps.spec.spec import Spec

TASK = TaskRef("hopper", "Hopper-v4", "/data/hopper.hdf5", "0" * 64, "3.4.0", "hopper", None, 1000, "local")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (3600, "60 min"),
        (2 * 3600 + 300, "2 h 05 min"),
        (52 * 3600, "2 d 4 h"),
    ],
)
def test_a_duration_reads_as_people_say_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_estimate_goes_by_work_not_by_counts() -> None:
    phase = Phase("evaluate", total=10, done=9, work=100.0, worked=20.0)
    assert phase.remaining(now=50.0) is None  # nothing of this run has begun
    phase.begin(now=0.0)
    assert phase.remaining(now=50.0) == pytest.approx(200.0)


def test_an_estimate_waits_until_there_is_something_to_go_by() -> None:
    phase = Phase("pretrain", total=10, work=100.0, worked=1.0)
    phase.begin(now=0.0)
    assert phase.remaining(now=1.0) is None
    assert phase.state(now=1.0) == "running"


def lines_at(times: list[float], changes: list[dict]) -> list[str]:
    """Show a phase at each time after its change, on something that is no terminal."""
    clock = iter(times)
    out = io.StringIO()
    phase = Phase("pretrain", total=4, work=4.0)
    with ProgressLines(Console(file=out, width=200), clock=lambda: next(clock)) as lines:
        for change in changes:
            for name, value in change.items():
                setattr(phase, name, value)
            phase.begin(0.0)
            lines.show(phase)
    return out.getvalue().splitlines()


def test_where_there_is_no_terminal_a_line_comes_now_and_then_and_at_the_end() -> None:
    changes = [{}, {"done": 1, "worked": 1.0}, {"done": 2, "worked": 2.0}, {"done": 4, "worked": 4.0}, {}]
    printed = lines_at([0.0, 5.0, PLAIN_EVERY + 1, PLAIN_EVERY + 2, PLAIN_EVERY + 30], changes)
    assert printed == [
        "pretrain  0/4  running",
        "pretrain  2/4  about 16 s left",
        "pretrain  4/4  done in 17 s",
    ]


def test_failures_count_towards_the_end_and_are_named() -> None:
    printed = lines_at([10.0], [{"done": 3, "failed": 1, "worked": 4.0}])
    assert printed == ["pretrain  3/4  done in 10 s, 1 failed"]


def test_a_phase_that_was_done_before_says_so_once() -> None:
    out = io.StringIO()
    with ProgressLines(Console(file=out, width=200)) as lines:
        for _ in range(3):
            lines.show(Phase("pretrain", total=4, done=4))
    assert out.getvalue().splitlines() == ["pretrain  4/4  done before"]


def test_work_grows_with_steps_and_width_and_with_model_calls() -> None:
    def training(steps: int, width: int) -> float:
        config = {"steps": steps, "batch_size": 32, "hidden_dim": width}
        return relative_work(Pack((ComponentUnit("k", "rebrac", config, TASK, 0),)))

    def playing(planner: dict | None) -> float:
        configs = {"world_model": {"denoising_steps": 5}}
        cell = CellUnit("k", "m", "m", planner, "rebrac", configs, {}, TASK, 0, episodes=1, env_seed=0)
        return relative_work(Pack((cell,)))

    assert training(200, 16) == 2 * training(100, 16)
    assert training(100, 32) == 4 * training(100, 16)
    assert playing({"updates": 2, "horizon": 3}) - 1 == 6 * 5
    assert playing(None) < playing({"updates": 1, "horizon": 1})


def test_tasks_are_worked_off_in_their_order_and_within_one_the_longest_packs_first() -> None:
    others = [replace(TASK, name=name) for name in ("walker2d", "ant")]

    def cell(task: TaskRef, horizon: int) -> Pack:
        name = f"{task.name} {horizon}"
        return Pack((CellUnit(name, name, "mpc", {"updates": 1, "horizon": horizon}, "b", {}, {}, task, 0, 1, 0),))

    spec = cast(Spec, SimpleNamespace(tasks=[others[0], TASK, others[1]]))
    given = [cell(task, horizon) for task in (TASK, *others) for horizon in (1, 5, 3)]
    found = [pack.units[0].key for pack in working_order(given, spec)]
    assert found == [f"{task} {horizon}" for task in ("walker2d", "hopper", "ant") for horizon in (5, 3, 1)]
