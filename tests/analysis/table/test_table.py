import csv
import io
import json
from dataclasses import fields, replace

import numpy as np
import pytest
from scipy import stats

from analysis.statistics import Evidence, seed_interval
from analysis.table.comparison import build_table
from analysis.table.rows import Row
from sweeps.records.fields import plan_record
from sweeps.records.tracker import Tracker
from tests.support.recorded_sweeps import baseline, component, mpc, publish_result, record, task

PROMISED = (
    *(
        "task",
        "method",
        "base",
        "kind",
        "world_model",
        "denoising_steps",
        "horizon",
        "rollouts",
        "updates",
        "step_size",
    ),
    *("score_mean", "score_low", "score_high", "gain_mean", "gain_low", "gain_high", "gain_seed_low", "gain_seed_high"),
    *("n_seeds", "n_episodes", "ms_per_step", "env_id", "mujoco"),
)
TIME_COLUMNS = ("ms_per_step", "cpu_hours", "gpu_hours")  # the only columns that differ between equal runs
KINDS = ("random", "medium", "expert", "medium-expert", "medium-replay", "full-replay")
GYM = [f"{robot}-{kind}-v2" for robot in ("halfcheetah", "hopper", "walker2d") for kind in KINDS]


@pytest.fixture(scope="session")
def store(new_records, tmp_path_factory):
    return new_records(tmp_path_factory.mktemp("table"))


def row_of(table, method, of=None):
    (row,) = [r for r in table.rows if r.method == method and (of is None or r.task == of)]
    return row


MPC = "mpc H=3 M=8 E=1 α=1e-05"


@pytest.fixture(scope="session")
def known(store, tmp_path_factory):
    """Three seeds, returns 10 per point of score, gains +3/+1, +2/+2 and +10/+14 points."""
    cells = [*(baseline("known", "rebrac", s) for s in range(3)), *(mpc("known", s) for s in range(3))]
    parts = [component("known", name, s) for s in range(3) for name in ("rebrac", "world_model", "reward")]
    base = [[100, 300], [200, 220], [500, 400]]
    gain = [[30, 10], [20, 20], [100, 140]]
    ours = [[b + g for b, g in zip(bs, gs, strict=True)] for bs, gs in zip(base, gain, strict=True)]
    results = {unit.key: values for unit, values in zip(cells, base + ours, strict=True)}
    record(store, "known", cells, results, tmp_path_factory.mktemp("known"), components=parts)
    return build_table(store, "known")


def test_the_columns_are_those_promised_and_more_come_after_them(known):
    header = next(csv.reader(io.StringIO(known.to_csv())))
    assert tuple(header[: len(PROMISED)]) == PROMISED
    assert header == [column.name for column in fields(Row)]


def test_scores_are_means_over_seeds_with_two_intervals(known):
    row = row_of(known, "rebrac")
    episodes = [[10, 30], [20, 22], [50, 40]]
    assert row.score_mean == pytest.approx((20 + 21 + 45) / 3)
    assert (row.n_seeds, row.n_episodes, row.status) == (3, 6, "ok")
    these = Evidence(({seed: np.array(e, dtype=float) for seed, e in enumerate(episodes)},)).for_these_policies()
    assert (row.score_low, row.score_high) == pytest.approx((these.low, these.high))
    new = seed_interval([20, 21, 45])
    assert (row.score_seed_low, row.score_seed_high) == pytest.approx((new.low, new.high))
    assert row.gain_mean is None


def test_gains_are_paired_with_the_base_of_the_same_seed_and_episode(known):
    row = row_of(known, MPC)
    assert row.gain_mean == pytest.approx((2 + 2 + 12) / 3)
    new = seed_interval([2, 2, 12])
    assert (row.gain_seed_low, row.gain_seed_high) == pytest.approx((new.low, new.high))
    these = stats.t.interval(0.95, 1, loc=16 / 3, scale=stats.sem([(3 + 2 + 10) / 3, (1 + 2 + 14) / 3]))
    assert (row.gain_low, row.gain_high) == pytest.approx(these)
    assert (row.base, row.kind, row.world_model, row.denoising_steps) == ("rebrac", "policy", "diffusion", 5)
    assert (row.horizon, row.rollouts, row.updates, row.step_size) == (3, 8, 1, 1e-05)


