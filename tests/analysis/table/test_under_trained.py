import csv
import io
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import pytest

from analysis.runs import Records
from analysis.table.comparison import build_table
from analysis.table.rows import Cell, groups_of
from analysis.table.under_training import base_keys, mark_bases, move
from tests.support.recorded_sweeps import baseline, component, mpc, record, task

SCORE, RETURN = "eval/normalized_score", "eval/return"
SETTLED = (1.0, -1.0, 0.0)
# Moves of x − 1, x, x + 1: ± t(0.975, 2) / √3 = 4.3027 / 1.7321, and (4.3027 + t(0.8, 2) = 1.0607) / 1.7321
HALF, SEEN = 2.5, "3.1"


def curve(rise, column=SCORE, before=60.0, updates=1000):
    """Ten points: flat at 40 until three quarters of the updates, then from ``before`` on by ``rise`` to the end."""
    values = [40.0] * 7 + [before, before + rise / 2, before + rise]
    return [{"step": updates * (i + 1) / 10, "loss": 0.5, column: value} for i, value in enumerate(values)]


def cell(base, seed, values, kind="none", unit="normalized", env_seeds=None, variant=""):
    key = f"{base}{variant}-s{seed}"
    rows = {"env_seed": env_seeds or range(len(values)), "return": [10.0 * value for value in values]}
    rows |= {"normalized_score": values if unit == "normalized" else None, "length": 10, "ms_per_step": 1.0}
    facts = {
        "task": "hopper",
        "seed": seed,
        "method": base if kind == "none" else "mpc",
        "name": base,
        "kind": kind,
        "variant": variant,
        "base": base,
        "base_key": key,
        "role": "report",
        "score_unit": unit,
        "env_id": "Hopper-v4",
        "mujoco": "3.4.0",
        "task_source": "local",
        "dataset_score": 25.0,
        "dataset_return": 250.0,
    }
    return Cell(f"{kind}-{key}", facts, pd.DataFrame({**rows, "fallbacks": 0}))


def cells(base, scores, **changes):
    """One cell per training seed; its two episodes score one point less and one more than the seed's score."""
    return [cell(base, seed, [score - 1.0, score + 1.0], **changes) for seed, score in enumerate(scores)]


def curves(base, rises, **how):
    return {f"{base}-s{seed}": curve(rise, **how) for seed, rise in enumerate(rises)}


def judged(own, found):
    """Return label → (still moving, below cloning), and the notes on bases."""
    marked, notes = mark_bases({"hopper": groups_of(own)[0]}, found)
    rows = [group.row for group in marked["hopper"]]
    return {row.label: (row.still_moving, row.below_cloning) for row in rows}, notes["hopper"]


# ---- the move of one curve ----------------------------------------------------------------------


def test_the_move_is_the_rise_over_the_last_fifth_and_nothing_before_it_counts():
    assert move(curve(8.0), SCORE) == pytest.approx(8.0)
    assert move(curve(-8.0), SCORE) == pytest.approx(-8.0)
    assert move(curve(0.1, before=0.1), SCORE) == pytest.approx(0.1)


def test_the_move_of_many_points_is_that_of_the_least_squares_line():
    steps = [10, 40, 70, 80, 85, 90, 95, 100]
    values = [0, 0, 0, 10, 14, 11, 17, 13]
    points = [{"step": float(step), SCORE: float(value)} for step, value in zip(steps, values, strict=True)]
    # Σ (x − 90) (y − 13) / Σ (x − 90)² = (30 − 5 + 0 + 20 + 0) / 250 = 0.18 a step; first to last it would be 3
    assert move(points, SCORE) == pytest.approx(0.18 * 20)


def test_the_move_covers_the_last_fifth_whatever_the_points_in_it_cover():
    points = [{"step": float(step), SCORE: value} for step, value in ((50, 0.0), (90, 3.0), (100, 4.0))]
    assert move(points, SCORE) == pytest.approx(2.0)


