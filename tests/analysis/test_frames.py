"""Sweeps as data frames: against records written by hand, from MLflow and from the cache."""

import json
import math
import shutil

import pandas as pd
import pytest
from mlflow import MlflowClient

import analysis
from mpcwdwm.data.fingerprint import cache_folder
from mpcwdwm.errors import UserError
from sweeps.records.fields import plan_record
from sweeps.records.tracker import Tracker
from tests.support import ROOT
from tests.support.recorded_sweeps import baseline, component, mpc, publish_component, publish_result, record

BASES = [baseline("tidy", "rebrac", seed) for seed in (0, 1)]
PLANNED = [mpc("tidy", seed, horizon=horizon) for horizon in (1, 3) for seed in (0, 1)]
PARTS = [component("tidy", name, 0) for name in ("rebrac", "world_model")]
CURVE = [{"step": 5.0, "loss": 2.0}, {"step": 10.0, "loss": 0.25, "heldout/rmse": 0.5}]
RETURNS = {  # of 0 to 1000, so scores are a tenth
    BASES[0].key: [100.0, 200.0],
    BASES[1].key: [300.0, 100.0],
    PLANNED[0].key: [150.0, 210.0],
    PLANNED[1].key: [200.0, 100.0],
    PLANNED[2].key: [400.0, 300.0],
}  # the last cell failed


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def uri(tmp_path_factory, new_records):
    """One complete sweep but for a failed cell, and a run of another program."""
    folder = tmp_path_factory.mktemp("tidy")
    uri = new_records(folder)
    failed = {PLANNED[3].key: "it was too warm"}
    curves = {PARTS[1].key: CURVE}
    record(uri, "tidy", [*BASES, *PLANNED], RETURNS, folder, components=PARTS, failed=failed, curves=curves)
    client = MlflowClient(uri)
    client.create_run(client.get_experiment_by_name("mpcwdwm").experiment_id, run_name="not ours")
    return uri


def test_cells_have_their_settings_scores_and_paired_gains(uri):
    cells = analysis.load("tidy", tracking_uri=uri).cells.set_index("key")
    assert list(cells.index) == [unit.key for unit in (*BASES, *PLANNED)]
    assert cells.loc[PLANNED[2].key, ["H", "M", "E", "step_size"]].tolist() == [3, 8, 1, 1e-5]
    assert cells["score"].tolist()[:5] == pytest.approx([15.0, 20.0, 18.0, 15.0, 35.0])
    assert cells["gain"].tolist()[2:5] == pytest.approx([3.0, -5.0, 20.0])
    assert cells["gain"].isna().tolist() == [True, True, False, False, False, True]
    assert cells.loc[BASES[0].key, "H"] != cells.loc[BASES[0].key, "H"]
    assert set(cells["git_sha"].dropna()) == {"c0ffee"}
    assert cells["hours"].tolist()[0] == pytest.approx(0.01)


def test_what_is_not_complete_stays_visible_and_what_is_foreign_is_left_out(uri):
    run = analysis.load("tidy", tracking_uri=uri)
    last = run.cells.iloc[-1]
    assert (last["status"], last["reason"], last["seed"]) == ("failed", "failed: it was too warm", 1)
    assert math.isnan(last["score"])
    assert run.notes == (f"{uri}: left out: 1 run of other programs",)
    assert str(run).startswith("tidy: 6 cells (5 ok, 1 failed), 10 episodes, 2 components\nnote: ")


def test_episodes_are_long_and_carry_the_settings_of_their_cell(uri):
    episodes = analysis.load("tidy", tracking_uri=uri).episodes
    assert len(episodes) == 10
    own = episodes[(episodes["H"] == 1) & (episodes["seed"] == 1)]
    assert own["return"].tolist() == [200.0, 100.0]
    assert own["score"].tolist() == pytest.approx([20.0, 10.0])
    assert own["gain"].tolist() == pytest.approx([-10.0, 0.0])
    assert {"task", "method", "episode", "env_seed", "ms_per_step"} <= set(episodes)
    assert set(episodes["evaluations_per_step"]) == {7.0}


