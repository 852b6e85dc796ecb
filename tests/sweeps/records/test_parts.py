"""A run with options is recorded as a part: the records of the whole sweep stay, and its units are marked, too."""

import pytest

import analysis
from analysis.runs import Records
from analysis.table.comparison import build_table
from mpcwdwm.errors import UserError
from sweeps.records.fields import parent_tags, plan_record
from sweeps.records.tracker import Tracker
from tests.support.recorded_sweeps import baseline, mpc, publish_result

PART = "mine/seeds-0-3fa2b1"
WHOLE = [unit for seed in (0, 1) for unit in (baseline("mine", "rebrac", seed), mpc("mine", seed))]
SEED_0, OTHER = WHOLE[:2], mpc("mine", 0, horizon=5)


@pytest.fixture
def uri(tmp_path, new_records, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return new_records(tmp_path)


def run(uri, sweep, units, folder, options=()):
    """Record a run of a sweep or part; what an earlier run has published is not published again."""
    planned = (sweep, [], list(units))
    tracker = Tracker(uri, sweep)
    tracker.start(plan_record(*planned), f"name: {sweep}\n", parent_tags(*planned, options))
    places = [(unit, folder / "results" / unit.key) for unit in units]
    for unit, place in places:
        if not place.exists():
            publish_result(folder, unit, [1.0, 2.0])
    tracker.sync(places)
    tracker.finish("FINISHED", {})


def marked(uri, sweep):
    records = Records(uri)
    return {run.data.tags["mpcwdwm.key"] for run in records._store.search(f"tags.`sweep.{sweep}` = 'cell'")}


def test_a_part_leaves_plan_and_table_of_the_whole(uri, tmp_path):
    run(uri, "mine", WHOLE, tmp_path)
    before = build_table(uri, "mine").to_csv()
    run(uri, PART, [*SEED_0, OTHER], tmp_path, ["--seeds 0"])
    records = Records(uri)
    assert records.plan("mine")["cells"] == [unit.key for unit in WHOLE]
    assert records.plan(PART)["cells"] == [*(unit.key for unit in SEED_0), OTHER.key]
    assert build_table(uri, "mine").to_csv() == before
    assert build_table(uri, PART).to_csv() != before
    (parent,) = records._store.search("tags.`mpcwdwm.kind` = 'sweep' and tags.options = '--seeds 0'")
    assert parent.info.run_name == "mine --seeds 0"


def test_what_a_part_completes_of_the_whole_carries_both_marks(uri, tmp_path):
    run(uri, "mine", SEED_0, tmp_path)
    planned = ("mine", [], WHOLE)
    Tracker(uri, "mine").start(plan_record(*planned), "", parent_tags(*planned))  # interrupted
    run(uri, PART, [*WHOLE[2:], OTHER], tmp_path, ["--seeds 1"])
    assert marked(uri, "mine") == {unit.key for unit in WHOLE}
    assert marked(uri, PART) == {unit.key for unit in (*WHOLE[2:], OTHER)}
    assert build_table(uri, "mine").rows[-1].n_seeds == 2
    run(uri, "mine", WHOLE, tmp_path)
    assert marked(uri, "mine") == {unit.key for unit in WHOLE}


def test_frames_of_a_store_are_those_of_whole_sweeps_and_parts_come_by_name(uri, tmp_path):
    run(uri, PART, [*SEED_0, OTHER], tmp_path, ["--seeds 0"])
    with pytest.raises(UserError, match=r"has sweep 'mine' only as it was run with options: 'mine/seeds-0-3fa2b1'"):
        Records(uri).plan("mine")
    with pytest.raises(UserError, match=r"has no whole sweep; .* by name: mine/seeds-0-3fa2b1"):
        analysis.load(tracking_uri=uri)
    run(uri, "mine", WHOLE, tmp_path)
    loaded = analysis.load(tracking_uri=uri)
    assert set(loaded.cells["key"]) == {unit.key for unit in WHOLE}
    assert loaded.notes == (f"left out are runs with options, which can be loaded by name: {PART}",)
    assert len(analysis.load(PART, tracking_uri=uri).cells) == 3