def test_a_point_rounded_to_just_before_four_fifths_is_in_the_range():
    points = [{"step": step, SCORE: value} for step, value in ((79.0, 1.0), (99.0, 2.0))]  # of 99 updates
    assert move(points, SCORE) == pytest.approx(1.0 * 0.2 * 99 / 20)


def test_fewer_than_two_scores_in_the_range_give_no_move():
    assert move([{"step": 50.0, SCORE: 1.0}, {"step": 100.0, SCORE: 2.0}], SCORE) is None
    assert move([{"step": 90.0, SCORE: float("nan")}, {"step": 100.0, SCORE: 2.0}], SCORE) is None
    assert move(curve(5.0), RETURN) is None  # losses alone


# ---- a base -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rises", "shown"), [((8, 9, 10), "+9.0 [+6.5, +11.5]"), ((-8, -9, -10), "−9.0 [−11.5, −6.5]")]
)
def test_a_base_whose_score_moved_up_or_down_is_still_moving_and_so_is_what_plans_on_it(rises, shown):
    own = [*cells("rebrac", (50, 52, 54)), *cells("rebrac", (60, 62, 64), kind="policy")]
    marks, notes = judged(own, curves("rebrac", rises))
    assert marks == {"dataset": (None, None), "rebrac": (True, False), "mpc": (True, False)}
    assert notes == [f"hopper: rebrac is still moving ‡: its score moved by {shown} over the last 20 % of updates"]


def test_a_move_of_every_seed_counts_however_much_their_scores_differ():
    marks, notes = judged(cells("rebrac", (40, 60, 80)), curves("rebrac", (30, 30, 30)))
    assert marks["rebrac"][0] is True
    assert "moved by +30.0 [+30.0, +30.0]" in notes[0]


def test_a_base_that_is_flat_and_above_bc_and_its_data_has_no_mark_and_its_move_is_told():
    own = [*cells("rebrac", (50, 52, 54)), *cells("bc", (39, 41, 43)), *cells("rebrac", (60, 62, 64), kind="policy")]
    marks, notes = judged(own, curves("rebrac", SETTLED))
    assert marks == {"dataset": (None, None), "rebrac": (False, False), "bc": (None, None), "mpc": (False, False)}
    assert notes == [
        f"hopper: rebrac is not shown to be still moving: its score moved by +0.0 [−{HALF}, +{HALF}] over the last "
        f"20 % of updates; a move of {SEEN} is seen in four of five cases"
    ]


def test_a_base_that_is_flat_and_below_bc_is_marked_so_and_not_called_moving():
    own = [*cells("rebrac", (50, 52, 54)), *cells("bc", (60, 61, 65))]  # −10, −9, −11: far less than either's spread
    marks, notes = judged(own, curves("rebrac", SETTLED))
    assert marks == {"dataset": (None, None), "rebrac": (False, True), "bc": (None, None)}
    assert "hopper: rebrac is 10.0 [7.5, 12.5] below bc §" in notes


def test_a_base_level_with_bc_has_no_mark_and_the_difference_is_told():
    own = [*cells("iql", (50, 52, 54)), *cells("bc", (50, 51, 55))]
    marks, notes = judged(own, curves("iql", SETTLED))
    assert marks["iql"] == (False, False)
    assert "hopper: iql is not shown to differ from bc: +0.0 [−2.5, +2.5]" in notes


def test_a_base_that_is_flat_and_below_its_data_is_marked_so():
    marks, notes = judged(cells("rebrac", (9, 10, 11)), curves("rebrac", SETTLED))
    assert marks["rebrac"] == (False, True)
    assert notes[1].startswith("hopper: rebrac is 15.0 [")
    assert notes[1].endswith("] below the dataset's mean §")