def test_hours_are_those_of_the_evaluation_and_of_all_it_is_built_on(known):
    # 36 s a unit: a baseline is its evaluation and its policy, a cell its evaluation and three parts
    assert row_of(known, "rebrac").cpu_hours == pytest.approx(3 * 2 * 0.01)
    assert row_of(known, MPC).cpu_hours == pytest.approx(3 * 4 * 0.01)
    assert row_of(known, MPC).gpu_hours == 0


def test_network_evaluations_stand_beside_the_time_of_a_step(store, tmp_path):
    """Of one seed they are counted, of the other, of an earlier version, not; a baseline has none at all."""
    cells = [*(baseline("cost", "rebrac", s) for s in range(2)), *(mpc("cost", s) for s in range(2))]
    counts = zip(cells, (None, None, None, 150.0), strict=True)
    changes = {unit.key: {"evaluations": count} for unit, count in counts}
    record(store, "cost", cells, {unit.key: [100, 300] for unit in cells}, tmp_path, **changes)
    table = build_table(store, "cost")
    assert [row.evaluations_per_step for row in table.rows] == [None, None, 150.0]
    for text in (table.to_text(), table.to_markdown(), table.render("html", "long"), table.render("latex", "long")):
        assert "evals" in text
        assert "150" in text
    told = json.loads(table.render("json"))
    assert [row["evaluations_per_step"] for row in told["rows"]] == [None, None, 150.0]
    assert (told["sweep"], told["verdicts"]) == ("cost", table.verdicts)


def test_the_dataset_stands_first_and_bundled_data_gets_no_published_score(known):
    assert known.rows[0].method == "dataset"
    assert known.rows[0].score_mean == pytest.approx(25.0)
    assert {row.kind for row in known.rows} == {"dataset", "none", "policy"}
    assert "published" not in known.to_markdown()


def test_a_gain_that_is_not_shown_for_new_seeds_is_not_called_shown(known):
    (sentence,) = known.verdicts
    new = stats.t.interval(0.95, 2, loc=16 / 3, scale=stats.sem([2, 2, 12]))
    seeds = f"[−{-new[0]:.1f}, +{new[1]:.1f}]"
    assert sentence.endswith(f": neither gain nor harm shown for new training seeds: {MPC} +5.3 {seeds} over rebrac")


def test_markdown_and_text_show_the_numbers_and_fit_the_terminal(known):
    text, page = known.to_text(100), known.to_markdown()
    for shown in (text, page):
        assert MPC in shown
        assert "+5.3 [" in shown
        assert "(Hopper-v4, mujoco 3.4.0, normalized score)" in shown
        assert known.verdicts[0].split(":")[0] in shown
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "\x1b" not in text
    assert "3 × 2" in page


