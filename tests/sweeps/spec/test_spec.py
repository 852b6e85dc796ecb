"""The sweep's YAML: what it means, and that everything wrong with it is one line with a place."""

import math
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mpcwdwm.components import COMPONENTS
from mpcwdwm.errors import UserError
from sweeps.plan.methods import baseline_methods, planner_methods
from sweeps.spec.document import parse_document, write_yaml
from sweeps.spec.grid import Grids
from sweeps.spec.names import list_specs
from sweeps.spec.spec import Spec, load_spec
from tests.support.broken_specs import BROKEN, text
from tests.support.parts import BUNDLED as HOPPER


def load(folder: Path, content: str | bytes, **options) -> Spec:
    path = folder / "s.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_spec(path, **options)


# What is wrong


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_yaml_is_one_line_that_names_file_line_and_place(tmp_path: Path, name: str) -> None:
    content, place, says = BROKEN[name]
    with pytest.raises(UserError) as error:
        load(tmp_path, content)
    message = str(error.value)
    assert message.startswith(place)
    assert says in message
    assert "\n" not in message
    assert len(message) < 300


def test_what_is_no_file_or_far_too_long_is_not_read(tmp_path: Path) -> None:
    """A pipe without a writer and a device without an end would be read for ever."""
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    with (tmp_path / "long.yaml").open("wb") as file:
        file.truncate(2**40)  # without blocks on disk
    says = {"folder": "is a folder", "pipe": "is a pipe or a device", "device": "is a pipe or a device", "long": "long"}
    for name, why in says.items():
        with pytest.raises(UserError, match=why):
            load_spec(tmp_path / f"{name}.yaml")
    assert list_specs(tmp_path) == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("planners.mpc.horizon=-1", "--set planners.mpc.horizon=-1: planners.mpc.horizon should be"),
        ("planners.mpc.horizn=1", "--set planners.mpc.horizn=1: unknown key 'horizn' in planners.mpc"),
        ("evaluation.episodes=[", "--set evaluation.episodes=[:"),
        ("evaluation.episodes", "expected key=value"),
        ("name.x=3", "there is nothing to set at 'x'"),
    ],
)
def test_what_is_wrong_with_a_flag_names_the_flag(tmp_path: Path, given: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, text(), sets=[given])
    assert says in str(error.value)


# What it means


def value(word: str) -> object:
    return parse_document(f"v: {word}", "x").data["v"]


def test_numbers_follow_yaml_1_2() -> None:
    read = {word: value(word) for word in ["1e-5", "3e-4", "1e6", "5.", ".5", "-1.5E+3", "0x1f", "010"]}
    assert read == {
        "1e-5": 1e-5, "3e-4": 3e-4, "1e6": 1e6, "5.": 5.0, ".5": 0.5, "-1.5E+3": -1500.0, "0x1f": 31, "010": 10,
    }  # fmt: skip
    assert [value(word) for word in ["no", "on", "1:30", "2026-01-01", "1_000"]] == [
        "no", "on", "1:30", "2026-01-01", "1_000",
    ]  # fmt: skip
    assert [value(word) for word in ["true", "~", "null", "-.inf"]] == [True, None, None, -math.inf]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab: #-'\n\té1e.", max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc1.", min_size=1), inner, max_size=3),
        max_leaves=12,
    )
)
@settings(max_examples=150, deadline=None)
@example(data={"long" * 40 + " " * 20 + "key": "a " * 60 + "   b"})  # where lines are folded, spaces are lost
def test_whatever_is_dumped_as_yaml_is_read_back(data: object) -> None:
    written = write_yaml({"data": data})
    assert parse_document(written, "x").data == {"data": data}