def test_curves_and_components(uri):
    run = analysis.load("tidy", tracking_uri=uri)
    rows = run.curves[["component", "seed", "step", "metric", "value"]].values.tolist()
    assert rows == [
        ["world_model", 0, 5, "loss", 2.0],
        ["world_model", 0, 10, "loss", 0.25],
        ["world_model", 0, 10, "heldout/rmse", 0.5],
    ]
    assert run.components["component"].tolist() == ["rebrac", "world_model"]
    assert run.components["config.hidden_dim"].tolist() == ["8", "8"]
    assert run.components["updates_per_second"].tolist() == [100.0, 100.0]


def test_where_chooses_cells_and_their_episodes(uri):
    run = analysis.load("tidy", where="H == 3 and status == 'ok'", tracking_uri=uri)
    assert run.cells["key"].tolist() == [PLANNED[2].key]
    assert run.cells["gain"].tolist() == pytest.approx([20.0])  # paired with a cell that is not shown
    assert run.episodes["key"].unique().tolist() == [PLANNED[2].key]
    none = analysis.load("tidy", where="H == 77", tracking_uri=uri)
    assert (len(none.cells), len(none.episodes)) == (0, 0)
    assert "no cell is left by where='H == 77'" in none.notes[-1]
    with pytest.raises(UserError, match=r"where: 'horizon == 3' is no condition .*columns are sweep, key"):
        analysis.load("tidy", where="horizon == 3", tracking_uri=uri)


@pytest.mark.parametrize(
    "where", ["method", "seed", "seed + 1", "1", "", "seed = 3", "@os.getcwd() == ''", "seed in (0"]
)
def test_a_where_that_is_no_condition_is_answered_in_one_line(uri, where):
    with pytest.raises(UserError, match=r"^where: .* is no condition \(.*\); columns are sweep, key") as caught:
        analysis.load("tidy", where=where, tracking_uri=uri)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("plan", ["5", "null", "[1]", "{}", "{", '{"cells": []}'])
def test_a_damaged_cache_is_read_again_from_the_store(tmp_path, new_records, plan):
    uri, unit = new_records(tmp_path), baseline("damaged", "rebrac", 0)
    record(uri, "damaged", [unit], {unit.key: [100.0, 200.0]}, tmp_path)
    before = analysis.load("damaged", tracking_uri=uri)
    (kept,) = (cache_folder() / "analysis").glob("*/damaged/plan.json")
    kept.write_text(plan)
    assert analysis.load("damaged", tracking_uri=uri).cells.equals(before.cells)
    kept.write_text(plan)
    (tmp_path / "mlflow.db").unlink()
    with pytest.raises(UserError, match="nothing was recorded yet"):
        analysis.load("damaged", tracking_uri=uri)


def test_what_was_read_is_not_searched_for_again_and_new_cells_are_added(tmp_path, monkeypatch, new_records):
    uri, units = new_records(tmp_path), [baseline("grow", "rebrac", seed) for seed in (0, 1)]
    record(uri, "grow", units, {units[0].key: [100.0, 200.0]}, tmp_path)
    first = analysis.load("grow", tracking_uri=uri)
    assert first.cells["status"].tolist() == ["ok", "missing"]
    tracker = Tracker(uri, "grow")
    tracker.start(plan_record("grow", [], units), "")
    tracker.log(units[1], publish_result(tmp_path, units[1], [300.0, 500.0]))
    tracker.finish("FINISHED", {})
    (read,) = first.cells["run_id"].dropna()
    shutil.rmtree(tmp_path / "mlartifacts" / read)  # what the cache has is not read from there
    second = analysis.load("grow", tracking_uri=uri)
    assert second.cells["score"].tolist() == pytest.approx([15.0, 40.0])
    searches, search = [], MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *a, **k: searches.append(a) or search(*a, **k))
    third = analysis.load("grow", tracking_uri=uri)
    assert len(searches) == 1  # for the plan
    assert third.cells.equals(second.cells)
    assert third.episodes.equals(second.episodes)


