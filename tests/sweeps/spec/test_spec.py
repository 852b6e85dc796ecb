"""The sweep's YAML: what it means, and that everything wrong with it is one line with a place."""

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpcwdwm.components import COMPONENTS
from mpcwdwm.errors import UserError
from sweeps.plan.methods import baseline_methods, planner_methods
from sweeps.spec import resolve
from sweeps.spec.document import parse_document, parse_value, write_yaml
from sweeps.spec.grid import expand
from sweeps.spec.spec import Spec, list_specs, load_spec

HOPPER = "hopper-medium-replay-mini-ppo-v0"
GOOD = {
    "name": "mine",
    "tasks": f"[{HOPPER}]",
    "seeds": "2",
    "planners": "{mpc: {kind: policy, horizon: [1, 3]}}",
}


def text(extra: str = "", **sections: str) -> str:
    """Four good lines (name, tasks, seeds, planners), some of them replaced, and what follows them."""
    return "".join(f"{name}: {value}\n" for name, value in {**GOOD, **sections}.items()) + extra


def load(folder: Path, content: str | bytes, **options) -> Spec:
    path = folder / "s.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_spec(path, **options)


# What is wrong

BROKEN = {
    "unknown section": (text("plannrs: {}"), "s.yaml:5:", "unknown key 'plannrs' (did you mean 'planners'?)"),
    "unknown field": (
        text(planners="\n  mpc:\n    kind: policy\n    horizn: 3"),
        "s.yaml:7:",
        "unknown key 'horizn' in planners.mpc (did you mean 'horizon'?)",
    ),
    "short and long name": (
        text(planners="{mpc: {kind: policy, H: 1, horizon: 2}}"),
        "s.yaml:4:",
        "planners.mpc has both",
    ),
    "text for a number": (
        text(planners="{mpc: {kind: policy, H: '3'}}"),
        "s.yaml:4:",
        "planners.mpc.horizon should be a whole",
    ),
    "fraction for a count": (
        text(planners="{mpc: {kind: policy, H: [1, 2.5]}}"),
        "s.yaml:4:",
        "planners.mpc.horizon[1]",
    ),
    "out of range, on its own line": (
        text(planners="\n  mpc:\n    kind: policy\n    H: [1,\n        -2]"),
        "s.yaml:8:",
        "planners.mpc.horizon[1] should be greater than or equal to 0, not -2",
    ),
    "empty axis": (text(planners="{mpc: {kind: policy, H: []}}"), "s.yaml:4:", "planners.mpc.horizon is an empty axis"),
    "doubled value": (
        text(planners="{mpc: {kind: policy, H: [1, 1.0]}}"),
        "s.yaml:4:",
        "planners.mpc.horizon has the value",
    ),
    "unknown kind": (
        text(planners="{mpc: {kind: polcy}}"),
        "s.yaml:4:",
        "planners.mpc: unknown planner kind 'polcy' (did you mean 'policy'?)",
    ),
    "unknown base": (text(planners="{mpc: {kind: policy, base: rebrak}}"), "s.yaml:4:", "planners.mpc.base"),
    "kind of wrong type": (text(planners="{mpc: {kind: 3}}"), "s.yaml:4:", "planners.mpc: unknown planner kind '3'"),
    "planner not a mapping": (text(planners="{mpc: 3}"), "s.yaml:4:", "planners.mpc should be a mapping"),
    "planner named like a path": (text(planners="{../x: {kind: policy}}"), "s.yaml:4:", "'../x' cannot be a name"),
    "grid too large": (
        text(planners=f"{{mpc: {{kind: policy, H: {list(range(200))}, M: {list(range(1, 200))}}}}}"),
        "s.yaml:4:",
        "the grid of planners.mpc has 39800 points",
    ),
    "sweep named like a path": (text(name="../a"), "s.yaml:1:", "name: '../a' cannot be a name"),
    "sweep named by a number": (text(name="5"), "s.yaml:1:", "name should be text"),
    "no name": (text().split("\n", 1)[1], "s.yaml:1:", "missing key 'name'"),
    "unknown task": (text(tasks="[hoper-medium-v2]"), "s.yaml:2:", "(did you mean 'hopper-medium-v2'?)"),
    "path as a task": (text(tasks="[data/x.hdf5]"), "s.yaml:2:", "'data/x.hdf5' is a path"),
    "task twice": (text(tasks=f"[{HOPPER},\n  {HOPPER}]"), "s.yaml:3:", "is listed twice"),
    "no tasks": (text(tasks="[]"), "s.yaml:2:", "tasks should have at least one entry"),
    "tasks not a list": (text(tasks=HOPPER), "s.yaml:2:", "tasks should be a list"),
    "number as a task": (text(tasks="[3]"), "s.yaml:2:", "tasks[0] should be a task's name or a mapping"),
    "dataset without environment": (
        text(tasks="[{name: a, dataset: x.hdf5}]"),
        "s.yaml:2:",
        "missing key 'env' in tasks[0]",
    ),
    "misspelt task field": (
        text(tasks="\n- name: a\n  dataset: x.hdf5\n  env: Hopper-v4\n  refrence: [0, 1]"),
        "s.yaml:6:",
        "unknown key 'refrence' in tasks[0] (did you mean 'reference'?)",
    ),
    "unknown environment": (
        text(tasks="[{name: a, dataset: x.hdf5, env: Hoper-v4}]"),
        "s.yaml:2:",
        "(did you mean 'Hopper-v4'?)",
    ),
    "reference upside down": (
        text(tasks="[{name: a, dataset: x.hdf5, env: Hopper-v4, reference: [1, 0]}]"),
        "s.yaml:2:",
        "reference",
    ),
    "half a reference": (
        text(tasks="[{name: a, dataset: x.hdf5, env: Hopper-v4, reference: [1]}]"),
        "s.yaml:2:",
        "tasks[0].reference has too few entries",
    ),
    "no seeds": (text(seeds="0"), "s.yaml:3:", "seeds: should be a whole number from 1"),
    "empty seeds": (text(seeds="[]"), "s.yaml:3:", "seeds: should be a number n"),
    "seed twice": (text(seeds="[1, 1]"), "s.yaml:3:", "seeds: seed 1 is given twice"),
    "negative seed": (text(seeds="[0, -1]"), "s.yaml:3:", "seeds: every seed"),
    "true as seeds": (text(seeds="true"), "s.yaml:3:", "seeds: should be a number n"),
    "infinite seeds": (text(seeds=".inf"), "s.yaml:3:", "seeds: should be a whole number"),
    "unknown baseline": (text("baselines: [rebrac,\n  iqll]"), "s.yaml:6:", "(did you mean 'iql'?)"),
    "baseline twice": (text("baselines: [iql, iql]"), "s.yaml:5:", "baseline 'iql' is listed twice"),
    "unknown component": (text("components: {rebrc: {}}"), "s.yaml:5:", "unknown component 'rebrc' in components"),
    "unknown component field": (
        text("components:\n  rebrac:\n    stpes: 3"),
        "s.yaml:7:",
        "unknown key 'stpes' in components.rebrac (did you mean 'steps'?)",
    ),
    "not a number": (text("components: {rebrac: {actor_lr: .nan}}"), "s.yaml:5:", "components.rebrac.actor_lr"),
    "nested axis": (
        text("components: {rebrac: {steps: [[3]]}}"),
        "s.yaml:5:",
        "components.rebrac.steps should be a value",
    ),
    "unknown world model": (
        text("components: {world_model: {kind: difusion}}"),
        "s.yaml:5:",
        "(did you mean 'diffusion'?)",
    ),
    "unknown kind on an axis of kinds": (
        text("components:\n  world_model:\n    kind: [flow,\n      fow]"),
        "s.yaml:8:",
        "components.world_model: unknown kind of world model 'fow' (did you mean 'flow'?)",
    ),
    "field that one kind lacks": (
        text("components:\n  world_model:\n    kind: [diffusion, mlp]\n    denoising_steps: 4"),
        "s.yaml:8:",
        "components.world_model: kind 'mlp' has no field 'denoising_steps', only diffusion, flow",
    ),
    "field that the default kind lacks": (
        text("components: {world_model: {ensemble: 3}}"),
        "s.yaml:5:",
        "kind 'diffusion' has no field 'ensemble', only mlp",
    ),
    "field that the override's kind lacks": (
        text(
            "components: {world_model: {sampler: ddim}}\noverrides:\n- tasks: [hop*]\n"
            "  components: {world_model: {kind: flow}}"
        ),
        "s.yaml:5:",
        "kind 'flow' has no field 'sampler'",
    ),
    "misspelt field of a kind": (
        text("components: {world_model: {kind: [mlp, flow], hiden_dim: 3}}"),
        "s.yaml:5:",
        "unknown key 'hiden_dim' in components.world_model (did you mean 'hidden_dim'?)",
    ),
    "fewer training than sampling steps": (
        text("components: {world_model: {denoising_steps: 5, training_steps: 4}}"),
        "s.yaml:5:",
        "training_steps 4 is below denoising_steps 5",
    ),
    "kind of a component that has none": (
        text("components: {rebrac: {kind: big}}"),
        "s.yaml:5:",
        "unknown key 'kind' in components.rebrac",
    ),
    "override of no task": (
        text("overrides:\n- {tasks: [hop*, walker*]}"),
        "s.yaml:6:",
        "the pattern 'walker*' matches no task",
    ),
    "override of no planner": (
        text("overrides:\n- {tasks: [hop*], planners: {mpd: {H: 2}}}"),
        "s.yaml:6:",
        "(did you mean 'mpc'?)",
    ),
    "impossible override": (
        text("overrides:\n- tasks: [hop*]\n  planners: {mpc: {H: -2}}"),
        "s.yaml:7:",
        "overrides[0].planners.mpc.horizon should be",
    ),
    "no episodes": (text("evaluation: {episodes: 0}"), "s.yaml:5:", "evaluation.episodes should be"),
    "choosing on reported seeds": (
        text("evaluation:\n  select: {seeds: [1, 7], env_seed: 3}"),
        "s.yaml:6:",
        "seed 1 is in evaluation.select.seeds and in seeds",
    ),
    "choosing on reported episodes": (
        text("evaluation: {env_seed: 3, select: {seeds: [7], env_seed: 3}}"),
        "s.yaml:5:",
        "evaluation.select.env_seed",
    ),
    "unknown resource": (
        text("resources: {actor: {cpu: 1}}"),
        "s.yaml:5:",
        "in resources.actor (did you mean 'cpus'?)",
    ),
    "one and a half GPUs": (text("resources: {actor: {gpus: 1.5}}"), "s.yaml:5:", "resources.actor: gpus above 1"),
    "empty storage": (text("storage: ''"), "s.yaml:5:", "storage is empty"),
    "folder as tracking": (text("tracking: {uri: ./mlruns}"), "s.yaml:5:", "mlruns"),
    "nothing to do": (text("baselines: []", planners="{}"), "s.yaml:1:", "nothing to evaluate"),
    "two errors": (text("plannrs: {}\nevalution: {}"), "s.yaml:5:", "(and 1 more)"),
    # YAML itself
    "doubled key": (text("name: other"), "s.yaml:5:", "key 'name' is given twice, first on line 1"),
    "tab": ("name: a\nplanners:\n\tmpc: 3\n", "s.yaml:3:", "a tab where YAML wants spaces"),
    "unclosed list": (text("baselines: [iql"), "s.yaml:", "expected"),
    "list at the top": ("- a\n", "s.yaml:1:", "expected 'key: value' pairs at the top, not a list"),
    "nothing": ("# only a comment\n", "s.yaml:", "is empty"),
    "two documents": (text("---\nname: b"), "s.yaml:5:", "a second document begins here"),
    "python object": (text("storage: !!python/name:os.system x"), "s.yaml:5:", "is not allowed here"),
    "merge of a text": (text("storage: &a x\nresources: {<<: *a}"), "s.yaml:5:", "<< takes mappings"),
    "misspelt key in what is merged": (
        text("resources:\n  actor: &a {cpu: 1}\n  trial: {<<: *a}"),
        "s.yaml:6:",
        "unknown key 'cpu' in resources.actor (did you mean 'cpus'?) (and 1 more)",
    ),
    "merge of itself": (text("resources: &a\n  <<: *a"), "s.yaml:5:", "inside its own anchor"),
    "merges that multiply": (
        "a: &a {x: 1}\n"
        + "".join(
            f"{b}: &{b} {{<<: [{','.join(['*' + a] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "s.yaml:1:",
        "do aliases",
    ),
    "a directive of YAML 1.1 and a set": (
        "%YAML 1.1\n---\n" + text("storage: !!set {a}"),
        "s.yaml:7:",
        "the tag !!set",
    ),
    "undefined alias": (text("storage: *b"), "s.yaml:5:", "undefined alias"),
    "alias in itself": (text("storage: &a [*a]"), "s.yaml:5:", "inside its own anchor"),
    "aliases that multiply": (
        "a: &a [x,x,x,x,x,x,x,x]\n"
        + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "s.yaml:1:",
        "do aliases",
    ),
    "too deep": ("name: " + "[" * 5000, "s.yaml", "nested too deeply"),
    "list as a key": ("? [a]\n: 3\n", "s.yaml:1:", "a key has to be a plain word"),
    "control character": (b"name: a\nseeds: \x01\n", "s.yaml:2:", "a character that YAML does not allow"),
    "latin-1": ("name: a\n# für\n".encode("latin-1"), "s.yaml:2:", "is not UTF-8"),
    "endless number": (text(seeds="1" + "0" * 5000), "s.yaml:3:", "cannot be read as int"),
}


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


def test_numbers_follow_yaml_1_2() -> None:
    read = {word: parse_value(word, "x") for word in ["1e-5", "3e-4", "1e6", "5.", ".5", "-1.5E+3", "0x1f", "010"]}
    assert read == {
        "1e-5": 1e-5, "3e-4": 3e-4, "1e6": 1e6, "5.": 5.0, ".5": 0.5, "-1.5E+3": -1500.0, "0x1f": 31, "010": 10,
    }  # fmt: skip
    assert [parse_value(word, "x") for word in ["no", "on", "1:30", "2026-01-01", "1_000"]] == [
        "no", "on", "1:30", "2026-01-01", "1_000",
    ]  # fmt: skip
    assert [parse_value(word, "x") for word in ["true", "~", "null", "-.inf"]] == [True, None, None, -math.inf]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab: #-'\n\té1e.", max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc1.", min_size=1), inner, max_size=3),
        max_leaves=12,
    )
)
@settings(max_examples=150, deadline=None)
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
    document.assign(("c", "y"), 9, "--set")
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


def test_a_sweep_is_found_by_its_name_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(text(name="first"))
    (tmp_path / "two.yml").write_text(text(name="second"))
    (tmp_path / "other.yaml").write_text("services: [a]\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    assert [name for name, _ in list_specs(tmp_path)] == ["first", "second"]
    assert load_spec("second", folder=tmp_path).path.name == "two.yml"
    with pytest.raises(UserError, match="did you mean 'first'"):
        load_spec("frist", folder=tmp_path)
    (tmp_path / "three.yaml").write_text(text(name="first"))
    with pytest.raises(UserError, match=r"one\.yaml and three\.yaml|three\.yaml and one\.yaml"):
        load_spec("first", folder=tmp_path)
    with pytest.raises(UserError, match="No such file"):
        load_spec("four.yaml", folder=tmp_path)


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
    expanded: Counter[tuple[object, ...]] = Counter()

    def counted(*args: Any, owner: Any, **options: Any) -> Any:
        expanded[owner] += 1
        return expand(*args, owner=owner, **options)

    monkeypatch.setattr(resolve, "expand", counted)
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