@given(st.text("ab1: #-'\"\n\t[]{},&*!|>%<?~.é\x01", max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_is_data_or_an_error_of_one_line(content: str) -> None:
    try:
        data, message = parse_document(content, "f.yaml").data, ""
    except UserError as error:
        data, message = {}, str(error)
    assert isinstance(data, dict)
    assert not message or re.match(r"f\.yaml(:[0-9]+)?: [^\n]+$", message)


def test_a_merged_mapping_gives_what_the_own_keys_do_not() -> None:
    document = parse_document(
        "a: &a {x: 1,\n  y: [2]}\nb: &b {y: 3, z: 4}\nc:\n  <<: [*a, *b]\n  z: 5\nd: {<<: *a}\n", "f.yaml"
    )
    assert document.data["c"] == {"x": 1, "y": [2], "z": 5}  # the first of a list wins, own keys before all
    assert document.place(("c", "x")) == "f.yaml:1"  # where it was written
    assert document.place(("c", "z"), key=True) == "f.yaml:6"
    document.assign(("c", "y"), "9", "--set")
    assert (document.data["a"]["y"], document.data["d"]["y"]) == ([2], [2])  # a copy, not the same list


def test_every_value_remembers_its_line() -> None:
    document = parse_document("a:\n  b: 1\n  c:\n  - x\n  - {d: 2,\n     e: 3}\n", "f.yaml")
    assert document.place(("a", "c", 1, "e")) == "f.yaml:6"
    assert document.place(("a", "c")) == "f.yaml:4"
    assert document.place(("a", "c"), key=True) == "f.yaml:3"
    assert document.place(("a", "nowhere", "deep")) == "f.yaml:2"  # the nearest part that is there


def test_settings_are_layered_default_then_published_then_sweep_then_overrides(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        "name: a\ntasks: [halfcheetah-medium-v2, hopper-medium-v2, walker2d-medium-v2]\nseeds: 1\n"
        "planners: {mpc: {kind: policy, M: [4, 8]}}\n"
        "components: {rebrac: {steps: 7, critic_bc_coef: 0.5}}\n"
        "overrides:\n"
        "- {tasks: [h*], planners: {mpc: {M: 2}}, components: {rebrac: {steps: 8}}}\n"
        "- {tasks: [hopper*], components: {rebrac: {steps: 9}}}\n",
    )
    half, hopper, walker = spec.tasks
    configs = [task.components["rebrac"][0].config.to_dict() for task in spec.tasks]
    assert [config["steps"] for config in configs] == [8, 9, 7]
    assert [config["critic_bc_coef"] for config in configs] == [0.5, 0.5, 0.5]
    assert [config["actor_bc_coef"] for config in configs] == [0.001, 0.01, 0.05]  # published per task
    assert [len(task.planners["mpc"]) for task in (half, hopper, walker)] == [1, 1, 2]
    # M is an axis somewhere in the sweep, so it tells rows apart everywhere
    assert hopper.planners["mpc"][0].axes == {"rollouts": 2}


def test_a_grid_is_the_product_of_its_axes_the_first_slowest(tmp_path: Path) -> None:
    spec = load(tmp_path, text(planners="{mpc: {kind: policy, E: [1, 2], H: [3, 5], M: [8]}}"))
    choices = spec.tasks[0].planners["mpc"]
    assert [choice.axes for choice in choices] == [
        {"updates": 1, "horizon": 3},
        {"updates": 1, "horizon": 5},
        {"updates": 2, "horizon": 3},
        {"updates": 2, "horizon": 5},
    ]


def test_seeds_are_a_count_or_a_list(tmp_path: Path) -> None:
    assert load(tmp_path, text(seeds="3")).seeds == (0, 1, 2)
    assert load(tmp_path, text(seeds="[5, 2]")).seeds == (5, 2)
    assert load(tmp_path, text(), seeds="4").seeds == (0, 1, 2, 3)
    assert load(tmp_path, text(), seeds="0,4").seeds == (0, 4)
    assert load(tmp_path, text(), seeds="4,").seeds == (4,)
    with pytest.raises(UserError, match="--seeds x: seeds"):
        load(tmp_path, text(), seeds="x")


def test_set_replaces_adds_and_accepts_short_names(tmp_path: Path) -> None:
    sets = ["planners.mpc.H=[2, 4]", "components.rebrac.steps=1e3", "evaluation.episodes=20", "resources.retries=0"]
    spec = load(tmp_path, text("resources:\n"), sets=sets)
    assert [c.config.horizon for c in spec.tasks[0].planners["mpc"]] == [2, 4]  # type: ignore[attr-defined]
    assert spec.tasks[0].components["rebrac"][0].config.to_dict()["steps"] == 1000
    assert (spec.evaluation.episodes, spec.resources.retries) == (20, 0)


SPLINE = """
from mpcwdwm.config import Int, setting
from mpcwdwm.planning import Planner, PlannerConfig


class SplineConfig(PlannerConfig):
    kind: str = setting("spline_planner:Spline", "kind of planner")
    knots: Int = setting(3, "knots of a plan", alias="K", ge=1)
    hops: Int = setting(1, "a field whose short name is another planner's, too", alias="H", ge=1)
    M: Int = setting(1, "a field called like another planner's short name", ge=1)


class Spline(Planner):
    config_class = SplineConfig
"""


def test_a_planner_from_elsewhere_states_its_own_short_names(tmp_path: Path) -> None:
    (tmp_path / "spline_planner.py").write_text(SPLINE)
    planners = "{spline: {kind: 'spline_planner:Spline', K: [2, 4], H: 5, M: 6}, mpc: {H: 7}}"
    extra = "overrides: [{tasks: [hopper*], planners: {spline: {K: [2, 4, 8]}}}]"
    spec = load(tmp_path, text(extra, planners=planners))
    methods = planner_methods(spec, spec.tasks[0], "spline")
    assert [method.label for method in methods] == ["spline K=2", "spline K=4", "spline K=8"]
    config = spec.tasks[0].planners["spline"][2].config.to_dict()
    assert (config["knots"], config["hops"], config["M"]) == (8, 5, 6)
    assert spec.tasks[0].planners["mpc"][0].config.to_dict()["horizon"] == 7
    again = load(tmp_path, text(planners=planners), sets=["planners.spline.K=[1, 3]", "planners.spline={kind: none}"])
    assert [choice.config.kind for choice in again.tasks[0].planners["spline"]] == ["none"]
    with pytest.raises(UserError, match="has both 'K' and 'knots'"):
        load(tmp_path, text(planners="{spline: {kind: 'spline_planner:Spline', K: 2, knots: 2}}"))


def test_a_mapping_given_by_a_flag_may_use_short_names(tmp_path: Path) -> None:
    spec = load(tmp_path, text(), sets=["planners.mpc={H: [2, 4], M: 8}"])
    assert [choice.axes for choice in spec.tasks[0].planners["mpc"]] == [{"horizon": 2}, {"horizon": 4}]
    with pytest.raises(UserError, match=r"^--set planners.mpc=\{H: -1\}: planners.mpc.horizon should be"):
        load(tmp_path, text(), sets=["planners.mpc={H: -1}"])


def test_an_empty_section_counts_as_left_out(tmp_path: Path) -> None:
    sections = ("components", "overrides", "evaluation", "compute", "resources", "tracking")
    plain, empty = load(tmp_path, text()), load(tmp_path, text("".join(f"{name}:\n" for name in sections)))
    for field in ("tasks", "components", "evaluation", "compute", "resources", "tracking_uri"):
        assert getattr(empty, field) == getattr(plain, field)
    with pytest.raises(UserError, match="missing key 'seeds'"):
        load(tmp_path, text(seeds=""))


def test_tasks_can_be_filtered_without_breaking_overrides_of_the_others(tmp_path: Path) -> None:
    content = text(
        "overrides: [{tasks: [hopper-medium-v2], planners: {mpc: {H: 9}}}]", tasks=f"[{HOPPER}, hopper-medium-v2]"
    )
    assert [task.name for task in load(tmp_path, content, tasks=["*mini*"]).tasks] == [HOPPER]
    with pytest.raises(UserError, match="--tasks walker"):
        load(tmp_path, content, tasks=["walker*"])


def test_paths_are_relative_to_the_yaml_whatever_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    task = "{name: mine, dataset: data/x.hdf5, env: Walker2d-v4}"
    spec = load(tmp_path, text("tracking: {uri: 'sqlite:///runs/m.db'}\nstorage: out", tasks=f"[{task}]"))
    assert spec.tasks[0].task.path == tmp_path / "data/x.hdf5"
    assert spec.tasks[0].task.termination == "walker2d"
    assert (spec.storage, spec.tracking_uri) == (str(tmp_path / "out"), f"sqlite:///{tmp_path}/runs/m.db")
    remote = load(tmp_path, text("storage: s3://bucket/x\ntracking: {uri: 'http://host:5000'}"))
    assert (remote.storage, remote.tracking_uri) == ("s3://bucket/x", "http://host:5000")
    local = load(tmp_path, text("storage: file:///data/my%20runs"))  # a folder, and its default records in it
    assert (local.storage, local.tracking_uri) == ("/data/my runs", "sqlite:////data/my runs/mlflow.db")


def test_a_pattern_stands_for_the_registered_tasks_that_match(tmp_path: Path) -> None:
    spec = load(tmp_path, text(tasks='["hopper-*-expert-v2", antmaze-umaze-v2]'))
    assert [task.name for task in spec.tasks] == ["hopper-medium-expert-v2", "antmaze-umaze-v2"]
    with pytest.raises(UserError, match=r"s\.yaml:2: the pattern 'hoper-\*' matches no registered task"):
        load(tmp_path, text(tasks='["hoper-*"]'))
    with pytest.raises(UserError, match=r"s\.yaml:2: task 'hopper-medium-v2' is listed twice"):
        load(tmp_path, text(tasks='[hopper-medium-v2, "hopper-m*-v2"]'))


def test_episodes_may_be_shortened_to_try_a_sweep_out(tmp_path: Path) -> None:
    tasks = f"[{HOPPER}, antmaze-umaze-v2, {{name: mine, dataset: x.hdf5, env: Hopper-v4, max_episode_steps: 9}}]"
    spec = load(tmp_path, text(tasks=tasks), sets=["evaluation.max_episode_steps=20"])
    assert [task.task.max_episode_steps for task in spec.tasks] == [20, 20, 9]
    assert load(tmp_path, spec.to_yaml()).tasks == spec.tasks
    with pytest.raises(UserError, match=r"max_episode_steps should be greater than or equal to 1"):
        load(tmp_path, text(tasks=tasks), sets=["evaluation.max_episode_steps=0"])


def test_the_resolved_yaml_loads_to_the_same_sweep_from_anywhere(tmp_path: Path) -> None:
    extra = (
        "overrides:\n- {tasks: [hopper-m*, mine], planners: {mpc: {M: [2, 4]}}}\n"
        "- {tasks: [mine], components: {iql: {steps: 5}}}"
    )
    tasks = f"[{HOPPER}, {{name: mine, dataset: x.hdf5, env: Hopper-v4}}]"
    spec = load(tmp_path, text(extra, tasks=tasks), sets=["components.iql.steps=[3, 4]"], tasks=[HOPPER], seeds="1,5")
    (tmp_path / "elsewhere").mkdir()
    again = load(tmp_path / "elsewhere", spec.to_yaml())
    for field in ("name", "tasks", "seeds", "baselines", "evaluation", "resources", "storage", "tracking_uri"):
        assert getattr(again, field) == getattr(spec, field)
    assert len(again.tasks[0].components["iql"]) == 2


def test_every_grid_is_expanded_once_from_the_file_to_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expanded: Counter[tuple[str, str]] = Counter()
    points = Grids.points

    def counted(self: Grids, owner: tuple[str, str], *rest: Any) -> Any:
        expanded[owner] += 1
        return points(self, owner, *rest)

    monkeypatch.setattr(Grids, "points", counted)
    planners = "{mpc: {M: [2, 4]}, other: {kind: action}}"
    spec = load(tmp_path, text(tasks=f"[{HOPPER}, hopper-medium-v2]", planners=planners))
    for task in spec.tasks:  # what the plan does with them
        assert baseline_methods(spec, task)
        assert all(planner_methods(spec, task, name) for name in spec.planners)
    parts = [("components", name) for name in COMPONENTS]
    assert expanded == dict.fromkeys([*parts, ("planners", "mpc"), ("planners", "other")], len(spec.tasks))


def test_a_planner_without_a_kind_is_the_method_itself(tmp_path: Path) -> None:
    spec = load(tmp_path, text(planners="{mpc: {H: 2}}"))
    (choice,) = spec.tasks[0].planners["mpc"]
    assert (choice.config.kind, choice.config.horizon) == ("policy", 2)


def test_kinds_of_world_model_are_an_axis_like_any_other(tmp_path: Path) -> None:
    extra = "components: {world_model: {kind: [diffusion, flow], hidden_dim: 32, denoising_steps: [2, 4]}}"
    spec = load(tmp_path, text(extra))
    choices = spec.tasks[0].components["world_model"]
    assert [choice.axes for choice in choices] == [
        {"kind": kind, "denoising_steps": steps} for kind in ("diffusion", "flow") for steps in (2, 4)
    ]
    assert [type(choice.config).__name__ for choice in choices] == ["DiffusionConfig"] * 2 + ["FlowConfig"] * 2
    assert {choice.config.to_dict()["hidden_dim"] for choice in choices} == {32}


def test_an_axis_of_one_tasks_kind_does_not_trouble_another_tasks(tmp_path: Path) -> None:
    extra = (
        "overrides:\n"
        "- {tasks: [hopper-medium-v2], components: {world_model: {kind: mlp, ensemble: [1, 5]}}}\n"
        "- {tasks: [hopper-medium-replay*], components: {world_model: {kind: meanflow}}}\n"
    )
    spec = load(tmp_path, text(extra, tasks=f"[{HOPPER}, hopper-medium-v2]"))
    mini, medium = spec.tasks
    assert [choice.axes for choice in mini.components["world_model"]] == [{}]
    assert [choice.axes for choice in medium.components["world_model"]] == [{"ensemble": 1}, {"ensemble": 5}]
