"""`mpcwdwm table` and `mpcwdwm compare` as users meet them, on a recorded sweep."""

import pytest
from typer.testing import CliRunner

from analysis.runs import Records
from cluster.store import open_store
from mpcwdwm.errors import UserError
from sweeps.cli import app
from sweeps.records.tracker import Tracker
from sweeps.result_commands import print_table
from sweeps.spec_argument import load_named
from tests.support.recorded_sweeps import baseline, mpc, record

RUNNER = CliRunner()
HEAD = "tasks: [hopper-medium-replay-mini-ppo-v0]\nseeds: 3\nbaselines: [rebrac]\nstorage: runs\n"


@pytest.fixture(scope="module")
def folder(new_records, tmp_path_factory):
    """A folder with the YAML of a sweep that is recorded: rebrac, and a planner that gains 2 points."""
    folder = tmp_path_factory.mktemp("commands")
    store = new_records(folder)
    cells = [unit for seed in range(3) for unit in (baseline("shown", "rebrac", seed), mpc("shown", seed))]
    results = {unit.key: [100.0 + unit.seed + (20 if unit.planner else 0), 200.0] for unit in cells}
    record(store, "shown", cells, results, folder)
    (folder / "shown.yaml").write_text(f'name: shown\n{HEAD}tracking: {{uri: "{store}"}}\n')
    return folder


def mpcwdwm(*arguments):
    return RUNNER.invoke(app, list(map(str, arguments)), catch_exceptions=False)


@pytest.mark.parametrize(
    ("form", "begins", "has"),
    [
        ("markdown", "# shown\n\n## Comparison\n", "| hopper-mini-v0 |"),
        ("latex", "% needs \\usepackage{booktabs,graphicx}\n", r"\label{tab:shown-comparison}"),
        ("csv", "table,row,column,value,mean,", "comparison,hopper-mini-v0,rebrac,score,15.05,"),
        ("html", "<!doctype html>", '<th scope="row">hopper-mini-v0</th>'),
    ],
)
def test_a_table_is_printed_in_the_papers_layout(folder, form, begins, has):
    ended = mpcwdwm("table", folder / "shown.yaml", "--format", form)
    assert ended.exit_code == 0
    assert ended.stdout.startswith(begins)
    assert has in ended.stdout
    assert "table.csv" in ended.stderr  # what lies beside the results is renewed, too


def test_the_terminal_shows_gains_unless_the_papers_layout_is_asked_for(folder):
    long, paper = mpcwdwm("table", folder / "shown.yaml"), mpcwdwm("table", folder / "shown.yaml", "--layout", "paper")
    assert "gain [95 %]" in long.stdout
    assert "gain [95 %]" not in paper.stdout
    assert paper.stdout.startswith("Comparison\n")


def test_a_table_is_written_to_a_file_and_the_path_printed(folder, tmp_path):
    out = tmp_path / "new" / "table.tex"
    ended = mpcwdwm("table", folder / "shown.yaml", "--format", "latex", "--layout", "long", "--out", out)
    assert ended.stdout == f"{out}\n"
    assert r"\shortstack[r]{gain, new \\ seeds}" in out.read_text()
    with pytest.raises(UserError, match="cannot write"):
        mpcwdwm("table", folder / "shown.yaml", "--out", folder)


def test_published_columns_belong_to_the_papers_layout(folder):
    with pytest.raises(UserError, match="add --layout paper"):
        mpcwdwm("table", folder / "shown.yaml", "--published", "all")
    ended = mpcwdwm("table", folder / "shown.yaml", "--published", "TD3+BC", "--layout", "paper")
    assert ended.exit_code == 0
    assert "published" not in ended.stdout  # this dataset is not D4RL's


def test_two_commits_are_compared_and_a_wrong_one_is_answered(folder):
    ended = mpcwdwm("compare", f"{folder / 'shown.yaml'}@c0ffee", folder / "shown.yaml")
    assert ended.exit_code == 0
    assert "A is shown@c0ffee, B is shown" in ended.stdout
    assert "2 of 2 rows are the same records" in ended.stdout
    with pytest.raises(UserError, match="sweep 'shown' recorded no cell at commit 'abcd'"):
        mpcwdwm("compare", folder / "shown.yaml", f"{folder / 'shown.yaml'}@abcd")


def test_after_a_run_mlflow_shows_table_figures_and_gains_and_is_not_written_again(folder, monkeypatch):
    spec = load_named(str(folder / "shown.yaml"))
    print_table(spec, computed=True)
    shown = {file.name for file in folder.glob("mlartifacts/*/artifacts/report/*")}
    assert {"table.md", "table.csv"} <= shown
    runs = Records(spec.tracking_uri).units([mpc("shown", seed).key for seed in range(3)])
    assert runs["gain"].tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert (runs["gain_low"] < 1.0).all()
    amended = []
    monkeypatch.setattr(Tracker, "amend", lambda *a: amended.append(a))
    print_table(spec, computed=False)
    assert not amended
    print_table(spec, computed=True)
    assert len(amended) == 1


def test_the_table_of_the_whole_says_which_parts_were_run(folder, tmp_path):
    before = mpcwdwm("table", folder / "shown.yaml").stderr
    assert "runs with options" not in before
    open_store(str(folder / "runs")).save_sweep_file("shown/seeds-1-3fa2b1", "spec.yaml", "name: shown")
    assert "runs with options have their own records" in (after := mpcwdwm("table", folder / "shown.yaml").stderr)
    assert f"{folder}/runs/sweeps/shown: seeds-1-3fa2b1\n" in after
