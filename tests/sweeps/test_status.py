"""Every unit has one state, under names that people know."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import packs
from cluster.store import Store, open_store
from cluster.store.lease import hold
from cluster.units import Pack
from sweeps.status import status_of, to_json, to_lines
from tests.support.recorded_sweeps import baseline, component, mpc, publish_component

UNITS = [component("x", "rebrac", 0), component("x", "rebrac", 1), baseline("x", "rebrac", 0), mpc("x", 0), mpc("x", 1)]
KEYS = [unit.key for unit in UNITS]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path))
    publish_component(tmp_path, UNITS[0])
    packs.begin(store, Pack(tuple(UNITS[1:2])))
    packs.begin(store, Pack(tuple(UNITS[3:])))
    store.record_failure(KEYS[3], "out of memory", "/logs/a.log")
    return store


def states(store: Store) -> list[str]:
    return [one.state for one in status_of(UNITS, store)]


def test_a_unit_that_failed_is_not_also_interrupted(store: Store) -> None:
    assert states(store) == ["done", "interrupted", "new", "failed", "interrupted"]


def test_a_unit_that_is_tried_again_is_running(store: Store) -> None:
    with hold(store, Pack(tuple(UNITS[3:])).id, wait=False):
        assert states(store) == ["done", "interrupted", "new", "running", "running"]
        assert all("pid" in line for line in to_lines(status_of(UNITS, store)) if line.startswith("running"))


def test_lines_name_task_method_and_seed_and_never_a_hash(store: Store) -> None:
    lines = to_lines(status_of(UNITS, store))
    assert lines == [
        "interrupted hopper-mini-v0  rebrac  seed 1: will be continued",
        "interrupted hopper-mini-v0  mpc H=3 M=8 E=1 α=1e-05  seed 1: will be continued",
        "failed      hopper-mini-v0  mpc H=3 M=8 E=1 α=1e-05  seed 0: out of memory (log: /logs/a.log)",
    ]


def test_json_has_every_unit_and_the_counts(store: Store) -> None:
    found = json.loads(to_json("x", status_of(UNITS, store)))
    assert found["counts"] == {
        "component": {"done": 1, "interrupted": 1},
        "cell": {"new": 1, "failed": 1, "interrupted": 1},
    }
    assert [unit["key"] for unit in found["units"]] == KEYS


def test_packs_of_other_sweeps_are_left_out(store: Store) -> None:
    packs.begin(store, Pack((replace(UNITS[2], key="other"),)))
    assert states(store) == ["done", "interrupted", "new", "failed", "interrupted"]
