"""Runs with options: which are parts of the sweep, with a name of their own, and which are the whole sweep."""

from pathlib import Path

import pytest

from sweeps.spec.names import part_name
from sweeps.spec.spec import Spec, load_spec
from tests.support.broken_specs import text


@pytest.fixture
def load(tmp_path: Path):
    (tmp_path / "s.yaml").write_text(text(name="mine", seeds=3))

    def loaded(**options: object) -> Spec:
        return load_spec(tmp_path / "s.yaml", folder=tmp_path, **options)

    return loaded


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        ({"seeds": "1"}, "mine/seeds-1-"),
        ({"seeds": "0,4"}, "mine/seeds-0-4-"),
        ({"sets": ["evaluation.episodes=20"]}, "mine/evaluation.episodes-20-"),
        ({"sets": ["compute.tf32=true"]}, "mine/compute.tf32-true-"),
        ({"seeds": "1", "sets": ["evaluation.episodes=20", "resources.retries=0"]}, "mine/seeds-1-evaluation."),
    ],
)
def test_options_that_change_a_result_make_a_part(load, options: dict[str, object], begins: str) -> None:
    spec = load(**options)
    assert spec.record.startswith(begins)
    assert spec.name == "mine"
    assert load(**options).record == spec.record


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seeds": "3"},
        {"seeds": "0,1,2"},
        {"tasks": ["*"]},
        {"sets": ["resources.retries=0", "storage=elsewhere", "compute.capture=eager", "description=x"]},
    ],
)
def test_options_that_change_no_result_leave_it_whole(load, options: dict[str, object]) -> None:
    assert load(**options).record == "mine"


def test_a_sweep_with_a_name_of_its_own_is_whole(load) -> None:
    assert load(seeds="1", sets=["name=trial"]).record == "trial"


def test_the_name_of_a_part_follows_from_its_options_alone(load) -> None:
    one, other = (
        load(sets=pair).record for pair in (["seeds=2", "evaluation.episodes=5"], ["evaluation.episodes=5", "seeds=2"])
    )
    assert one == other
    assert part_name("a", ["--tasks a*"]) != part_name("a", ["--tasks a?"])
    long = part_name("a", [f"--set planners.mpc.horizon={list(range(200))}"])
    assert len(long) < 60