def test_the_csv_is_the_same_whatever_the_times_were(store, new_records, tmp_path):
    csvs = []
    for i, (ms, order) in enumerate([(1.0, 1), (9.0, -1)]):
        units = [baseline("same", "rebrac", 0), mpc("same", 0)]
        uri = store if i == 0 else new_records(tmp_path / "other")
        tracker = Tracker(uri, "same")
        tracker.start(plan_record("same", [], units), "")
        for unit, returns in list(zip(units, ([1.0, 2.0], [3.0, 5.0]), strict=True))[::order]:
            tracker.log(unit, publish_result(tmp_path / str(i), unit, returns, ms=ms, seconds=ms))
        tracker.finish("FINISHED", {})
        rows = list(csv.DictReader(io.StringIO(build_table(uri, "same").to_csv())))
        csvs.append([{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in rows])
    assert csvs[0] == csvs[1]
    assert [row["step_size"] for row in csvs[0]] == ["", "", "1e-05"]


def test_two_seeds_have_a_dash_for_new_seeds_and_one_episode_one_for_these_policies(store, tmp_path):
    cells = [*(baseline("two", "rebrac", s) for s in (0, 1)), *(mpc("two", s) for s in (0, 1))]
    record(store, "two", cells, {unit.key: [100.0 + i] for i, unit in enumerate(cells)}, tmp_path)
    row = row_of(build_table(store, "two"), MPC)
    assert row.gain_mean == pytest.approx(0.2)
    assert (row.gain_low, row.gain_high, row.gain_seed_low, row.gain_seed_high) == (None,) * 4
    assert (row.score_low, row.score_seed_low) == (None, None)
    assert "no verdict: it takes 3 training seeds, and there are 2" in build_table(store, "two").verdicts[0]


def test_an_unpaired_cell_has_a_dash_and_a_note(store, tmp_path):
    cells = [baseline("odd", "rebrac", 0), mpc("odd", 0)]
    tracker = record(store, "odd", cells, {cells[0].key: [1, 2]}, tmp_path)
    tracker.log(cells[1], publish_result(tmp_path, cells[1], [30, 40], env_seeds=[0, 7]))
    table = build_table(store, "odd")
    assert row_of(table, MPC).gain_mean is None
    assert row_of(table, MPC).score_mean == pytest.approx(3.5)
    assert any(
        "no gain is shown, because the base of training seed 0 lacks environment seed 7" in n for n in table.notes
    )
    assert "no verdict: there is no paired gain" in table.verdicts[0]


def test_a_base_trained_otherwise_is_not_a_counterpart(store, tmp_path):
    other = baseline("variant", "rebrac", 0)
    other.parts["rebrac"] = "rebrac-with-other-settings"
    cells = [other, mpc("variant", 0)]
    record(store, "variant", cells, {unit.key: [1, 2] for unit in cells}, tmp_path)
    assert row_of(build_table(store, "variant"), MPC).gain_mean is None


def test_failed_and_missing_cells_keep_their_row_with_a_status(store, tmp_path):
    cells = [
        *(baseline("gaps", "rebrac", s) for s in (0, 1)),
        *(mpc("gaps", s) for s in (0, 1)),
        *(mpc("gaps", s, horizon=5) for s in (0, 1)),
        *(mpc("gaps", s, horizon=9) for s in (0, 1)),
    ]
    done = {unit.key: [10, 20] for unit in cells[:3]}
    failed = {unit.key: "CUDA out of memory" for unit in cells[4:6]}
    record(store, "gaps", cells, done, tmp_path, failed=failed)
    table = build_table(store, "gaps")
    assert [(r.horizon, r.status, r.score_mean) for r in table.rows if r.kind == "policy"] == [
        (3, "partial", 1.5),
        (5, "failed", None),
        (9, "missing", None),
    ]
    assert any("H=5" in note and "seeds 0, 1: failed: CUDA out of memory" in note for note in table.notes)
    assert any("H=3" in note and "seed 1: no result yet" in note for note in table.notes)
    assert "(failed)" in table.to_text()


def test_a_score_that_is_not_finite_is_a_failure_and_no_number(store, tmp_path):
    cells = [baseline("nan", "rebrac", s) for s in (0, 1)]
    record(store, "nan", cells, {cells[0].key: [10, 20], cells[1].key: [10, float("nan")]}, tmp_path)
    table = build_table(store, "nan")
    assert (row_of(table, "rebrac").status, row_of(table, "rebrac").score_mean) == ("partial", 1.5)
    assert any("seed 1: failed: the score of an episode is not finite" in note for note in table.notes)


def test_a_mixture_of_devices_and_versions_is_flagged(store, tmp_path):
    cells = [baseline("mixed", "rebrac", s) for s in (0, 1)]
    changes = {cells[1].key: {"device": "cuda", "torch": "2.14.0"}}
    record(store, "mixed", cells, {unit.key: [1, 2] for unit in cells}, tmp_path, **changes)
    table = build_table(store, "mixed")
    flagged = [note for note in table.notes if note.startswith("⚠")]
    assert len(flagged) == 2
    assert "mixture of device in evaluation: cpu (1), cuda (1)" in flagged[0]
    assert "mixture of torch in evaluation: 2.13.0 (1), 2.14.0 (1)" in flagged[1]
    assert row_of(table, "rebrac").gpu_hours == pytest.approx(0.01)


def test_a_mixture_is_not_flagged_where_there_is_none(known):
    assert not [note for note in known.notes if note.startswith("⚠")]


def test_what_was_noted_of_an_environment_is_said_once_for_each_task(store, tmp_path):
    noted, plain = task("own", env_note="actions are rescaled to [-2, 2]"), task("plain")
    cells = [baseline("noted", "rebrac", seed, of) for of in (noted, plain) for seed in (0, 1)]
    record(store, "noted", cells, {cell.key: [100, 200] for cell in cells}, tmp_path)
    table = build_table(store, "noted")
    assert [note for note in table.notes if "rescaled" in note] == ["own: actions are rescaled to [-2, 2]"]
    assert "own: actions are rescaled" in table.to_markdown()


def test_published_scores_stand_beside_d4rl_tasks_and_second_hand_ones_are_marked(store, tmp_path):
    of = task("hopper-medium-replay-v2", source="d4rl")
    local = task("hopper-medium-v2", source="local")  # the name alone does not make it D4RL's
    cells = [baseline("papers", "rebrac", 0, of), baseline("papers", "rebrac", 0, local)]
    record(store, "papers", cells, {unit.key: [1, 2] for unit in cells}, tmp_path)
    table = build_table(store, "papers")
    papers = [row for row in table.rows if row.kind == "published"]
    assert [(r.task, r.label, r.score_mean) for r in papers] == [
        ("hopper-medium-replay-v2", "ReBRAC (published)", 98.1),
        ("hopper-medium-replay-v2", "IQL (published)", 89.6),
        ("hopper-medium-replay-v2", "MPCwDWM (published) †", 103.14),
    ]
    page = table.to_markdown()
    assert "98.1 ± 5.3" in page
    assert "† second-hand" in page
    assert not [row for row in table.rows if row.task == "average" and row.kind == "published"]


def test_the_average_weighs_tasks_alike_and_leaves_out_what_is_not_everywhere(store, tmp_path):
    one, two = task("first"), task("second")
    cells = [
        *(baseline("avg", "rebrac", s, one) for s in range(3)),
        *(mpc("avg", s, one) for s in range(3)),
        *(baseline("avg", "rebrac", s, two) for s in range(3)),
        *(mpc("avg", s, two) for s in range(3)),
        *(baseline("avg", "bc", s, one) for s in range(3)),
    ]
    results = {unit.key: [100.0, 200.0] for unit in cells}
    for seed, gain in enumerate((10, 20, 60)):
        results[mpc("avg", seed, one).key] = [100.0 + gain, 200.0 + gain]
    record(store, "avg", cells, results, tmp_path)
    table = build_table(store, "avg")
    assert [row.method for row in table.rows if row.task == "average"] == ["dataset", "rebrac", MPC]
    row = row_of(table, MPC, "average")
    assert row.gain_mean == pytest.approx((3 + 0) / 2)
    new = seed_interval([0.5, 1.0, 3.0])
    assert (row.gain_seed_low, row.gain_seed_high) == pytest.approx((new.low, new.high))
    assert (row.n_seeds, row.n_episodes, row.horizon) == (3, 12, 3)
    assert "average: bc is left out, it has no score on second" in table.notes
    assert table.verdicts[-1].startswith("average: ")


def test_the_papers_own_averages_stand_beside_ours_only_over_their_whole_suite(store, tmp_path):
    tasks = [task(name, source="d4rl") for name in GYM]
    cells = [baseline("suite", "rebrac", 0, of) for of in tasks]
    record(store, "suite", cells, {unit.key: [1, 2] for unit in cells}, tmp_path)
    rows = {row.label: row.score_mean for row in build_table(store, "suite").rows if row.task == "average"}
    assert rows["ReBRAC (published)"] == 81.2
    assert rows["MPCwDWM (published) †"] == 85.33
    record(store, "part", cells[:2], {unit.key: [1, 2] for unit in cells[:2]}, tmp_path / "part")
    part = build_table(store, "part")
    rows = {row.label: row.score_mean for row in part.rows if row.task == "average"}
    assert rows["ReBRAC (published)"] == pytest.approx((29.5 + 65.6) / 2)
    assert not [label for label in rows if "MPCwDWM" in label]


def test_the_papers_own_averages_are_left_out_where_one_file_is_not_d4rls(store, tmp_path):
    tasks = [task(name, source="local" if name == GYM[0] else "d4rl") for name in GYM]
    cells = [baseline("other", "rebrac", 0, of) for of in tasks]
    record(store, "other", cells, {unit.key: [1, 2] for unit in cells}, tmp_path)
    averages = [row.label for row in build_table(store, "other").rows if row.task == "average"]
    assert "rebrac" in averages
    assert not [label for label in averages if "published" in label]


def test_cells_chosen_per_task_are_averaged_under_their_planners_name(store, tmp_path):
    one, two = task("first"), task("second")
    cells = [mpc("chosen", 0, one, horizon=3), mpc("chosen", 0, two, horizon=5)]
    cells = [baseline("chosen", "rebrac", 0, one), cells[0], baseline("chosen", "rebrac", 0, two), cells[1]]
    record(store, "chosen", cells, {unit.key: [1, 2] for unit in cells}, tmp_path)
    averages = [row for row in build_table(store, "chosen").rows if row.task == "average"]
    assert [row.method for row in averages] == ["dataset", "rebrac", "mpc (one cell per task)"]
    assert averages[-1].horizon is None


def test_cells_that_only_served_to_choose_are_named_below_and_not_in_the_table(store, tmp_path):
    select = [mpc("select", s, horizon=h, role="select") for h in (1, 3) for s in (5, 6)]
    cells = [baseline("select", "rebrac", 0), *select, mpc("select", 0)]
    record(store, "select", cells, {unit.key: [10 * i, 20 * i] for i, unit in enumerate(cells)}, tmp_path)
    table = build_table(store, "select")
    assert [(row.method, row.horizon) for row in table.rows if row.kind == "policy"] == [(MPC, 3)]
    (note,) = [note for note in table.notes if "chosen on other seeds" in note]
    assert "H=1 M=8 E=1 α=1e-05: score 2.2" in note
    assert "H=3 M=8 E=1 α=1e-05: score 5.2 (chosen)" in note
    assert not [n for n in table.notes if "no gain is shown" in n]


def test_raw_returns_are_shown_without_references_and_never_averaged(store, tmp_path):
    raw = task("own-robot", reference=None, source="local")
    cells = [baseline("raw", "rebrac", 0, of) for of in (raw, task("first"), task("second"))]
    record(store, "raw", cells, {unit.key: [100, 300] for unit in cells}, tmp_path)
    table = build_table(store, "raw")
    assert row_of(table, "rebrac", "own-robot").score_mean == 200.0
    assert row_of(table, "dataset", "own-robot").score_mean == 250.0
    assert row_of(table, "rebrac", "average").score_mean == pytest.approx(20.0)
    assert any("leaves out own-robot" in note for note in table.notes)
    assert "raw return" in table.to_text()


def test_a_cell_another_sweep_recorded_under_another_name_is_called_what_this_sweep_calls_it(store, tmp_path):
    cells = [baseline("theirs", "rebrac", 0)]
    record(store, "theirs", cells, {cells[0].key: [1, 2]}, tmp_path)
    Tracker(store, "ours").start(plan_record("ours", [], [replace(cells[0], method="our rebrac")]), "")
    assert row_of(build_table(store, "ours"), "our rebrac").score_mean == pytest.approx(0.15)


def test_small_numbers_are_shown_with_as_many_decimals_as_they_need(store, tmp_path):
    cells = [baseline("small", "rebrac", s) for s in range(3)] + [mpc("small", s) for s in range(3)]
    results = {unit.key: [500.0 + 0.01 * unit.seed] * 8 for unit in cells[:3]}
    results |= {unit.key: [500.05 + 0.01 * unit.seed, 500.04 + 0.01 * unit.seed] * 4 for unit in cells[3:]}
    record(store, "small", cells, results, tmp_path)
    table = build_table(store, "small")
    assert f"{MPC} +0.0045 [+0.0041, +0.0049] over rebrac" in table.verdicts[0]
    assert "+0.0045 [+0.0041, +0.0049]" in table.to_markdown()
    (row,) = [row for row in csv.DictReader(io.StringIO(table.to_csv())) if row["method"] == MPC]
    assert float(row["gain_mean"]) == pytest.approx(0.0045, rel=1e-6)


def test_an_average_over_bases_that_differ_says_so(store, tmp_path):
    one, two = task("first"), task("second")
    on_iql = [
        replace(mpc("differ", s, two), base="iql", parts={"iql": component("differ", "iql", s, two).key})
        for s in range(3)
    ]
    cells = [
        *(baseline("differ", "rebrac", s, one) for s in range(3)),
        *(baseline("differ", "iql", s, two) for s in range(3)),
    ]
    cells += [
        *(replace(mpc("differ", s, one), method="mine") for s in range(3)),
        *(replace(u, method="mine") for u in on_iql),
    ]
    results = {unit.key: [100.0 + unit.seed, 200.0] for unit in cells[:6]}
    results |= {unit.key: [400.0 + unit.seed, 500.0 + unit.seed] for unit in cells[6:]}
    record(store, "differ", cells, results, tmp_path)
    sentences = build_table(store, "differ").verdicts
    assert sentences[-1].startswith("average: ")
    assert "over the base of each task" in sentences[-1]
    assert not [text for text in sentences if "None" in text]
