"""The sweeps that come with the package: they load, are planned, and leave devices to the machine."""

import functools
import shutil
from pathlib import Path

import pytest

from mpcwdwm.data import TASKS
from sweeps.plan.plan import Plan, build_plan, count_cells
from sweeps.spec.names import packaged_specs
from sweeps.spec.schema import Share
from sweeps.spec.spec import load_spec
from tests.support.d4rl_standins import stand_in
from tests.support.plans import FakeStore

GYM, MAZES = 18, 6  # sets
CELLS = {  # counted by hand: five seeds of what is reported, one of what is chosen from
    "table1": GYM * (5 * (3 + 3) + 4),  # rebrac, iql, bc; v1, v1-tuned, robust; four step sizes
    "table2": 9 * (5 * (3 + 4) + 4),  # diffuser besides
    "table3": MAZES * (5 * (3 + 3) + 4),
    "tables_v2": (GYM + MAZES) * (5 * (3 + 2) + 4),
    "full": (GYM + MAZES) * (5 * (3 + 8) + 4 + 3),  # three step sizes of the planner `action` besides
    "ablation_h": 3 * 5 * (1 + 6 * 2 + 5),
    "ablation_m": 3 * 5 * (1 + 5 * 2 + 5),
    "ablation_e": 3 * 5 * (1 + 4 * 2 + 3),
    "ablation_step_size": 3 * 5 * (1 + 5 * 2 + 5),
    "world_models": (GYM + MAZES) * 5 * (1 + 4),
}
STUDIES = (
    *("hopper", "hopper-diffusion", "hopper-meanflow", "mazes", "robots"),
    *("rows", "rows-mazes", "rows-models", "rows-replication"),
    *("rows-replication-more", "rows-steps", "rows-strong", "rows-tuned"),
)
named = pytest.mark.parametrize("name", [name for name, _ in packaged_specs()])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder, with a file for every task of every sweep."""
    folder = tmp_path_factory.mktemp("specs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D4RL_DATASET_DIR", str(folder / "d4rl"))
        for task in TASKS.values():
            if task.source == "d4rl":
                stand_in(task, episodes=60, length=20)  # some are held out
    (folder / "data").mkdir()
    for name in STUDIES:
        for each in load_spec(name, folder=folder).tasks:
            robot = next(task for task in TASKS.values() if task.env_id == each.task.env_id)
            source = robot.path or folder / "d4rl" / str(robot.url).rsplit("/", 1)[1]
            shutil.copy(source, str(each.task.path))
    return folder


@pytest.fixture(autouse=True)
def _own_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(folder / "d4rl"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


@functools.cache
def plan_of(name: str, folder: Path) -> Plan:
    return build_plan(load_spec(name, folder=folder), FakeStore())


def test_there_is_one_of_every_table_and_ablation() -> None:
    assert {name for name, _ in packaged_specs()} == {*CELLS, *STUDIES}
    assert all(path.stem == name for name, path in packaged_specs())


@named
def test_it_is_planned_and_its_cells_are_counted_without_data(folder: Path, name: str) -> None:
    spec = load_spec(name, folder=folder)
    assert spec.description
    planned = plan_of(name, folder)
    assert count_cells(spec) == len(planned.cells) + planned.awaiting_choice
    assert count_cells(spec) == CELLS.get(name, count_cells(spec))
    assert not any("no gain over it" in notice or "no method of this sweep" in notice for notice in planned.notices)


@named
def test_it_leaves_devices_to_the_machine(folder: Path, name: str) -> None:
    resources = load_spec(name, folder=folder).document.data.get("resources")
    assert resources is None
    assert Share().gpus is None


def test_the_tables_are_of_the_papers_sets(folder: Path) -> None:
    sets = {name: {task.name for task in load_spec(name, folder=folder).tasks} for name in CELLS}
    papers = {name for name, task in TASKS.items() if task.source == "d4rl" and not name.startswith("maze2d")}
    assert sets["full"] == sets["tables_v2"] == sets["world_models"] == papers
    assert sets["table3"] == {name for name in sets["full"] if name.startswith("antmaze")}
    assert sets["table1"] == sets["full"] - sets["table3"]
    kinds = ("medium-v2", "medium-replay-v2", "medium-expert-v2")
    assert sets["table2"] == {name for name in sets["table1"] if name.split("-", 1)[1] in kinds}


def test_the_readings_of_the_paper_are_as_known(folder: Path) -> None:
    """Independent readings of both versions: H, E, M and step sizes."""
    for name, row, known in (
        ("table1", "v1", (5, 5, 10, {1e-3})),
        ("table3", "v1", (5, 5, 10, {1e-3})),
        ("tables_v2", "v2", (5, 1, 4096, {5e-7, 5e-6, 5e-5, 5e-4})),
    ):
        for task in load_spec(name, folder=folder).tasks:
            configs = [choice.data for choice in task.planners[row]]
            assert {(each["horizon"], each["updates"], each["rollouts"]) for each in configs} == {known[:3]}
            assert {each["step_size"] for each in configs} == known[3]
            kind = task.components["world_model"][0].data["kind"]
            assert kind == ("meanflow" if name == "tables_v2" else "diffusion")


def test_the_method_and_our_preset_are_tuned_with_equal_effort_on_seeds_and_starts_that_are_not_reported(
    folder: Path,
) -> None:
    spec = load_spec("rows-tuned", folder=folder)
    select = spec.evaluation.select
    assert select is not None
    assert not set(select.seeds) & set(spec.seeds)
    assert select.env_seed != spec.evaluation.env_seed
    for task in spec.tasks:
        assert {name: len(choices) for name, choices in task.planners.items()} == dict.fromkeys(task.planners, 8)


def test_a_table_trains_nothing_that_another_in_the_same_storage_has_trained(folder: Path) -> None:
    tables = ("table1", "table2", "table3", "full")
    keys = {name: {unit.key for unit in plan_of(name, folder).components} for name in tables}
    assert {key.split("-")[0] for key in keys["table2"] - keys["table1"]} == {"diffuser"}
    assert keys["table1"] | keys["table2"] | keys["table3"] < keys["full"]
