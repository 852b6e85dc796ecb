"""Every unit has one state, under names that people know; whoever looks locks nothing and writes nothing."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import packs
from cluster.store import Store, open_store
from cluster.store.lease import hold
from cluster.units import Pack
from sweeps.watching import run_report
from sweeps.watching.run_report import PhaseReport, Reporter, living_runs
from sweeps.watching.show import seeds_text, to_json, to_lines
from sweeps.watching.status import SweepStatus, status_of
from sweeps.watching.units import Watched, read_units, save_units, watched_plan
from tests.support.recorded_sweeps import baseline, component, mpc, publish_component

COMPONENTS = [component("x", "rebrac", 0), component("x", "rebrac", 1)]
CELLS = [baseline("x", "rebrac", 0), mpc("x", 0), mpc("x", 1)]
UNITS = [*COMPONENTS, *CELLS]
KEYS = [unit.key for unit in UNITS]
PLANNED = watched_plan(COMPONENTS, CELLS, awaiting_choice=0, asked="")
BEGUN = Pack(tuple(UNITS[3:]))  # a pack of cells


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path))
    publish_component(tmp_path, UNITS[0])
    packs.begin(store, Pack(tuple(UNITS[1:2])))
    packs.begin(store, BEGUN)
    store.record_failure(KEYS[3], "out of memory", "/logs/a.log", tries=1)
    return store


def status(store: Store) -> SweepStatus:
    return status_of("x", PLANNED, store)


def states(store: Store) -> list[str]:
    return [one.state for one in status(store).units]


def test_a_unit_that_failed_is_not_also_interrupted(store: Store) -> None:
    assert states(store) == ["done", "interrupted", "new", "failed", "interrupted"]


def test_a_unit_that_is_tried_again_is_running(store: Store) -> None:
    with hold(store, BEGUN.id, wait=False):
        assert states(store) == ["done", "interrupted", "new", "running", "running"]
        (line,) = [line for line in to_lines(status(store)) if line.startswith("running")]
        assert "seeds 0-1: on " in line
        assert "since" in line


def test_a_unit_that_failed_three_times_for_one_reason_is_set_aside(store: Store) -> None:
    store.record_failure(KEYS[3], "out of memory", "/logs/a.log", tries=3)
    assert states(store) == ["done", "interrupted", "new", "set aside", "interrupted"]


def test_lines_name_task_method_and_seed_and_never_a_hash(store: Store) -> None:
    assert to_lines(status(store)) == [
        "not running",
        "components  2: 1 done, 1 interrupted",
        "cells       3: 0 done, 1 new, 1 interrupted, 1 failed",
        "interrupted hopper-mini-v0  rebrac  seed 1: will be continued",
        "interrupted hopper-mini-v0  mpc H=3 M=8 E=1 α=1e-05  seed 1: will be continued",
        "failed      hopper-mini-v0  mpc H=3 M=8 E=1 α=1e-05  seed 0: out of memory (log: /logs/a.log)",
    ]


def test_components_of_one_name_are_told_apart_by_what_differs() -> None:
    other = replace(COMPONENTS[0], key="other", config={**COMPONENTS[0].config, "hidden_dim": 16})
    named = watched_plan([*COMPONENTS, other], [], 0, "").units
    assert [unit.name for unit in named] == ["rebrac hidden_dim=8", "rebrac hidden_dim=8", "rebrac hidden_dim=16"]


def test_seeds_read_as_people_write_them() -> None:
    assert [seeds_text(s) for s in ([3], [0, 1, 2], [4, 0, 2, 1])] == ["seed 3", "seeds 0-2", "seeds 0-2, 4"]


def test_json_has_every_unit_the_counts_and_the_letters(store: Store) -> None:
    found = json.loads(to_json(status(store)))
    assert found["counts"] == {
        "component": {"done": 1, "interrupted": 1},
        "cell": {"new": 1, "failed": 1, "interrupted": 1},
    }
    assert [unit["key"] for unit in found["units"]] == KEYS
    assert found["units"][3]["settings"] == {"H": 3, "M": 8, "E": 1}
    assert (found["units"][3]["error"], found["units"][3]["log"]) == ("out of memory", "/logs/a.log")


def test_packs_of_other_sweeps_are_left_out(store: Store) -> None:
    packs.begin(store, Pack((replace(UNITS[2], key="other"),)))
    assert states(store) == ["done", "interrupted", "new", "failed", "interrupted"]


def test_what_a_run_reports_is_shown_until_it_ends(store: Store) -> None:
    reporter = Reporter(store, "x")
    with hold(store, BEGUN.id, wait=False):
        reporter.write([PhaseReport("cell", 90.0)], {BEGUN.id: (BEGUN, 0.25, "")})
        assert states(store) == ["done", "new", "new", "running", "running"]  # what is begun waits for this run
        lines = to_lines(status(store))
        assert lines[0].startswith("run         pid ")
        assert "time left   evaluation: about 2 min" in lines
        assert any(line.startswith("running") and ": 25 % on " in line for line in lines)
    reporter.close()
    assert status(store).runs == ()


def test_a_run_that_was_killed_is_not_shown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        f"from cluster.store import open_store\nfrom sweeps.watching.run_report import Reporter\n"
        f"Reporter(open_store({store.location!r}), 'x').write()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # here its process is known to be gone
    assert living_runs(store, "x") == []
    monkeypatch.setattr(run_report, "is_dead", lambda host, pid: False)  # as of another machine's
    assert len(living_runs(store, "x")) == 1
    monkeypatch.setattr(run_report, "EXPIRY", 0.0)
    assert living_runs(store, "x") == []
    monkeypatch.undo()
    Reporter(store, "x")
    assert store.names("sweeps/x/runs") == []  # the next run takes the report away


def test_a_report_that_cannot_be_written_stops_no_run(tmp_path: Path) -> None:
    (tmp_path / "sweeps").write_text("not a folder")
    Reporter(open_store(str(tmp_path)), "x").write()


def test_looking_a_hundred_times_writes_nothing_and_keeps_nobody_waiting(store: Store) -> None:
    def content() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in store.root.rglob("*")}

    (store.work_folder(BEGUN.id) / "lease").touch()  # of a holder that has let go: whoever comes may take it
    before = content()
    taken, look = 0, as_often_as_possible(lambda: states(store))
    try:
        assert content() == before
        for _ in range(100):
            with hold(store, BEGUN.id, wait=False):  # Busy if somebody who looks has it
                taken += 1
    finally:
        assert look() >= 100
    assert taken == 100


def as_often_as_possible(look: Callable[[], object]) -> Callable[[], int]:
    """Call it in a thread, at least a hundred times; return what ends that and says how often it was."""
    import threading

    ended, counted = threading.Event(), [0]

    def work() -> None:
        while not ended.is_set() or counted[0] < 100:
            look()
            counted[0] += 1

    thread = threading.Thread(target=work)
    thread.start()

    def end() -> int:
        ended.set()
        thread.join()
        return counted[0]

    return end


def test_units_are_read_back_and_damaged_ones_are_none(store: Store) -> None:
    assert read_units(store, "x") is None
    save_units(store, "x", PLANNED)
    read = read_units(store, "x")
    assert isinstance(read, Watched)
    assert [unit.key for unit in read.units] == KEYS
    store.save_sweep_file("x", "units.json", "{")
    assert read_units(store, "x") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"key": 1}', "[" * 100_000, "\0", '{"begun": "x"}'])
def test_small_files_that_are_damaged_count_as_absent(store: Store, text: str) -> None:
    """A failure, a pack, a lease, a run's report: each is written again by the next run."""
    undamaged = states(store)
    store.write_text("sweeps/x/runs/elsewhere-1.json", text)
    store.write_text(f"work/{BEGUN.id}/lease", text)
    assert states(store) == undamaged
    store.write_text(f"failures/{KEYS[3]}.json", text)
    assert states(store)[3] == "interrupted"
    store.write_text(f"work/{BEGUN.id}/pack.json", text)
    assert states(store) == ["done", "interrupted", "new", "new", "new"]
    assert packs.begun_packs(store) == [Pack(tuple(UNITS[1:2]))]
    packs.sweep_up(store)
    assert BEGUN.id not in store.work_ids()


def test_a_pack_that_is_not_the_one_of_its_folder_counts_as_damaged(store: Store) -> None:
    name = f"work/{BEGUN.id}/pack.json"
    store.write_text(name, (store.read_text(name) or "").replace(KEYS[4], "another-key"))
    assert BEGUN.id not in {pack.id for pack in packs.begun_packs(store)}
