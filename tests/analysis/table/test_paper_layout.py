"""Tables in the paper's layout: where a number stands, averages, ablations, what is bold."""

import csv
import io
import re
from dataclasses import replace

import numpy as np
import pytest

from analysis.rendering import Strong
from analysis.table.averages import AVERAGE, average_groups
from analysis.table.comparison import Table, build_table
from analysis.table.paper_layout import paper_grids, section_of
from analysis.table.published_scores import PAPERS, methods_named, published_average, published_scores
from analysis.table.rows import groups_of
from mpcwdwm.errors import UserError
from tests.support.recorded_sweeps import baseline, mpc, record, task
from tests.support.simulated_sweeps import of_table

HOPPER, MAZE = ("first", "second"), ("maze-umaze", "maze-medium-play")
MAZES = ("medium-play", "medium-diverse", "large-play", "large-diverse")
SEEDS = range(4)


def rows_of(task, gains, env_id="Hopper-v4", seeds=SEEDS):
    """Rows of rebrac and of methods that gain so much over it, name → (seeds,) points; paired episodes."""
    rng = np.random.default_rng(sum(map(ord, task)))
    base = 40 + 5 * np.arange(len(seeds))[:, None] + 3 * rng.normal(size=(len(seeds), 6))
    about = {"task": task, "env_id": env_id}
    cells = of_table(base, "rebrac", **about)
    for method, gain in gains.items():
        kind = "none" if method == "bc" else "policy"
        own = base + np.reshape(gain, (-1, 1))
        named = {"method": method, "name": method.split()[0]}
        cells += of_table(own, "bc" if method == "bc" else "rebrac", kind=kind, **named, **about)
    return groups_of(cells)[0]


@pytest.fixture(scope="module")
def table():
    """A comparison of rebrac, bc and robust on two domains, and a grid of three horizons."""
    gains = {"bc": -30.0, **{f"mpc H={h}": 1.0 * h for h in (1, 2, 12)}, "robust": 20.0 + np.arange(4)}
    groups = {name: rows_of(name, gains) for name in HOPPER}
    groups |= {name: rows_of(name, gains, "mpcwdwm/AntMaze-umaze-v2") for name in MAZE}
    groups[AVERAGE] = average_groups(groups)[0]
    return Table("paper", [group.row for rows in groups.values() for group in rows], groups=groups)


def shown(grid):
    (rows,) = section_of(grid).tables
    return {row[grid.corner]: row for row in rows}


def test_rows_are_tasks_by_domain_with_averages_and_columns_methods(table):
    comparison, ablation = paper_grids(table.groups)
    assert comparison.columns == ["rebrac", "bc", "robust"]
    assert [line.label for line in comparison.lines] == [
        *("first", "second", "Gym-MuJoCo average"),
        *("maze-umaze", "maze-medium-play", "AntMaze average", "average"),
    ]
    assert sorted(section_of(comparison).ruled) == [2, 3, 5]
    assert ablation.name == "mpc"
    assert sorted(ablation.columns) == sorted(line.label for line in comparison.lines)


def test_a_number_is_the_rows_mean_with_half_of_its_interval_over_new_seeds(table):
    comparison, ablation = paper_grids(table.groups)
    (row,) = [row for row in table.rows if (row.task, row.method) == ("first", "robust")]
    half = (row.score_seed_high - row.score_seed_low) / 2
    assert shown(comparison)["first"]["robust"] == f"{row.score_mean:.1f} ± {half:.1f}"
    assert shown(ablation)["H=12"]["first"] == "+12.0 ± 0.0"


def test_a_domains_average_weighs_its_tasks_alike(table):
    comparison, _ = paper_grids(table.groups)
    entries = {line.label: line.entries[0] for line in comparison.lines}
    members = [entries["first"].mean, entries["second"].mean]
    assert entries["Gym-MuJoCo average"].mean == pytest.approx(np.mean(members))
    four = [entries[name].mean for name in ("first", "second", "maze-umaze", "maze-medium-play")]
    assert entries["average"].mean == pytest.approx(np.mean(four))
    (overall,) = [row for row in table.rows if (row.task, row.method) == ("average", "rebrac")]
    assert entries["average"].mean == pytest.approx(overall.score_mean)
    assert (entries["average"].low, entries["average"].high) == (overall.score_seed_low, overall.score_seed_high)


def test_what_is_not_distinguishable_from_the_best_is_bold(table):
    comparison, ablation = paper_grids(table.groups)
    for row in shown(comparison).values():
        assert [isinstance(row[name], Strong) for name in comparison.columns] == [False, False, True]
    assert [isinstance(cell, Strong) for cell in shown(ablation)["H=12"].values()] == [
        False,
        *[True] * 7,
    ]
    assert "Bold: not distinguishable from the best." in comparison.caption
    assert "number of settings" in ablation.caption


def test_the_csv_has_every_number_once(table):
    rows = list(csv.DictReader(io.StringIO(table.render("csv"))))
    assert len(rows) == 7 * 3 + 3 * 7
    (found,) = [row for row in rows if (row["table"], row["row"], row["column"]) == ("comparison", "first", "bc")]
    assert (found["value"], found["best"], found["status"]) == ("score", "False", "ok")
    (gain,) = [row for row in rows if (row["table"], row["row"], row["column"]) == ("mpc", "H=2", "first")]
    assert float(gain["mean"]) == pytest.approx(2.0)