@pytest.mark.parametrize(
    ("longest", "cut", "limit", "compared"),
    [
        (1000, 1000, 50, False),
        (738, None, 50, False),
        (300, 300, 1000, False),
        (738, None, 1000, True),
        (999, 999, 1000, True),
    ],
)
def test_a_recording_of_other_episodes_than_the_environments_is_not_compared_with(longest, cut, limit, compared):
    lengths = {"dataset_longest_episode": longest, "max_episode_steps": limit}
    lengths |= {} if cut is None else {"dataset_time_limit": cut}
    own = [replace(each, facts={**each.facts, **lengths}) for each in cells("rebrac", (9, 10, 11))]
    marks, notes = judged(own, curves("rebrac", SETTLED))
    assert marks["rebrac"] == (False, compared or None)
    if not compared:
        assert f"its episodes have up to {longest} steps, the environment's {limit}" in notes[0]


@pytest.mark.parametrize("left_out", ["all", "a seed", "other starting states"])
def test_bc_is_asked_only_where_it_has_the_same_seeds_and_starting_states(left_out):
    clones = cells("bc", (90, 90, 90), env_seeds=[7, 8] if left_out == "other starting states" else None)
    clones = {"all": [], "a seed": clones[:2]}.get(left_out, clones)
    marks, _ = judged([*cells("rebrac", (50, 52, 54)), *clones], curves("rebrac", SETTLED))
    assert marks["rebrac"] == (False, False)


def test_a_move_that_may_be_the_curves_noise_is_not_marked_and_what_would_be_seen_is_told():
    # mean 10, standard deviation 10: ± 4.3027 × 10 / √3
    marks, notes = judged(cells("rebrac", (50, 52, 54)), curves("rebrac", (0, 10, 20)))
    assert marks["rebrac"][0] is False
    assert "moved by +10.0 [−14.8, +34.8]" in notes[0]
    assert "a move of 31.0 is seen" in notes[0]


def test_the_bases_of_all_tasks_count():
    rises = (8, 9, 10)  # p = 0.004
    own = cells("rebrac", (50, 52, 54))
    one = mark_bases({"hopper": groups_of(own)[0]}, curves("rebrac", rises))[0]
    assert one["hopper"][1].row.still_moving is True
    many = {f"task {i}": groups_of(cells("iql", (50, 52, 54)))[0] for i in range(20)}
    found = {**curves("rebrac", rises), **curves("iql", SETTLED)}
    together = mark_bases({"hopper": groups_of(own)[0], **many}, found)[0]
    assert together["hopper"][1].row.still_moving is False


def test_fewer_than_three_seeds_show_neither():
    own = [*cells("rebrac", (50, 52)), *cells("rebrac", (60, 62), kind="policy"), *cells("bc", (90, 92))]
    marks, notes = judged(own, curves("rebrac", (30, 30)))
    assert marks == dict.fromkeys(("dataset", "rebrac", "mpc", "bc"), (None, None))
    assert notes[:2] == [
        "hopper: whether rebrac is still moving cannot be judged: that takes three training seeds and there are 2",
        "hopper: rebrac is −40.0 beside bc, no verdict: that takes three training seeds and there are 2",
    ]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({}, "there is no learning curve of seeds 0, 1, 2"),
        ({**curves("rebrac", SETTLED), "rebrac-s1": []}, "there is no learning curve of seed 1"),
        (
            curves("rebrac", SETTLED, column="loss"),
            "the learning curve of seeds 0, 1, 2 has fewer than two scores in the last 20 % of updates",
        ),
    ],
)
def test_without_a_curve_a_move_cannot_be_judged(found, reason):
    marks, notes = judged(cells("rebrac", (50, 52, 54)), found)
    assert marks["rebrac"][0] is None
    assert notes == [f"hopper: whether rebrac is still moving cannot be judged: {reason}"]


def test_raw_returns_are_judged_in_their_own_unit():
    own = cells("rebrac", (50, 52, 54), unit="return")  # returns of 500, 520 and 540; the dataset's mean is 250
    marks, notes = judged(own, curves("rebrac", (80, 90, 100), column=RETURN))
    assert marks["rebrac"] == (True, False)
    assert "moved by +90.0 [+65.2, +114.8] over" in notes[0]
    assert judged(own, curves("rebrac", (0, -10, 10), column=RETURN))[0]["rebrac"] == (False, False)


