import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient

import analysis
from analysis.runs import Records
from mpcwdwm.errors import UserError
from sweeps.records.fields import plan_record
from sweeps.records.tracker import Tracker
from tests.support import ROOT
from tests.support.recorded_sweeps import PLANNER, baseline, component, mpc, publish_component, publish_result


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A sqlite store beside which a killed driver left a half-made one."""
    folder = tmp_path_factory.mktemp("tracking") / "a folder"
    folder.mkdir()
    (folder / "mlflow.db.new").write_bytes(b"SQLite format 3\0 and then the power went")
    uri = f"sqlite:///{folder}/mlflow.db"
    Tracker(uri, "first").start({"sweep": "first", "components": [], "cells": [], "failed": {}}, "name: first\n")
    return uri


def started(store, sweep, cells=()):
    tracker = Tracker(store, sweep)
    tracker.start(plan_record(sweep, [], list(cells)), f"name: {sweep}\n")
    return tracker


def runs_of(store, key):
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("mpcwdwm").experiment_id
    return client.search_runs([experiment], f"tags.`mpcwdwm.key` = '{key}'")


def test_a_cell_is_recorded_with_its_settings_numbers_and_episodes(store, tmp_path):
    tracker = started(store, "whole")
    unit = mpc("whole", seed=1)
    folder = publish_result(tmp_path, unit, [300.0, 500.0])
    assert tracker.log(unit, folder)
    (run,) = runs_of(store, unit.key)
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 36_000
    assert run.data.metrics["normalized_score"] == pytest.approx(40.0)
    assert run.data.metrics["imagined_return"] == 1.5
    assert run.data.metrics["dataset_score"] == pytest.approx(25.0)
    expected = {"kind": "policy", "horizon": "3", "step_size": "1e-05", "denoising_steps": "5", "role": "report"}
    assert expected.items() <= run.data.params.items()
    assert {f"planner.{name}" for name in PLANNER} <= set(run.data.params)
    assert run.data.tags["mlflow.parentRunId"] == runs_of(store, "sweep/whole")[0].info.run_id
    assert (Path(store.removeprefix("sqlite:///")).parent / "mlartifacts").is_dir()
    episodes = Records(store).episodes(Records(store).units([unit.key]))
    assert list(episodes[unit.key]["return"]) == [300.0, 500.0]


def test_a_component_is_recorded_and_metrics_that_are_no_numbers_are_left_out(store, tmp_path):
    tracker = started(store, "parts")
    unit = component("parts", "rebrac", 0)
    assert tracker.log(unit, publish_component(tmp_path, unit))
    (run,) = runs_of(store, unit.key)
    assert run.data.metrics == {"seconds": 36.0, "updates_per_second": 100.0, "loss": 0.25}
    assert run.data.params["config.steps"] == "10"
    names = {item.path for item in MlflowClient(store).list_artifacts(run.info.run_id)}
    assert names == {"curve.json", "manifest.json"}


def test_more_params_than_one_batch_holds_are_all_recorded(store, tmp_path):
    unit = mpc("wide", seed=0)
    unit.planner.update({f"setting_{i}": i for i in range(230)})
    started(store, "wide").log(unit, publish_result(tmp_path, unit, [1.0, 2.0]))
    (run,) = runs_of(store, unit.key)
    assert run.data.params["planner.setting_229"] == "229"


def test_logging_again_changes_nothing(store, tmp_path):
    unit = baseline("again", "rebrac", 0)
    folder = publish_result(tmp_path, unit, [1.0, 2.0])
    assert started(store, "again").log(unit, folder)
    (before,) = runs_of(store, unit.key)
    assert not started(store, "again").log(unit, folder)
    nobody = pytest.fail  # behind a URL it would be downloaded
    assert started(store, "again").sync([(unit, lambda: nobody("the folder is asked for"))]) == 0
    (after,) = runs_of(store, unit.key)
    assert after.to_dictionary() == before.to_dictionary()
    assert len(runs_of(store, "sweep/again")) == 1


@pytest.mark.parametrize("moment", ["copyfile", "log_batch", "set_terminated"])
def test_a_run_begun_by_a_killed_driver_is_continued_not_doubled(store, tmp_path, moment):
    sweep = f"killed-{moment}"
    unit = mpc(sweep, seed=0)
    folder = publish_result(tmp_path, unit, [100.0, 200.0])
    script = f"""
        import os, shutil, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(ROOT)!r})
        from mlflow import MlflowClient
        from tests.support.recorded_sweeps import mpc
        from sweeps.records.fields import plan_record
        from sweeps.records.tracker import Tracker
        unit = mpc({sweep!r}, seed=0)
        tracker = Tracker({store!r}, {sweep!r})
        tracker.start(plan_record({sweep!r}, [], [unit]), "")
        place = shutil if {moment!r} == "copyfile" else MlflowClient
        setattr(place, {moment!r}, lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))
        tracker.log(unit, Path({str(folder)!r}))
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    (half,) = runs_of(store, unit.key)
    assert half.info.status == "RUNNING"
    assert len(Records(store).units([unit.key])) == 0

    assert started(store, sweep).sync([(unit, folder)]) == 1
    (whole,) = runs_of(store, unit.key)
    assert whole.info.run_id == half.info.run_id
    assert whole.info.status == "FINISHED"
    assert whole.data.metrics["return"] == 150.0
    points = MlflowClient(store).get_metric_history(whole.info.run_id, "return")
    assert len(points) == 1
    assert len(runs_of(store, f"sweep/{sweep}")) == 1