def test_many_tasks_leave_the_ablation_its_averages():
    groups = {f"task-{i}": rows_of(f"task-{i}", {"mpc H=1": 0.0, "mpc H=3": 1.0}) for i in range(7)}
    _, ablation = paper_grids(groups)
    assert ablation.columns == ["average"]
    assert [line.label for line in ablation.lines] == ["H=1", "H=3"]


def test_published_and_missing_scores_and_single_seeds_are_shown_for_what_they_are(new_records, tmp_path):
    store, of = new_records(tmp_path), task("hopper-medium-replay-v2", source="d4rl")
    robust = replace(mpc("odd", 0, of), method="robust", name="robust")
    cells = [baseline("odd", "rebrac", 0, of), baseline("odd", "iql", 0, of), robust]
    failed = {cells[1].key: "out of memory"}
    record(store, "odd", cells, {cells[0].key: [100, 200], cells[2].key: [300, 400]}, tmp_path, failed=failed)
    odd = build_table(store, "odd")
    (comparison,) = paper_grids(odd.groups)
    assert shown(comparison)["hopper-medium-replay-v2"] == {
        "task": "hopper-medium-replay-v2",
        "rebrac": "15.0",
        "iql": "failed",
        "robust": "35.0",
        "ReBRAC (published)": "98.1 ± 5.3",
        "IQL (published)": "89.6 ± 13.2",
        "MPCwDWM (published)": "103.1 †",
    }
    for said in ("Below three training seeds there is no interval", "they are not compared", "†: second-hand"):
        assert said in comparison.caption
    assert "Bold" not in comparison.caption
    assert any("out of memory" in note for note in odd.notes)


def test_a_planner_with_settings_of_its_own_on_each_task_is_one_column():
    first, second = rows_of("first", {"mpc H=3": np.arange(4.0)}), rows_of("second", {"mpc H=5": 2 * np.arange(4.0)})
    (comparison,) = paper_grids({"first": first, "second": second})
    assert comparison.columns == ["rebrac", "mpc"]
    assert "One cell for each task, with settings of its own: mpc." in comparison.caption
    base, ours = comparison.lines[-1].entries
    assert comparison.lines[-1].label == "average"
    assert ours.mean - base.mean == pytest.approx((1.5 + 3.0) / 2)


def test_other_published_methods_have_columns_and_sources_on_request(new_records, tmp_path):
    store, of = new_records(tmp_path), task("hopper-medium-replay-v2", source="d4rl")
    cells = [baseline("papers", "rebrac", 0, of)]
    record(store, "papers", cells, {cells[0].key: [100, 200]}, tmp_path)
    table = build_table(store, "papers")
    page = table.render("markdown", published=("TD3+BC", "CQL", "Diffuser"))
    header = next(line for line in page.splitlines() if line.startswith("| task"))
    assert [name.strip() for name in header.split("|")[1:-1]] == [
        *("task", "rebrac", "TD3+BC (published)", "CQL (published)", "Diffuser (published)"),
    ]
    assert "TD3+BC (published): arXiv:2305.09836 (ReBRAC) Table 2" in page
    assert "copied there from An et al. (2021)" in page
    assert "IQL (published)" not in page
    assert "published" not in table.render("markdown", published=())
    assert [row.method for row in table.rows if row.kind == "published"] == [
        *("ReBRAC (published)", "IQL (published)", "MPCwDWM (published)"),
    ]


def test_published_tables_are_whole_and_their_averages_those_of_their_rows():
    gym = [
        f"{robot}-{kind}-v2"
        for robot in ("halfcheetah", "hopper", "walker2d")
        for kind in ("random", "medium", "expert", "medium-expert", "medium-replay", "full-replay")
    ]
    nine = [name for name in gym if re.search(r"-medium(-replay|-expert)?-v2", name)]
    mazes = [f"antmaze-{maze}-v2" for maze in ("umaze", "umaze-diverse", *MAZES)]
    own = {score.method: score.mean for score in published_average(gym)}
    of_mazes = {score.method: score.mean for score in published_average(mazes)}
    for method in ("TD3+BC", "IQL", "CQL", "SAC-RND", "ReBRAC"):
        for tasks, average in ((gym, own), (mazes, of_mazes)):
            found = [score.mean for name in tasks for score in published_scores(name, [method])]
            assert len(found) == len(tasks)
            assert np.mean(found) == pytest.approx(average[method], abs=0.1)  # printed ones are also cut off
    printed = {"DT": 74.7, "TT": 78.9, "MOPO": 42.1, "MOReL": 72.9, "MBOP": 47.8, "Diffuser": 77.5}
    for method, average in printed.items():
        found = [score.mean for name in nine for score in published_scores(name, [method])]
        assert (len(found), np.mean(found)) == (9, pytest.approx(average, abs=0.06))


def test_methods_of_papers_are_named_in_any_case_and_a_wrong_one_is_answered():
    assert methods_named("td3+bc, Diffuser") == ("TD3+BC", "Diffuser")
    assert (methods_named("all"), methods_named("none")) == (PAPERS, ())
    with pytest.raises(UserError, match=r"no scores of 'Difuser' \(did you mean 'Diffuser'\?\)"):
        methods_named("Difuser")