def test_returns_beside_scores_do_not_count():
    found = curves("rebrac", SETTLED)
    for points in found.values():
        for point in points:
            point[RETURN] = 10 * point["step"]
    assert judged(cells("rebrac", (50, 52, 54)), found)[0]["rebrac"][0] is False


def test_a_planner_has_the_word_on_its_own_base():
    own = [
        *(c for variant in ("β=0.1", "β=0.4") for c in cells("rebrac", (50, 52, 54), variant=variant)),
        *(c for variant in ("β=0.1", "β=0.4") for c in cells("rebrac", (60, 62, 64), kind="policy", variant=variant)),
        *cells("bc", (40, 42, 44), kind="policy", variant="of bc"),
    ]
    found = {**curves("rebracβ=0.1", SETTLED), **curves("rebracβ=0.4", (8, 9, 10))}
    marks, notes = judged(own, found)
    moving = [marks[f"{name} (β={b})"][0] for name in ("rebrac", "mpc") for b in (0.1, 0.4)]
    assert moving == [False, True, False, True]
    assert marks["mpc (of bc)"] == (None, None)
    assert "hopper: rebrac (β=0.4) is still moving ‡" in notes[1]


def test_only_bases_that_were_evaluated_themselves_need_a_curve_and_bc_none():
    own = [*cells("bc", (50,)), *cells("iql", (50,), kind="policy"), *cells("rebrac", (50, 52)), *cells("rebrac", (9,))]
    assert base_keys(own) == ["rebrac-s0", "rebrac-s1"]
    assert base_keys([replace(own[2], episodes=None)]) == []


# ---- the table ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(new_records, tmp_path_factory):
    return new_records(tmp_path_factory.mktemp("under_trained"))


def recorded(store, folder, sweep, rises):
    """Scores of 50, 52 and 54, planners of two horizons some points above; ``rises`` by task ("raw": no scores)."""
    units, results, parts, found = [], {}, [], {}
    for name in rises:
        of = task(name, reference=None) if name == "raw" else task(name)
        for seed, score in enumerate((500.0, 520.0, 540.0)):
            for unit, gain in ((baseline(sweep, "rebrac", seed, of), 0.0), *_planned(sweep, seed, of)):
                units.append(unit)
                results[unit.key] = [score + gain - 10, score + gain + 10]
            base = component(sweep, "rebrac", seed, of)
            parts += [base, component(sweep, "reward", seed, of)]
            found[base.key] = curve(rises[name][seed], column=RETURN if name == "raw" else SCORE)
    record(store, sweep, units, results, folder, components=parts, curves=found)


def _planned(sweep, seed, of):
    return [(mpc(sweep, seed, of, horizon=horizon), 50.0 - horizon) for horizon in (1, 3)]


def test_the_table_marks_the_rows_says_why_and_explains_the_mark(store, tmp_path):
    recorded(store, tmp_path, "moving", {"first": (8, 9, 10)})
    table = build_table(store, "moving")
    marks = {row["method"]: row["still_moving"] for row in csv.DictReader(io.StringIO(table.to_csv()))}
    assert marks == {
        "dataset": "",
        "rebrac": "true",
        **{f"mpc H={horizon} M=8 E=1 α=1e-05": "true" for horizon in (1, 3)},
    }
    for shown in (table.to_text(), table.to_markdown()):
        assert "rebrac ‡ " in shown
        assert "mpc H=3 M=8 E=1 α=1e-05 ‡ " in shown
        assert "dataset ‡" not in shown
        assert "first: rebrac is still moving ‡: its score moved by +9.0" in shown
        assert "‡ still moving: the base's score" in shown
    assert max(len(line) for line in table.to_text(100).splitlines()) <= 100
    assert table.verdicts[0].endswith("; rebrac is still moving ‡, so this does not say what a trained policy gains")


def test_a_table_of_settled_bases_has_no_mark_and_no_word_on_it(store, tmp_path):
    recorded(store, tmp_path, "settled", {"first": SETTLED})
    table = build_table(store, "settled")
    assert [row.still_moving for row in table.rows] == [None, False, False, False]
    for shown in (table.to_text(), table.to_markdown(), *table.verdicts):
        assert "‡" not in shown