def test_sync_records_what_is_missing_with_one_search(store, tmp_path, monkeypatch):
    units = [baseline("sync", "rebrac", seed) for seed in range(4)]
    folders = [publish_result(tmp_path, unit, [1.0, 2.0]) for unit in units]
    tracker = started(store, "sync")
    tracker.log(units[0], folders[0])
    searches = []
    search = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *a, **k: searches.append(a) or search(*a, **k))
    assert tracker.sync(zip(units, folders, strict=True)) == 3
    assert len(searches) == 1
    assert len(Records(store).units([unit.key for unit in units])) == 4


def test_after_a_sync_no_unit_is_searched_for_until_somebody_else_has_written(store, tmp_path, monkeypatch):
    units = [baseline("indexed", "rebrac", seed) for seed in range(3)]
    folders = [publish_result(tmp_path, unit, [1.0, 2.0]) for unit in units]
    tracker, other = started(store, "indexed"), started(store, "indexed")
    tracker.sync([])
    searches = []
    search = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *a, **k: searches.append(a) or search(*a, **k))
    assert tracker.log(units[0], folders[0])
    assert not tracker.log(units[0], folders[0])
    assert searches == []
    assert other.log(units[1], folders[1])
    assert not tracker.log(units[1], folders[1])  # what the other wrote is seen
    assert tracker.log(units[2], folders[2])
    assert [len(runs_of(store, unit.key)) for unit in units] == [1, 1, 1]


def test_a_commit_does_not_wait_for_the_disk_and_the_finished_file_is_whole(store, tmp_path):
    unit = baseline("ahead", "rebrac", 0)
    tracker = started(store, "ahead")
    tracker.sync([])
    with tracker._client._tracking_client.store.engine.connect() as connection:
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    assert found == ["wal", 1]  # NORMAL
    file = Path(store.removeprefix("sqlite:///"))
    log = file.with_name("mlflow.db-wal")
    assert tracker.log(unit, publish_result(tmp_path, unit, [1.0, 2.0]))
    assert log.stat().st_size > 0
    with contextlib.closing(sqlite3.connect(file)) as reader:  # another process that has the file open
        reader.execute("SELECT * FROM runs").fetchall()
        tracker.finish("FINISHED", {})
        assert log.stat().st_size == 0
    tracker.finish("FINISHED", {})
    assert not log.exists()
    runs_of(store, unit.key)  # reading begins no log
    assert (
        file.read_bytes()[18:20] == b"\1\1"
    )  # of a file without a log, which can be read where nothing can be written


