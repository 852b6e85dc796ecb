"""Which YAML a name means: a file, a sweep of the working folder, one that comes with the package; in that order."""

from pathlib import Path

import pytest

from cluster.store import open_store
from mpcwdwm.errors import UserError
from sweeps.spec.names import PACKAGED, find_spec, list_specs, packaged_in_use
from sweeps.spec.spec import load_spec
from tests.support.broken_specs import text


def test_a_sweep_is_found_by_its_name_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(text(name="first"))
    (tmp_path / "two.yml").write_text(text(name="second"))
    (tmp_path / "other.yaml").write_text("services: [a]\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    assert [name for name, _ in list_specs(tmp_path)] == ["first", "second"]
    assert load_spec("second", folder=tmp_path).path.name == "two.yml"
    (tmp_path / "three.yaml").write_text(text(name="first"))
    with pytest.raises(UserError, match=r"one\.yaml and three\.yaml|three\.yaml and one\.yaml"):
        load_spec("first", folder=tmp_path)


def test_a_packaged_sweep_is_found_by_name_and_its_paths_count_from_the_working_folder(tmp_path: Path) -> None:
    spec = load_spec("table3", folder=tmp_path)
    assert spec.path == PACKAGED / "table3.yaml"
    assert spec.storage == str(tmp_path / "runs")
    assert spec.tracking_uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    own_data = load_spec("hopper", folder=tmp_path)
    assert own_data.tasks[0].task.path == tmp_path / "data" / "hopper-medium-ppo-v0.hdf5"


def test_given_as_a_file_its_paths_count_from_its_folder(tmp_path: Path) -> None:
    spec = load_spec(PACKAGED / "table3.yaml", folder=tmp_path)
    assert spec.storage == str(PACKAGED / "runs")


def test_what_lies_in_the_folder_wins(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text(name="table3"))
    assert find_spec("table3", tmp_path).path == tmp_path / "mine.yaml"  # a sweep of that name
    (tmp_path / "table3").write_text(text(name="another"))
    assert load_spec("table3", folder=tmp_path).name == "another"  # a file of that name


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("frist", "did you mean 'first'"),
        ("tabel3", "did you mean 'table3'"),
        ("ablation_steps", "did you mean 'ablation_step_size'"),
        ("nothing-like-it", "`mpcwdwm sweep specs` lists those"),
        ("firts.yaml", r"firts\.yaml: there is no such file \(did you mean 'first\.yaml'\?\)"),
        ("absent.yaml", r"absent\.yaml: there is no such file$"),  # though as much of "absent.yaml" is in others' names
        ("four/five.yaml", r"four/five\.yaml: there is no such file$"),
        ("table3.yaml", "'table3' without .yaml is a sweep that comes with mpcwdwm"),
    ],
)
def test_an_unknown_name_is_answered_with_the_closest(tmp_path: Path, given: str, says: str) -> None:
    (tmp_path / "first.yaml").write_text(text(name="first"))
    with pytest.raises(UserError, match=says):
        load_spec(given, folder=tmp_path)


def test_packaged_sweeps_that_were_run_in_a_folder_are_known_there(tmp_path: Path) -> None:
    assert packaged_in_use(tmp_path) == []
    open_store(str(tmp_path / "runs")).save_sweep_file("table3", "table.csv", "")
    open_store(str(tmp_path / "runs")).save_sweep_file("of-my-own", "table.csv", "")
    assert packaged_in_use(tmp_path) == ["table3"]