def test_an_average_is_marked_where_one_of_its_tasks_is(store, tmp_path):
    recorded(store, tmp_path, "average", {"first": SETTLED, "second": (8, 9, 10)})
    table = build_table(store, "average")
    marks = {name: [row.still_moving for row in table.rows if row.task == name] for name in ("first", "average")}
    assert marks == {"first": [None, False, False, False], "average": [None, True, True, True]}
    assert ["‡" in sentence for sentence in table.verdicts] == [False, True, True]


def test_a_task_that_is_in_no_average_marks_none(store, tmp_path):
    recorded(store, tmp_path, "left out", {"raw": (80, 90, 100), "one": SETTLED, "two": SETTLED})
    rows = build_table(store, "left out").rows
    marks = {name: [row.still_moving for row in rows if row.task == name] for name in ("raw", "average")}
    assert marks == {"raw": [None, True, True, True], "average": [None, False, False, False]}


def test_the_verdict_names_the_bases_that_still_move(store, tmp_path):
    units = [baseline("bases", base, seed) for base in ("rebrac", "iql") for seed in range(3)]
    for seed in range(3):
        parts = {"iql": component("bases", "iql", seed).key}
        other = replace(
            mpc("bases", seed), key=f"on-iql-{seed}", method="on iql", name="on-iql", base="iql", parts=parts
        )
        units += [mpc("bases", seed), other]
    gains = {"rebrac": 0.0, "iql": 0.0, "mpc": 10.0, "on-iql": 60.0}
    results = {u.key: [500 + 20 * u.seed + gains[u.name] + of for of in (-10, 10)] for u in units}
    bases = {base: [component("bases", base, seed) for seed in range(3)] for base in ("rebrac", "iql")}
    rises = {"rebrac": (8, 9, 10), "iql": SETTLED}
    found = {part.key: curve(rises[base][part.seed]) for base, parts in bases.items() for part in parts}
    record(store, "bases", units, results, tmp_path, components=[*bases["rebrac"], *bases["iql"]], curves=found)
    (sentence,) = build_table(store, "bases").verdicts
    assert "on iql +6.0" in sentence
    assert sentence.count("‡") == 1
    assert "; rebrac is still moving ‡" in sentence


def test_curves_are_read_of_bases_only_each_once_and_one_that_is_lost_costs_only_the_judgement(
    store, tmp_path, monkeypatch
):
    recorded(store, tmp_path, "lost", {"first": (8, 9, 10)})
    asked, read = [], Records.curves

    def counted(records, components, **how):
        asked.extend(components.index)
        return read(records, components, **how)

    monkeypatch.setattr(Records, "curves", counted)
    assert build_table(store, "lost").rows[1].still_moving is True
    keys = [component("lost", "rebrac", seed, task("first")).key for seed in range(3)]
    assert asked == keys
    run = Records(store).units(keys)["run"][keys[1]]
    Path(urlsplit(run.info.artifact_uri).path, "curve.json").unlink()
    table = build_table(store, "lost")
    assert [row.still_moving for row in table.rows] == [None, None, None, None]
    assert [note for note in table.notes if note.endswith("there is no learning curve of seed 1")]


def test_success_rates_have_intervals_of_proportions():
    fails, wins = [[0.0] * 10], [[100.0] * 10]
    played = [cell("rebrac", 0, *fails), cell("bc", 0, *wins), cell("rebrac", 0, *wins, kind="policy")]
    groups, _ = groups_of(played)
    rows = {group.row.method: group.row for group in groups}
    assert (rows["rebrac"].score_low, rows["rebrac"].score_high) == pytest.approx((0, 27.75), abs=0.01)  # Wilson's
    assert (rows["bc"].score_low, rows["bc"].score_high) == pytest.approx((72.25, 100), abs=0.01)
    assert rows["mpc"].gain_mean == 100
    assert rows["mpc"].gain_low == pytest.approx(52.05, abs=0.01)  # not [100, 100], which the bootstrap gives