def test_what_is_deleted_by_hand_during_a_sweep_is_noticed(store, tmp_path):
    unit = baseline("by-hand", "rebrac", 0)
    folder = publish_result(tmp_path, unit, [1.0, 2.0])
    tracker = started(store, "by-hand")
    tracker.sync([])
    assert tracker.log(unit, folder)
    MlflowClient(store).delete_run(runs_of(store, unit.key)[0].info.run_id)
    assert tracker.log(unit, folder)
    assert len(runs_of(store, unit.key)) == 1


def test_a_run_deleted_by_hand_is_made_again(store, tmp_path):
    unit = baseline("deleted", "iql", 0)
    folder = publish_result(tmp_path, unit, [1.0, 2.0])
    tracker = started(store, "deleted")
    tracker.log(unit, folder)
    MlflowClient(store).delete_run(runs_of(store, unit.key)[0].info.run_id)
    assert tracker.sync([(unit, folder)]) == 1
    assert len(runs_of(store, unit.key)) == 1


def test_of_two_runs_of_one_key_the_oldest_complete_one_counts_and_stays(store, tmp_path):
    unit = baseline("twins", "bc", 0)
    folder = publish_result(tmp_path, unit, [10.0, 20.0])
    tracker = started(store, "twins")
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("mpcwdwm").experiment_id
    tags = {"mpcwdwm.key": unit.key, "mpcwdwm.kind": "cell"}
    client.create_run(experiment, tags=tags, start_time=1)  # older, but never completed
    tracker.log(unit, folder)
    kept = runs_of(store, unit.key)[0]
    late = client.create_run(experiment, tags=tags, start_time=kept.info.start_time + 1)
    client.log_metric(late.info.run_id, "return", -1.0)
    client.set_terminated(late.info.run_id)
    assert Records(store).units([unit.key]).loc[unit.key, "return"] == 15.0
    assert tracker.sync([(unit, folder)]) == 0
    assert [run.info.run_id for run in runs_of(store, unit.key)] == [kept.info.run_id]


def test_a_half_written_run_with_other_params_is_replaced(store, tmp_path):
    unit = baseline("renamed", "rebrac", 0)
    folder = publish_result(tmp_path, unit, [1.0, 2.0])
    tracker = started(store, "renamed")
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("mpcwdwm").experiment_id
    old = client.create_run(experiment, tags={"mpcwdwm.key": unit.key, "mpcwdwm.kind": "cell"})
    client.log_param(old.info.run_id, "method", "what it was called before")
    assert tracker.log(unit, folder)
    (run,) = runs_of(store, unit.key)
    assert run.data.params["method"] == "rebrac"


def test_the_plan_and_its_failures_come_back(store):
    cells = [baseline("planned", "rebrac", 0), mpc("planned", 0)]
    tracker = started(store, "planned", cells)
    tracker.finish("FAILED", {cells[1].key: "it was too warm"})
    plan = Records(store).plan("planned")
    assert plan["cells"] == [unit.key for unit in cells]
    assert plan["failed"] == {cells[1].key: "it was too warm"}
    assert plan["labels"][cells[1].key]["method"] == cells[1].method
    assert runs_of(store, "sweep/planned")[0].info.status == "FAILED"
    assert "planned" in Records(store).sweeps()


def test_a_sweep_that_was_not_recorded_is_named_with_its_neighbour(store):
    started(store, "quickstart")
    with pytest.raises(UserError, match=r"'quickstrat' is not recorded.*did you mean 'quickstart'"):
        Records(store).plan("quickstrat")


def test_reading_does_not_create_a_store(tmp_path):
    with pytest.raises(UserError, match="nothing was recorded yet"):
        Records(f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "sqlite://", "sqlite:///:memory:", "databricks"])
def test_a_store_that_is_not_served_is_refused(uri):
    with pytest.raises(UserError, match="no MLflow store that can be used"):
        Tracker(uri, "x")


