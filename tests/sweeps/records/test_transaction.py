"""Units that wait are recorded in one transaction: all of them, or none."""

import shutil
import threading
import time

import pytest
from mlflow import MlflowClient

from cluster.store import Store
from sweeps.records.fields import plan_record
from sweeps.records.recorder import Recorder
from sweeps.records.tracker import TOGETHER, Tracker
from sweeps.records.transaction import one_transaction
from tests.support.recorded_sweeps import baseline, component, mpc, publish_component, publish_result


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    uri = f"sqlite:///{tmp_path_factory.mktemp('together')}/mlflow.db"
    Tracker(uri, "first").start({"sweep": "first", "components": [], "cells": [], "failed": {}}, "name: first\n")
    return uri


def started(store, sweep, cells=()):
    tracker = Tracker(store, sweep)
    tracker.start(plan_record(sweep, [], list(cells), {}), f"name: {sweep}\n")
    return tracker


def runs_of(store, key):
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("mpcwdwm").experiment_id
    return client.search_runs([experiment], f"tags.`mpcwdwm.key` = '{key}'")


def test_what_is_recorded_together_is_committed_once_and_is_what_is_recorded_alone(store, tmp_path):
    import sqlalchemy

    def units_of(name):
        return [mpc(name, 0), baseline(name, "rebrac", 1), component(name, "bc", 0)]

    def published(units, folder):
        cells = [(unit, publish_result(folder, unit, [10.0, 30.0])) for unit in units[:2]]
        return [*cells, (units[2], publish_component(folder, units[2]))]

    tracker = started(store, "together")
    tracker.sync([])
    alone, together = units_of("alone"), units_of("grouped")
    for unit, folder in published(alone, tmp_path / "alone"):
        assert tracker.log(unit, folder)
    commits = []
    note = commits.append
    engine = tracker._client._tracking_client.store.engine
    sqlalchemy.event.listen(engine, "commit", note)
    try:
        pairs = published(together, tmp_path / "together")
        assert tracker.log_all([*pairs, pairs[0]]) == 3
    finally:
        sqlalchemy.event.remove(engine, "commit", note)
    assert len(commits) == 1
    assert tracker.log_all(pairs) == 0
    for one, other in zip(alone, together, strict=True):
        (first,), (second,) = runs_of(store, one.key), runs_of(store, other.key)
        assert _content(first) == _content(second)
        client = MlflowClient(store)
        paths = [{file.path for file in client.list_artifacts(run.info.run_id)} for run in (first, second)]
        assert paths[0] == paths[1]
        assert "manifest.json" in paths[0]


def _content(run):
    """All of a run but what names it."""
    info = (run.info.status, run.info.start_time, run.info.end_time, run.info.lifecycle_stage)
    named = ("mpcwdwm.key", "mlflow.runName")
    tags = {name: value for name, value in run.data.tags.items() if name not in named}
    params = {name: value for name, value in run.data.params.items() if not name.startswith(("part.", "base_key"))}
    points = [(metric.key, metric.value, metric.timestamp, metric.step) for metric in run.data._metric_objs]
    return info, tags, params, sorted(points)


@pytest.mark.parametrize("moment", ["create_run", "set_terminated", "copyfile"])
def test_what_was_to_be_recorded_together_is_not_there_at_all_after_an_error(store, tmp_path, monkeypatch, moment):
    units = [mpc(f"undone-{moment}", seed) for seed in range(3)]
    pairs = [(unit, publish_result(tmp_path, unit, [1.0, 2.0])) for unit in units]
    tracker = started(store, f"undone-{moment}")
    tracker.sync([])
    place = shutil if moment == "copyfile" else MlflowClient
    calls, real = [], getattr(place, moment)

    def fail_at_the_second(*arguments, **named):
        calls.append(arguments)
        if len(calls) == 2:
            raise ZeroDivisionError("no such luck")
        return real(*arguments, **named)

    monkeypatch.setattr(place, moment, fail_at_the_second)
    with pytest.raises(ZeroDivisionError):
        tracker.log_all(pairs)
    monkeypatch.undo()
    assert [runs_of(store, unit.key) for unit in units] == [[], [], []]
    assert tracker.sync(pairs) == 3
    assert [run.info.status for unit in units for run in runs_of(store, unit.key)] == ["FINISHED"] * 3


def test_what_others_ask_during_a_transaction_is_not_part_of_it(store):
    client, seen = MlflowClient(store), []

    def look():
        seen.append(len(runs_of(store, "unfinished business")))

    experiment = client.get_experiment_by_name("mpcwdwm").experiment_id
    with one_transaction(client):
        client.create_run(experiment, tags={"mpcwdwm.key": "unfinished business", "mpcwdwm.kind": "cell"})
        other = threading.Thread(target=look)
        other.start()
        other.join(30)
    look()
    assert seen == [0, 1]


def test_the_recorder_hands_over_together_what_waits(store, tmp_path):
    units = [baseline("waiting", "bc", seed) for seed in range(2 * TOGETHER)]
    artifacts = Store(tmp_path / "runs")
    for unit in units:
        artifacts.publish("results", unit.key, lambda folder: (folder / "manifest.json").write_text("{}") and None)
    groups, first = [], threading.Event()

    class Slow:
        def log_all(self, pairs):
            groups.append([unit.key for unit, _ in pairs])
            first.wait(30)

    recorder = Recorder(Slow(), artifacts)
    recorder.add(units[0])
    while not groups:
        time.sleep(0.01)
    for unit in units[1:]:
        recorder.add(unit)
    first.set()
    assert recorder.drain() is None
    assert [len(group) for group in groups] == [1, TOGETHER, TOGETHER - 1]
    assert [key for group in groups for key in group] == [unit.key for unit in units]
