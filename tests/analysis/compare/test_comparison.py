"""Two sweeps side by side: what matches, the differences and their verdict, against scipy and by hand."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from analysis.compare.comparison import compare
from analysis.compare.sides import Side, match, read_side
from analysis.statistics import seed_interval
from analysis.table.rows import groups_of
from mpcwdwm.errors import UserError
from tests.support.recorded_sweeps import baseline, mpc, record, task
from tests.support.simulated_sweeps import of_table

GAINS = np.array([1.0, 2.0, 2.5, 4.0, 6.0])  # of the five seeds, the same for every start
BASE = 50 + 10 * np.random.default_rng(0).normal(size=(5, 6))


def side(name, *rows):
    """A side with a row for each (task, method, scores, facts)."""
    by_task = {}
    for of, method, scores, facts in rows:
        kind = facts.pop("kind", "policy")
        named = {"task": of, "method": method, "name": method.split()[0], **facts}
        by_task.setdefault(of, []).extend(of_table(scores, "rebrac", kind=kind, **named))
    keyed = {of: [replace(cell, key=f"{name}-{cell.key}") for cell in cells] for of, cells in by_task.items()}
    groups = [group for cells in keyed.values() for group in groups_of(cells)[0]]
    return Side(name, [group for group in groups if group.cells], [])


def row_of(found, task, method):
    (row,) = [row for row in found.rows if (row.task, row.method) == (task, method)]
    return row


def test_a_paired_difference_has_students_interval_and_holms_p():
    a = side("a", ("t", "mpc", BASE, {}), ("t", "bc", BASE, {"kind": "none"}))
    b = side("b", ("t", "mpc", BASE + GAINS[:, None], {}), ("t", "bc", BASE - 1 - GAINS[::-1, None], {"kind": "none"}))
    found = compare(a, b)
    mpc_row, bc_row = row_of(found, "t", "mpc"), row_of(found, "t", "bc")
    assert (mpc_row.low, mpc_row.high) == pytest.approx(seed_interval(GAINS))
    assert (mpc_row.difference, mpc_row.b - mpc_row.a) == pytest.approx((GAINS.mean(), GAINS.mean()))
    p = {"mpc": stats.ttest_1samp(GAINS, 0).pvalue, "bc": stats.ttest_1samp(1 + GAINS, 0).pvalue}
    assert (mpc_row.p, bc_row.p) == pytest.approx((p["mpc"], p["bc"]))
    assert bc_row.p_corrected == pytest.approx(2 * p["bc"])  # the smaller of two
    assert mpc_row.p_corrected == pytest.approx(max(p["mpc"], 2 * p["bc"]))
    assert (mpc_row.verdict, bc_row.verdict, mpc_row.paired) == ("higher", "lower", True)
    assert found.headline == "of 2 differences B is shown to be higher in 1, lower in 1, and neither in 0"


def test_what_one_row_alone_would_show_is_not_shown_among_many():
    shown = side("a", ("t", "mpc", BASE, {})), side("b", ("t", "mpc", BASE + GAINS[:, None], {}))
    assert compare(*shown).rows[0].verdict == "higher"
    zero = GAINS[:, None] - GAINS.mean()
    rows = [("t", f"m{i}", BASE, {}) for i in range(9)], [("t", f"m{i}", BASE + zero, {}) for i in range(9)]
    many = compare(
        side("a", ("t", "mpc", BASE, {}), *rows[0]), side("b", ("t", "mpc", BASE + GAINS[:, None], {}), *rows[1])
    )
    assert {row.verdict for row in many.rows} == {"not shown"}
    assert row_of(many, "t", "mpc").low > 0  # the interval is the row's own


def test_other_seeds_are_compared_without_pairs():
    other = {"seeds": 100}
    a, b = side("a", ("t", "mpc", BASE, {})), side("b", ("t", "mpc", BASE + 1, {}))
    moved = [
        replace(group, cells=tuple(replace(c, facts={**c.facts, "seed": c.seed + other["seeds"]}) for c in group.cells))
        for group in b.groups
    ]
    row = compare(a, Side("b", moved, [])).rows[0]
    assert (row.paired, row.verdict, row.n_seeds) == (False, "not shown", 5)
    paired = compare(a, b).rows[0]
    assert row.high - row.low > 5 * (paired.high - paired.low + 0.1)
    assert "5 × 6, unpaired" in compare(a, Side("b", moved, [])).render("markdown")


def test_the_average_is_over_the_tasks_that_both_have_and_one_of_the_family():
    a = side("a", ("one", "mpc", BASE, {}), ("two", "mpc", BASE, {}), ("three", "mpc", BASE, {}))
    b = side("b", ("one", "mpc", BASE + GAINS[:, None], {}), ("two", "mpc", BASE + 3 * GAINS[:, None], {}))
    found = compare(a, b)
    average = row_of(found, "average", "mpc")
    assert average.difference == pytest.approx(2 * GAINS.mean())
    assert (average.low, average.high) == pytest.approx(seed_interval(2 * GAINS))
    assert average.p_corrected == pytest.approx(3 * average.p)
    assert found.only_a == [("three", "mpc")]
    assert found.only_b == []


def test_rows_match_by_label_then_by_settings_and_what_differs_is_said():
    a = side(
        "a",
        ("t", "mpc H=1", BASE, {"planner.horizon": "1", "planner.rollouts": "8"}),
        ("t", "mpc H=3", BASE, {"planner.horizon": "3", "planner.rollouts": "8"}),
        ("t", "size", BASE, {"planner.horizon": "3", "world_model": "diffusion"}),
        ("t", "gone", BASE, {}),
    )
    b = side(
        "b",
        ("t", "mpc", BASE, {"planner.horizon": "3", "planner.rollouts": "8", "planner.new": "0"}),
        ("t", "size", BASE, {"planner.horizon": "5", "world_model": "mlp"}),
    )
    matches, only_a, only_b = match(a, b)
    assert [(one.a.row.label, one.b.row.label, one.by) for one in matches] == [
        ("mpc H=3", "mpc", "settings"),
        ("size", "size", "label"),
    ]
    assert [one.differs for one in matches] == ["", "world_model diffusion → mlp, horizon 3 → 5"]
    assert [group.row.label for group in only_a] == ["mpc H=1", "gone"]
    assert only_b == []


def test_scores_in_different_units_are_not_compared():
    a = side("a", ("t", "mpc", BASE, {}))
    b = side("b", ("t", "mpc", BASE, {"score_unit": "return"}))
    found = compare(a, b)
    assert (found.rows, found.only_a, found.only_b) == ([], [("t", "mpc")], [("t", "mpc")])
    assert found.headline == "no row of A has a counterpart in B"
    assert "no row of A" in found.render("text")


def test_two_seeds_bear_no_verdict():
    found = compare(side("a", ("t", "mpc", BASE[:2], {})), side("b", ("t", "mpc", BASE[:2] + 9, {})))
    (row,) = found.rows
    assert (row.difference, row.low, row.p, row.verdict) == (pytest.approx(9.0), None, None, "no verdict")
    assert found.headline == "no verdict on 1: it takes three training seeds on both sides, and two episodes"


def test_all_formats_have_the_same_rows():
    rows = ("t", "mpc", BASE, {}), ("t", "m|<i>", BASE, {})
    found = compare(side("a", *rows), side("b", *[(of, name, own + 1, {}) for of, name, own, _ in rows]))
    (first, second) = csv.DictReader(io.StringIO(found.render("csv")))
    told = json.loads(found.render("json"))
    assert (float(first["difference"]), told["rows"][0]["difference"]) == pytest.approx((1.0, 1.0))
    assert (second["method"], told["rows"][1]["method"], told["headline"]) == ("m|<i>", "m|<i>", found.headline)
    for form, name in (("markdown", r"m\|<i>"), ("html", "m|&lt;i&gt;"), ("latex", r"m\textbar{}\textless{}i")):
        assert name in found.render(form)
        assert "A is a, B is b" in found.render(form)
    assert max(map(len, found.render("text", 60).splitlines())) <= 60


def test_two_commits_of_a_sweep_are_read_from_its_records(new_records, tmp_path):
    """The cells of the first commit are no longer in the plan; rebrac's is: it was not computed again."""
    store = new_records(tmp_path)
    of = task("t")
    kept = [baseline("mine", "rebrac", seed, of) for seed in range(3)]
    old = [replace(mpc("mine", seed, of), key=f"old-{seed}") for seed in range(3)]
    new = [mpc("mine", seed, of) for seed in range(3)]
    results = {unit.key: [100.0 + unit.seed, 200.0] for unit in (*kept, *old)}
    sha = {unit.key: {"git_sha": "a" * 40} for unit in (*kept, *old)}
    record(store, "mine", [*kept, *old], results, tmp_path, **sha)
    again = {unit.key: [130.0 + unit.seed, 230.0] for unit in new}
    later = {unit.key: {"git_sha": "b" * 40 + "-dirty"} for unit in new}
    record(store, "mine", [*kept, *new], again, tmp_path, **later)

    now, before = read_side(store, "mine"), read_side(store, "mine", "aaaa")
    found = compare(before, now)
    assert row_of(found, "t", "rebrac").verdict == "same records"
    row = row_of(found, "t", "mpc H=3 M=8 E=1 α=1e-05")
    assert (row.difference, row.verdict, row.paired) == (pytest.approx(3.0), "higher", True)
    assert found.headline.startswith("1 of 2 rows are the same records; of 1 difference B")
    assert f"git_sha: {'a' * 12} → {'a' * 12}, {'b' * 12}-dirty" in found.notes
    of_new = compare(before, read_side(store, "mine", "b"))
    assert of_new.only_a == [("t", "rebrac")]
    with pytest.raises(UserError, match=r"recorded no cell at commit 'c0de'; commits of its cells: [ab]{40}"):
        read_side(store, "mine", "c0de")
