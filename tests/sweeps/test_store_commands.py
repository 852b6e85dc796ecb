"""Storage listed, verified and cleared, in a folder and behind a URL alike."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import typer

from cluster import packs
from cluster.provenance import now
from cluster.store import Store, open_store
from cluster.store.lease import hold
from cluster.units import Pack, Unit
from mpcwdwm.errors import UserError
from sweeps import store_commands
from sweeps.store_commands import store_gc, store_ls, store_verify
from sweeps.watching.run_report import Reporter
from sweeps.watching.units import save_units, watched_plan
from tests.support.plans import BASE, plan
from tests.support.recorded_sweeps import component, mpc

OTHERS = [component("old", "rebrac", 0), component("old", "rebrac", 1), mpc("old", 0)]


def published(store: Store, unit: Unit, finished_at: str = "2026-03-01T12:00:00+00:00") -> None:
    def write(folder: Path) -> None:
        (folder / "weights").write_bytes(b"w" * 500_000)
        (folder / "manifest.json").write_text(json.dumps({**asdict(unit), "finished_at": finished_at}))

    assert store.publish(unit.kind, unit.key, write)


@pytest.fixture(params=["folder", "S3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(store_commands, "leave", leave)
    if request.param == "S3":
        return open_store(f"{request.getfixturevalue('s3').bucket()}/runs")
    (tmp_path / "runs").mkdir()
    return open_store(tmp_path / "runs")


def leave(code: int) -> None:
    raise typer.Exit(code)


def damage(store: Store, unit: Unit) -> None:
    """Change a byte of an artifact's weights."""
    place = f"{'components' if unit.kind == 'component' else 'results'}/{unit.key}"
    inside = next(name for name in store.names(place) if name != "manifest.json")
    name = f"{place}/{inside}" if inside == "weights" else f"{place}/{inside}/weights"
    store.write_bytes(name, b"v" + b"w" * 499_999)


def test_what_is_stored_is_listed_with_seeds_size_and_age(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for unit in OTHERS:
        published(store, unit)
    store_ls(store.location)
    table = capsys.readouterr().out
    header, components, cell, total = table.splitlines()
    assert header.split() == ["kind", "task", "method", "stored", "of", "size", "newest"]
    assert components.split()[:7] == ["component", "hopper-mini-v0", "rebrac", "2", "seeds", "0-1", "1.0"]
    assert "mpc H=3 M=8 E=1" in cell
    assert total == "3 artifacts, 1.5 MB"
    store_ls(store.location, as_json=True)
    entries = json.loads(capsys.readouterr().out)
    assert [(entry["kind"], entry["seed"], entry["bytes"]) for entry in entries] == [
        ("component", 0, 500_000),
        ("component", 1, 500_000),
        ("cell", 0, 500_000),
    ]


def test_damage_is_named_and_repaired_by_removal(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for unit in OTHERS:
        published(store, unit)
    store_verify(store.location)
    assert capsys.readouterr().out == "3 sound, 0 damaged\n"
    damage(store, OTHERS[1])
    for repair in (False, True):
        with pytest.raises(typer.Exit) as ended:
            store_verify(store.location, repair=repair)
        assert ended.value.exit_code == 1
        named, counts = capsys.readouterr().out.splitlines()
        assert named.startswith(f"component {OTHERS[1].key}: weights: changed since it was written")
        assert counts == "2 sound, 1 damaged"
    assert not store.has("component", OTHERS[1].key)
    store_verify(store.location)
    published(store, OTHERS[1])  # as the next run does


def test_gc_lists_then_removes_what_no_spec_refers_to(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = plan(tmp_path, BASE)
    for unit in [own.components[0], own.cells[0], *OTHERS]:
        published(store, unit)
    spec = str(tmp_path / "s.yaml")
    store_gc(store.location, specs=[spec])
    assert capsys.readouterr().out.splitlines()[-1] == "3 artifacts, 1.5 MB; --yes removes them"
    assert len(store.keys("component")) == 3
    store_gc(store.location, specs=[spec], yes=True)
    assert store.keys("component") == [own.components[0].key]
    assert store.keys("cell") == [own.cells[0].key]


def test_gc_keeps_what_is_young(store: Store) -> None:
    published(store, OTHERS[0])
    published(store, OTHERS[1], finished_at=now())
    store_gc(store.location, older_than="12h", yes=True)
    assert store.keys("component") == [OTHERS[1].key]


def test_gc_keeps_what_a_living_run_has_planned(store: Store) -> None:
    for unit in OTHERS:
        published(store, unit)
    reporter = Reporter(store, "old/seeds-2")
    save_units(store, "old/seeds-2", watched_plan(OTHERS[:1], OTHERS[2:], awaiting_choice=0, asked=""))
    reporter.write()
    store_gc(store.location, older_than="1d", yes=True)
    assert (store.keys("component"), store.keys("cell")) == ([OTHERS[0].key], [OTHERS[2].key])
    store.delete_tree("sweeps/old/seeds-2/units.json")
    with pytest.raises(UserError, match="old/seeds-2 runs, and its plan cannot be read"):
        store_gc(store.location, older_than="1d", yes=True)
    reporter.close()
    store_gc(store.location, older_than="1d", yes=True)
    assert store.keys("component") == []


def test_gc_keeps_what_a_living_worker_computes_and_what_that_is_built_on(store: Store) -> None:
    published(store, OTHERS[0])
    published(store, OTHERS[1])
    pack = Pack((OTHERS[2],))  # of seed 0, built on the component of seed 0
    with hold(store, pack.id, wait=False):
        packs.begin(store, pack)
        store_gc(store.location, older_than="0m", yes=True)
        assert store.keys("component") == [OTHERS[0].key]
    store_gc(store.location, older_than="0m", yes=True)
    assert store.keys("component") == []


def test_gc_removes_checkpoints_and_failures_of_others(store: Store, tmp_path: Path) -> None:
    own = plan(tmp_path, BASE)
    for unit in (own.cells[0], OTHERS[2]):
        packs.begin(store, Pack((unit,)))
        store.record_failure(unit.key, "no", "log")
    store_gc(store.location, specs=[str(tmp_path / "s.yaml")], yes=True)
    assert store.work_ids() == [Pack((own.cells[0],)).id]
    assert store.failed() == {own.cells[0].key}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda place: store_gc(place), "name the sweeps to keep"),
        (lambda place: store_gc(place, older_than="soon"), "give a number with m, h or d"),
        (lambda place: store_ls(f"{place}-nowhere"), "there is no store"),
    ],
)
def test_what_is_wrong_is_one_line(call: Callable[[str], None], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        call(os.fspath(tmp_path))