def test_a_server_that_does_not_answer_is_one_line_without_the_password():
    tracker = Tracker("http://me:secret@127.0.0.1:9", "x")
    with pytest.raises(UserError, match=r"no MLflow server answers at http://me:\*\*\*@127.0.0.1:9 ") as error:
        tracker.start({}, "")
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("use", [Records, lambda uri: Tracker(uri, "x").start({}, "")], ids=["read", "write"])
def test_a_file_that_is_no_database_is_one_line_at_once(use, tmp_path):
    (tmp_path / "mlflow.db").write_text("this is not a database, and long enough to tell")
    uri, began = f"sqlite:///{tmp_path}/mlflow.db", time.monotonic()
    with pytest.raises(UserError, match=r"mlflow\.db failed: .*not a database") as error:
        use(uri)
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 20  # MLflow alone tries for 101 s


def test_a_moved_store_can_be_read_and_says_how_to_write(store, tmp_path):
    unit = baseline("moved", "rebrac", 0)
    tracker = started(store, "moved", [unit])
    tracker.log(unit, publish_result(tmp_path, unit, [7.0, 9.0]))
    tracker.finish("FINISHED", {})  # moves the write-ahead log into the file
    source = Path(store.removeprefix("sqlite:///")).parent
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    (copy / "mlflow.db").write_bytes((source / "mlflow.db").read_bytes())
    run = runs_of(store, unit.key)[0].info.run_id
    (copy / "mlartifacts").mkdir()
    hidden = source / "mlartifacts" / run
    os.rename(hidden, copy / "mlartifacts" / run)
    try:
        moved = f"sqlite:///{copy}/mlflow.db"
        records = Records(moved)
        assert list(records.episodes(records.units([unit.key]))[unit.key]["return"]) == [7.0, 9.0]
        with pytest.raises(UserError, match="was moved from"):
            Tracker(moved, "moved").start({}, "")
    finally:
        os.rename(copy / "mlartifacts" / run, hidden)


@pytest.fixture
def server(tmp_path):
    """A real MLflow server that keeps the artifacts itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/s.db", "--artifacts-destination", str(tmp_path / "art")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.5)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


@pytest.mark.slow
def test_a_server_serves_as_a_store(server, tmp_path, monkeypatch):
    tracker = started(server, "remote", [mpc("remote", 0)])
    unit = mpc("remote", 0)
    folder = publish_result(tmp_path, unit, [100.0, 300.0])
    assert tracker.log(unit, folder)
    assert tracker.sync([(unit, folder)]) == 0
    records = Records(server)
    assert records.plan("remote")["cells"] == [unit.key]
    assert list(records.episodes(records.units([unit.key]))[unit.key]["return"]) == [100.0, 300.0]
    tracker.finish("FINISHED", {})
    assert Tracker(server, "remote").amend({unit.key: {"gain": 1.0}}, {"table.csv": "1"}) == 1
    assert Tracker(server, "remote").shows("table.csv", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    loaded = analysis.load("remote", tracking_uri=server)
    assert loaded.episodes["return"].tolist() == [100.0, 300.0]
    assert (loaded.cells["status"].tolist(), loaded.notes) == (["ok"], ())


def test_the_plan_record_is_plain_json():
    units = [mpc("json", 0)]
    assert json.loads(json.dumps(plan_record("json", [], units))) == plan_record("json", [], units)


def test_two_drivers_that_log_one_unit_at_once_leave_exactly_one_run(store, tmp_path):
    unit = mpc("at-once", seed=0)
    folder = publish_result(tmp_path, unit, [1.0, 2.0])
    first, second = started(store, "at-once", [unit]), started(store, "at-once", [unit])
    searched, search = threading.Event(), first._store.search

    def search_slowly(condition):
        found = search(condition)
        searched.set()
        time.sleep(1.0)  # in which the other would find nothing either, and make a run of its own
        return found

    first._store.search = search_slowly
    logging = threading.Thread(target=first.log, args=(unit, folder))
    logging.start()
    searched.wait(10)
    second.log(unit, folder)
    logging.join(10)
    assert [run.info.status for run in runs_of(store, unit.key)] == ["FINISHED"]
