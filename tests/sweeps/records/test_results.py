"""What came out of a sweep stands in MLflow: metrics and files of the parent run, gains of its cells."""

import time

import pytest
from mlflow import MlflowClient

from sweeps.records import tracker as module
from sweeps.records.fields import plan_record
from sweeps.records.tracker import Tracker
from tests.support.recorded_sweeps import baseline, mpc, record

UNITS = [baseline("results", "rebrac", 0), mpc("results", 0)]
PARENT, CELL = "sweep/results", UNITS[1].key
NUMBERS = {PARENT: {"gain/hopper/mpc H3 α1e-05": 1.0}, CELL: {"gain": 1.0, "gain_low": 0.5, "gain_high": 1.5}}


@pytest.fixture
def uri(tmp_path, new_records):
    uri = new_records(tmp_path)
    record(uri, "results", UNITS, {unit.key: [1.0, 2.0] for unit in UNITS}, tmp_path)
    return uri


def runs(uri):
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("mpcwdwm").experiment_id
    return {run.data.tags["mpcwdwm.key"]: run for run in client.search_runs([experiment])}


def test_numbers_are_metrics_and_only_what_changed_is_written_again(uri):
    assert Tracker(uri, "results").amend(NUMBERS, {}) == 2
    first = runs(uri)
    assert first[PARENT].data.metrics == NUMBERS[PARENT]
    assert NUMBERS[CELL].items() <= first[CELL].data.metrics.items()
    assert {first[key].info.status for key in NUMBERS} == {"FINISHED"}
    assert Tracker(uri, "results").amend(NUMBERS, {}) == 0
    changed = {**NUMBERS, CELL: {**NUMBERS[CELL], "gain": 2.0}}
    assert Tracker(uri, "results").amend(changed, {}) == 1
    assert runs(uri)[CELL].data.metrics["gain"] == 2.0
    history = MlflowClient(uri).get_metric_history
    assert [len(history(first[CELL].info.run_id, name)) for name in ("gain", "gain_low")] == [2, 1]


def test_files_are_artifacts_of_the_parent_and_are_replaced(uri):
    assert not Tracker(uri, "results").shows("table.csv", "1")
    for text in ("1", "2"):
        Tracker(uri, "results").amend({}, {"ablation.png": b"\x89PNG", "table.csv": text})
    assert Tracker(uri, "results").shows("table.csv", "2")
    assert not Tracker(uri, "results").shows("table.csv", "1")
    client, parent = MlflowClient(uri), runs(uri)[PARENT].info.run_id
    assert {file.path for file in client.list_artifacts(parent, "report")} == {
        "report/ablation.png",
        "report/table.csv",
    }


def test_the_file_is_left_whole_and_without_a_log(uri, tmp_path):
    Tracker(uri, "results").amend(NUMBERS, {"table.csv": "1"})
    assert not (tmp_path / "mlflow.db-wal").exists()
    assert (tmp_path / "mlflow.db").read_bytes()[18:20] == b"\1\1"


def test_a_table_of_many_rows_takes_several_requests(uri, monkeypatch):
    monkeypatch.setattr(module, "METRICS_PER_BATCH", 3)
    many = {f"score/hopper/{number}": float(number) for number in range(10)}
    Tracker(uri, "results").amend({PARENT: many}, {})
    assert runs(uri)[PARENT].data.metrics == many


def test_system_metrics_are_measured_on_request_until_the_sweep_ends(tmp_path, new_records):
    uri = new_records(tmp_path)
    for run in range(2):
        tracker = Tracker(uri, "measured", system_metrics=0.1)
        tracker.start(plan_record("measured", [], []), "")
        deadline = time.monotonic() + 20
        while len(history(uri)) <= run and time.monotonic() < deadline:
            time.sleep(0.1)
        tracker.finish("FINISHED", {})
        steps = [point.step for point in history(uri)]
        assert len(steps) > run
        assert steps == list(range(len(steps)))  # a run that is continued goes on where it ended
        assert runs(uri)["sweep/measured"].info.status == "FINISHED"
    time.sleep(0.3)
    assert len(history(uri)) == len(steps)


def history(uri):
    run = runs(uri)["sweep/measured"]
    return MlflowClient(uri).get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")
