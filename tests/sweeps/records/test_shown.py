"""What one sees of a sweep in MLflow: names, curves, inputs, and which runs make it up."""

import json

import pytest
from mlflow import MlflowClient

from analysis.mlflow_store import MlflowStore, member_tag
from sweeps.records.fields import parent_tags, plan_record, record_of, run_name
from sweeps.records.tracker import Tracker
from tests.support.recorded_sweeps import TASK, baseline, component, mpc, publish_component, publish_result

CURVE = [
    {"step": 100.0, "loss": 0.9, "heldout/rmse": 2.0, "eval/normalized_score": float("nan")},
    {"step": 300.0, "loss": 0.5, "heldout/rmse": 1.0, "eval/normalized_score": 20.0},
    {"step": 400.0, "loss": 0.25, "heldout/rmse": 0.5, "eval/normalized_score": 40.0},
]
LAST = {"loss": 0.25, "heldout/rmse": 0.5, "eval/normalized_score": 40.0}


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('shown')}/mlflow.db"


def begun(uri, sweep, cells, components=()):
    units = (sweep, list(components), list(cells))
    tracker = Tracker(uri, sweep)
    tracker.start(plan_record(*units), f"name: {sweep}\n", parent_tags(*units), [TASK])
    return tracker


def found(uri, query):
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("mpcwdwm")
    return client.search_runs([experiment.experiment_id], query)


def present(uri, sweep):
    """Keys of the cells that the documented query returns."""
    return sorted(run.data.tags["mpcwdwm.key"] for run in found(uri, f"tags.`sweep.{sweep}` = 'cell'"))


def published(folder, unit):
    return unit, publish_result(folder, unit, [1.0, 2.0])


def test_a_learning_curve_is_metrics_at_its_steps_and_the_final_value_counts(uri, tmp_path):
    unit = component("curves", "world_model", 0)
    folder = publish_component(tmp_path, unit, CURVE)
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**content, "metrics": LAST}))
    begun(uri, "curves", [], [unit]).log(unit, folder)
    (run,) = found(uri, f"tags.`mpcwdwm.key` = '{unit.key}'")
    client = MlflowClient(uri)
    points = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(100, 0.9), (300, 0.5), (400, 0.25)]
    offsets = [point.timestamp - run.info.start_time for point in points]
    assert offsets == [9_000, 27_000, 36_000]  # of 36 s, in proportion to the steps
    scores = client.get_metric_history(run.info.run_id, "eval/normalized_score")
    assert [point.step for point in scores] == [300, 400]
    assert LAST.items() <= run.data.metrics.items()


def test_names_say_method_task_and_seed(tmp_path):
    assert run_name(mpc("names", 2)) == "mpc H=3 M=8 E=1 α=1e-05 · hopper-mini-v0 · s2"
    assert run_name(mpc("names", 0, variant="K=5")) == "mpc H=3 M=8 E=1 α=1e-05 (K=5) · hopper-mini-v0 · s0"
    assert run_name(baseline("names", "iql", 1, role="select")) == "iql · hopper-mini-v0 · s1 · select"
    world = component("names", "world_model", 0)
    world.config["kind"] = "diffusion"
    assert run_name(world) == "world_model diffusion · hopper-mini-v0 · s0"


def test_params_group_runs(uri, tmp_path):
    units = [mpc("groups", seed, horizon=horizon) for seed in (0, 1) for horizon in (1, 3)]
    tracker = begun(uri, "groups", units)
    for unit in units:
        tracker.log(*published(tmp_path, unit))
    query = "params.H = '3' and params.M = '8' and params.E = '1' and params.task = 'hopper-mini-v0'"
    assert sorted(run.data.params["seed"] for run in found(uri, query)) == ["0", "1"]
    assert "H" not in record_of(*published(tmp_path, baseline("groups", "bc", 0)), "groups").params


def test_datasets_are_inputs_of_the_sweep_and_its_components_once(uri, tmp_path):
    unit = component("inputs", "rebrac", 0)
    folder = publish_component(tmp_path, unit)
    begun(uri, "inputs", [], [unit])
    begun(uri, "inputs", [], [unit]).log(unit, folder)
    for key in ("sweep/inputs", unit.key):
        (run,) = found(uri, f"tags.`mpcwdwm.key` = '{key}'")
        (dataset,) = (given.dataset for given in run.inputs.dataset_inputs)
        assert (dataset.name, dataset.digest) == ("hopper-mini-v0", TASK.dataset_sha256[:36])
        assert json.loads(dataset.source)["sha256"] == TASK.dataset_sha256


def test_the_query_returns_the_present_cells_of_a_sweep_and_no_others(uri, tmp_path):
    base, kept, dropped = baseline("shared", "rebrac", 0), mpc("shared", 0), mpc("shared", 0, horizon=1)
    part = component("shared", "rebrac", 0)
    units = [published(tmp_path, unit) for unit in (base, kept, dropped)]
    first = begun(uri, "first", [base, kept, dropped], [part])
    for unit, folder in units:
        first.log(unit, folder)
    first.log(part, publish_component(tmp_path, part))
    second = begun(uri, "second", [base, kept])
    assert second.sync(units[:2]) == 0  # recorded by the first
    assert present(uri, "first") == sorted(unit.key for unit in (base, kept, dropped))
    assert present(uri, "second") == sorted(unit.key for unit in (base, kept))

    begun(uri, "first", [base, kept], [part]).sync(units[:2])  # the YAML lost a cell
    assert present(uri, "first") == sorted(unit.key for unit in (base, kept))
    assert len(found(uri, f"tags.`mpcwdwm.key` = '{dropped.key}'")) == 1  # its record stays
    begun(uri, "first", [base, kept, dropped], [part]).sync(units)
    assert present(uri, "first") == sorted(unit.key for unit in (base, kept, dropped))


def test_a_store_of_an_earlier_version_is_marked_by_the_next_run(tmp_path):
    uri, unit = f"sqlite:///{tmp_path}/mlflow.db", baseline("older", "rebrac", 0)
    tracker = begun(uri, "older", [unit])
    tracker.log(*published(tmp_path, unit))
    tracker.finish("FINISHED", {})
    store = MlflowStore(uri)
    store.connect()
    (run,) = store.runs_of(unit.key)
    store.client.delete_tag(run.info.run_id, member_tag("older"))
    store.client.delete_experiment_tag(store.experiment_id, "mlflow.experimentKind")
    assert present(uri, "older") == []
    again = begun(uri, "older", [unit])
    assert again.sync([(unit, tmp_path / "results" / unit.key)]) == 0
    assert present(uri, "older") == [unit.key]
    assert store.connect().tags["mlflow.experimentKind"] == "custom_model_development"


def test_the_parent_says_what_the_sweep_is_and_changes_with_it(uri):
    begun(uri, "parent", [baseline("parent", "rebrac", seed) for seed in (0, 1)])
    begun(uri, "parent", [baseline("parent", "rebrac", seed) for seed in (0, 1, 4)])
    (run,) = found(uri, "tags.`mpcwdwm.key` = 'sweep/parent'")
    shown = {"tasks": "hopper-mini-v0", "methods": "rebrac", "seeds": "0, 1, 4", "cells": "3", "components": "0"}
    assert shown.items() <= run.data.tags.items()
