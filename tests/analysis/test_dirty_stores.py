"""A store with missing, failed, begun, repeated, foreign, deleted and unreadable runs: table and frames count each
complete unit once, and say what they left out."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from mlflow import MlflowClient

import analysis
from analysis.runs import Records
from analysis.table.comparison import build_table
from tests.support.recorded_sweeps import baseline, component, mpc, record

SWEEP, SEEDS = "dirty", range(7)
BASES = [baseline(SWEEP, "rebrac", seed) for seed in SEEDS]
PLANNED = [mpc(SWEEP, seed) for seed in SEEDS]
COMPLETE, MISSING, FAILED, BEGUN, REPEATED, DELETED, UNREADABLE = (unit.key for unit in PLANNED)
PART = component(SWEEP, "world_model", 0)
RETURNS = {unit.key: [100.0, 200.0] for unit in BASES} | {
    COMPLETE: [110.0, 210.0],  # gains 1 point of score
    REPEATED: [130.0, 230.0],  # 3 points
    DELETED: [500.0, 500.0],
    UNREADABLE: [600.0, 600.0],
}
LEFT_OUT = (
    "left out: 2 runs of other programs, 1 run of units that have an older one, 1 run begun and not "
    "finished, 1 run deleted in MLflow (`sweep run` records them again)"
)


@pytest.fixture(scope="module")
def uri(tmp_path_factory, new_records):
    folder = tmp_path_factory.mktemp("dirty")
    uri = new_records(folder)
    record(uri, SWEEP, [*BASES, *PLANNED], RETURNS, folder, components=[PART], failed={FAILED: "it was too warm"})
    record(uri, "another", [one := baseline("another", "rebrac", 0)], {one.key: [900.0, 900.0]}, folder)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("mpcwdwm").experiment_id
    runs = {run.data.tags["mpcwdwm.key"]: run for run in client.search_runs([experiment])}
    for _ in range(2):
        client.create_run(experiment, run_name="not ours")
    client.create_run(experiment, tags={"mpcwdwm.key": BEGUN, "mpcwdwm.kind": "cell"})
    twice = client.create_run(experiment, tags={"mpcwdwm.key": BEGUN, "mpcwdwm.kind": "cell"})
    client.delete_run(twice.info.run_id)  # nothing is lost with it: the other one counts
    begin = runs[REPEATED].info.start_time
    again = client.create_run(experiment, start_time=begin + 1, tags=runs[REPEATED].data.tags)
    client.log_metric(again.info.run_id, "normalized_score", 99.0)
    client.set_terminated(again.info.run_id)
    client.delete_run(runs[DELETED].info.run_id)
    episodes = Path(urlsplit(runs[UNREADABLE].info.artifact_uri).path) / "episodes.parquet"
    episodes.write_bytes(episodes.read_bytes()[:100])
    return uri


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_frames_have_each_complete_unit_once_and_say_why_others_lack(uri):
    run = analysis.load(SWEEP, tracking_uri=uri)
    planned = run.cells[run.cells["kind"] == "policy"].set_index("key")
    expected = {COMPLETE: "ok", MISSING: "missing", FAILED: "failed", BEGUN: "missing"}
    expected |= {REPEATED: "ok", DELETED: "missing", UNREADABLE: "failed"}
    assert planned["status"].to_dict() == expected
    assert planned["gain"].dropna().to_dict() == pytest.approx({COMPLETE: 1.0, REPEATED: 3.0})
    assert planned.loc[FAILED, "reason"] == "failed: it was too warm"
    assert (
        "episodes.parquet cannot be read; delete MLflow's run and run the sweep again"
        in planned.loc[UNREADABLE, "reason"]
    )
    assert set(run.episodes["key"]) == {*(unit.key for unit in BASES), COMPLETE, REPEATED}
    assert not run.episodes.duplicated(["key", "episode"]).any()
    assert run.components["status"].tolist() == ["ok"]
    assert run.notes == (f"{uri}: {LEFT_OUT}",)
    assert analysis.load(SWEEP, tracking_uri=uri).notes == run.notes  # from the cache, too


def test_the_table_shows_them_as_partial_and_names_each_seed(uri):
    table = build_table(uri, SWEEP)
    (row,) = (row for row in table.rows if row.kind == "policy")
    assert (row.status, row.n_seeds) == ("partial", 2)
    assert row.score_mean == pytest.approx(17.0)  # of 16 and 18
    assert row.gain_mean == pytest.approx(2.0)
    assert f"{uri}: {LEFT_OUT}" in table.notes
    (broken,) = (note for note in table.notes if "cannot be read" in note)
    assert "seed 6: failed: " in broken
    assert any("seed 2: failed: it was too warm" in note for note in table.notes)
    assert any("seeds 1, 3, 5: no result yet" in note for note in table.notes)


def test_a_store_without_such_runs_says_nothing(tmp_path, new_records):
    uri = new_records(tmp_path)
    record(uri, SWEEP, [BASES[0]], RETURNS, tmp_path, components=[PART])
    assert analysis.load(SWEEP, tracking_uri=uri).notes == ()
    assert Records(uri).left_out([BASES[0].key]) == ""


def test_a_broken_learning_curve_is_left_out_and_said_until_it_is_mended(tmp_path, new_records):
    uri = new_records(tmp_path)
    record(
        uri, SWEEP, [BASES[0]], RETURNS, tmp_path, components=[PART], curves={PART.key: [{"step": 1.0, "loss": 1.0}]}
    )
    (file,) = (tmp_path / "mlartifacts").glob("*/artifacts/curve.json")
    whole = file.read_text()
    file.write_text("[{")
    run = analysis.load(SWEEP, tracking_uri=uri)
    assert run.components["status"].tolist() == ["ok"]
    assert len(run.curves) == 0
    assert "curve.json is no learning curve" in run.notes[0]
    file.write_text(whole)
    mended = analysis.load(SWEEP, tracking_uri=uri)
    assert (mended.curves["value"].tolist(), mended.notes) == ([1.0], ())
    assert mended.components.equals(run.components)