def test_without_a_connection_the_cache_serves_and_says_so(tmp_path, new_records):
    part = component("offline", "rebrac", 0)
    place = new_records(tmp_path)
    tracker = Tracker(place, "offline")
    unit = baseline("offline", "rebrac", 0)
    tracker.start(plan_record("offline", [part], [unit]), "")
    tracker.log(part, publish_component(tmp_path, part, CURVE))
    tracker.log(unit, publish_result(tmp_path, unit, [1.0, 2.0]))
    tracker.finish("FINISHED", {})
    before = analysis.load("offline", tracking_uri=place)
    (tmp_path / "mlflow.db").unlink()
    after = analysis.load("offline", tracking_uri=place)
    assert after.cells.equals(before.cells)
    assert after.curves.equals(before.curves)
    assert "shown is what was loaded before" in after.notes[0]
    with pytest.raises(UserError, match="nothing was recorded yet"):
        analysis.load("never", tracking_uri=place)


def test_all_sweeps_of_a_store_come_with_a_shared_cell_once(tmp_path, new_records):
    uri, shared, other = new_records(tmp_path), baseline("a", "rebrac", 0), mpc("b", 0)
    record(uri, "a", [shared], {shared.key: [1.0, 2.0]}, tmp_path)
    tracker = Tracker(uri, "b")
    tracker.start(plan_record("b", [], [shared, other]), "")
    tracker.finish("KILLED", {})
    run = analysis.load(tracking_uri=uri)
    assert run.sweeps == ("a", "b")
    assert list(zip(run.cells["sweep"], run.cells["key"], run.cells["status"], strict=True)) == [
        ("a", shared.key, "ok"),
        ("b", other.key, "missing"),
    ]
    assert len(run.episodes) == 2


def test_plans_without_labels_are_read_too(tmp_path, new_records):
    place, unit = new_records(tmp_path), mpc("old", 0)
    record(place, "old", [unit], {unit.key: [1.0, 2.0]}, tmp_path)
    client = MlflowClient(place)
    experiment = client.get_experiment_by_name("mpcwdwm").experiment_id
    (parent,) = client.search_runs([experiment], "tags.`mpcwdwm.kind` = 'sweep'")
    client.log_text(parent.info.run_id, json.dumps({"cells": [unit.key], "components": []}), "plan.json")
    cells = analysis.load("old", tracking_uri=place).cells
    assert cells.loc[0, ["task", "H", "seed"]].tolist() == ["hopper-mini-v0", 3, 0]


def test_steps_of_traced_cells_are_read_when_asked_for_and_then_kept(tmp_path):
    place, units = f"sqlite:///{tmp_path}/mlflow.db", [mpc("traced", seed, traced_episodes=1) for seed in (0, 1)]
    tracker = Tracker(place, "traced")
    tracker.start(plan_record("traced", [], units), "")
    for unit in units:
        published = publish_result(tmp_path, unit, [1.0, 2.0])
        own = {"episode": [0, 0], "step": [0, 1], "action_change": [0.0, unit.seed + 0.5]}
        pd.DataFrame(own).to_parquet(published / "steps.parquet")
        tracker.log(unit, published)
    tracker.finish("FINISHED", {})
    steps = analysis.load("traced", tracking_uri=place).steps
    assert steps[["seed", "step", "action_change"]].values.tolist() == [[0, 0, 0], [0, 1, 0.5], [1, 0, 0], [1, 1, 1.5]]
    shutil.rmtree(tmp_path / "mlartifacts")
    assert analysis.load("traced", tracking_uri=place).steps.equals(steps)
    some = analysis.load("traced", where="seed == 1", tracking_uri=place).steps
    assert some["action_change"].tolist() == [0, 1.5]
    with pytest.raises(UserError, match=r"no complete cell has any; give `evaluation: \{traced_episodes: 1\}` in"):
        _ = analysis.load("traced", where="seed == 7", tracking_uri=place).steps
    shutil.rmtree(cache_folder() / "analysis" / "steps")
    run = analysis.load("traced", tracking_uri=place)
    client = MlflowClient(place)
    for run_id in run.cells["run_id"]:
        client.delete_run(run_id)
    with pytest.raises(UserError, match=r"^steps: the records of .* are no longer in MLflow: run the sweep again$"):
        _ = run.steps


def test_the_ten_lines_of_the_page_draw_a_plot(uri, tmp_path, monkeypatch):
    code = (ROOT / "docs" / "analysis.md").read_text().split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MPLBACKEND", "agg")
    exec(code.replace("quickstart", "tidy"), {})
    assert "gain over rebrac" in (tmp_path / "ablation.svg").read_text()
