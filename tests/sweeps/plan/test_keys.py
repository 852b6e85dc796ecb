"""Keys: what changes them, what does not; and the hash of code, which follows meaning, not text."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpcwdwm
from cluster.units import TaskRef
from mpcwdwm.components import component_config
from mpcwdwm.errors import UserError
from mpcwdwm.planning import planner_config
from sweeps.plan.code import closure, code_hash, digest
from sweeps.plan.keys import cell_code, cell_key, component_code, component_key

TASK = TaskRef("hop", "Hopper-v4", "/a/x.hdf5", "d" * 64, "3.4.0", "hopper", (-20.0, 3000.0), 1000, "local")
CONFIG = {"steps": 10, "actor_lr": 1e-3, "normalize_obs": True}
PLANNER = {"kind": "policy", "base": "rebrac", "horizon": 3}
PARTS = {"rebrac": "rebrac-hop-s0-1", "world_model": "world_model-hop-s0-2"}
CELL: dict[str, Any] = {
    "planner": PLANNER, "base": "rebrac", "parts": PARTS, "task": TASK,
    "seed": 0, "episodes": 10, "env_seed": 0, "code": "c",
}  # fmt: skip
COMPONENT: dict[str, Any] = {"component": "rebrac", "config": CONFIG, "task": TASK, "seed": 0, "code": "c"}


# What is in a key

scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    scalars | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=10,
)


def shuffled(data: Any) -> Any:
    """The same data with every mapping written in the opposite order."""
    if isinstance(data, dict):
        return {key: shuffled(value) for key, value in reversed(data.items())}
    return [shuffled(value) for value in data] if isinstance(data, list) else data


@given(plain)
@settings(max_examples=100, deadline=None)
def test_a_digest_does_not_depend_on_the_order_of_mappings(data: Any) -> None:
    assert digest(shuffled(data)) == digest(data)


@given(st.dictionaries(st.text(max_size=3), scalars, min_size=1, max_size=5), st.data())
@settings(max_examples=100, deadline=None)
def test_a_digest_depends_on_every_value(data: dict[str, Any], draw: st.DataObject) -> None:
    name = draw.draw(st.sampled_from(sorted(data)))
    other = draw.draw(scalars.filter(lambda value: repr(value) != repr(data[name])))
    assert digest({**data, name: other}) != digest(data)


COUNTS_FOR_A_COMPONENT = [
    {"component": "iql"},
    {"config": {**CONFIG, "steps": 11}},
    {"config": {**CONFIG, "actor_lr": 1.1e-3}},
    {"seed": 1},
    {"code": "d"},
    {"task": replace(TASK, dataset_sha256="e" * 64)},
    {"task": replace(TASK, env_id="Hopper-v5")},
    {"task": replace(TASK, mujoco="3.3.7")},
    {"parts": {"rebrac": "rebrac-hop-s0-1"}},
]


@pytest.mark.parametrize("change", COUNTS_FOR_A_COMPONENT, ids=str)
def test_whatever_changes_a_component_changes_its_key(change: dict[str, Any]) -> None:
    assert component_key(**{**COMPONENT, **change}) != component_key(**COMPONENT)


@pytest.mark.parametrize("change", [{"dataset": "/b/y.hdf5"}, {"source": "d4rl"}, {"termination": None}], ids=str)
def test_where_the_dataset_lies_does_not_change_a_components_key(change: dict[str, Any]) -> None:
    assert component_key(**{**COMPONENT, "task": replace(TASK, **change)}) == component_key(**COMPONENT)


COUNTS_FOR_A_CELL = [
    {"planner": None},
    {"planner": {**PLANNER, "horizon": 4}},
    {"base": "iql"},
    {"parts": {**PARTS, "world_model": "world_model-hop-s0-3"}},
    {"seed": 1},
    {"episodes": 11},
    {"env_seed": 1},
    {"code": "d"},
    {"task": replace(TASK, env_id="Hopper-v5")},
    {"task": replace(TASK, mujoco="3.3.7")},
    {"task": replace(TASK, max_episode_steps=500)},
    {"task": replace(TASK, termination=None)},
    {"task": replace(TASK, reference=None)},
]


@pytest.mark.parametrize("change", COUNTS_FOR_A_CELL, ids=str)
def test_whatever_changes_a_cell_changes_its_key(change: dict[str, Any]) -> None:
    assert cell_key(**{**CELL, **change}) != cell_key(**CELL)


def test_keys_are_names_of_folders_that_people_can_read() -> None:
    assert component_key(**COMPONENT).startswith("rebrac-hop-s0-")
    assert cell_key(**CELL).startswith("policy_rebrac-hop-s0-")
    assert cell_key(**{**CELL, "planner": None}).startswith("frozen_rebrac-hop-s0-")
    assert len(component_key(**COMPONENT).rpartition("-")[2]) == 16


# Code


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that a test may change."""
    return Path(shutil.copytree(Path(mpcwdwm.__file__).parent, tmp_path / "mpcwdwm"))


def edit(package: Path, name: str, old: str, new: str) -> Path:
    """Return another copy of the package with one replacement in one file."""
    copy = package.parent / f"copy{len(list(package.parent.iterdir()))}" / "mpcwdwm"
    shutil.copytree(package, copy)
    text = (copy / name).read_text()
    assert old in text
    (copy / name).write_text(text.replace(old, new, 1))
    return copy


REBRAC = ("mpcwdwm.training.loop", "mpcwdwm.components.rebrac")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("components/rebrac.py", "return ", "return 0 or "),  # the module itself
        ("components/actor_critic.py", "torch.tanh(", "torch.sin("),  # imported by it
        ("nn/networks.py", "return ", "return 0 or "),  # imported by what it imports
        ("data/dataset.py", "np.cumsum(ends[:-1])", "np.cumsum(ends[1:])"),  # imported through a package's names
        ("random.py", "BLOCK_STEPS = 64", "BLOCK_STEPS = 65"),  # a constant
    ],
)
def test_a_change_of_code_anywhere_below_changes_the_hash(package: Path, name: str, old: str, new: str) -> None:
    assert code_hash(*REBRAC, package=edit(package, name, old, new)) != code_hash(*REBRAC, package=package)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("components/rebrac.py", "\nimport torch\n", "\nimport torch  # the library\n\n\n"),  # a comment
        ("nn/networks.py", '"""', '"""Another docstring: '),
        ("components/component.py", '"gradient updates"', '"updates of the parameters"'),  # describes a setting
        ("training/buffer.py", "no usable transitions", "nothing to learn from"),  # what an error says
        ("components/iql.py", "return ", "return 0 or "),  # another component
        ("planning/mpc.py", "return ", "return 0 or "),  # a planner
        ("components/registry.py", "return ", "return 0 or "),  # only names things
        ("data/download.py", "return ", "return 0 or "),  # beside the reader, not used by it
    ],
)
def test_what_cannot_change_a_result_leaves_the_hash(package: Path, name: str, old: str, new: str) -> None:
    assert code_hash(*REBRAC, package=edit(package, name, old, new)) == code_hash(*REBRAC, package=package)


def test_imports_inside_functions_and_relative_ones_are_followed(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    (package / "sub").mkdir(parents=True)
    files = {
        "__init__.py": "",
        "a.py": "import numpy\ndef f():\n    from .sub import g\n    return g",
        "sub/__init__.py": "from .b import g\nfrom .unused import h",
        "sub/b.py": "import pack.c\nfrom .. import d\ng = 1",
        "sub/unused.py": "h = 2",
        "c.py": "",
        "d.py": "import pack.a",  # a cycle
    }
    for name, text in files.items():
        (package / name).write_text(text)
    assert closure("pack.a", package=package) == ["pack.a", "pack.c", "pack.d", "pack.sub.b"]


def test_what_only_a_type_checker_imports_does_not_count(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    guarded = "import typing\nif typing.TYPE_CHECKING:\n    from pack import heavy\nelse:\n    from pack import light"
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text(guarded)
    (package / "heavy.py").write_text("y = 1")
    (package / "light.py").write_text("z = 1")
    assert closure("pack.a", package=package) == ["pack.a", "pack.light"]
    before = code_hash("pack.a", package=package)
    (package / "a.py").write_text(guarded.replace("import heavy", "import heavy, light"))
    assert code_hash("pack.a", package=package) == before
    (package / "a.py").write_text(guarded.replace("import light", "import heavy"))
    assert code_hash("pack.a", package=package) != before


def test_the_source_of_another_package_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "strangers_planners"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "shooting.py").write_text("from mpcwdwm import random\nfrom strangers_planners.spread import std")
    (package / "spread.py").write_text("std = 0.2")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = code_hash("strangers_planners.shooting")
    assert {"strangers_planners.shooting", "strangers_planners.spread"} <= set(closure("strangers_planners.shooting"))
    (package / "spread.py").write_text("std = 0.3")
    assert code_hash("strangers_planners.shooting") != before


@pytest.mark.parametrize(
    ("module", "said"), [("nowhere_to_be_found.planners", "cannot be imported"), ("math", "has no Python source")]
)
def test_a_module_without_source_is_refused_in_one_line(module: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        code_hash(module)


def test_a_curve_played_in_the_environment_depends_on_its_time_limit_and_reference() -> None:
    for change in ({"max_episode_steps": 500}, {"reference": (0.0, 1.0)}):
        other = {**COMPONENT, "task": replace(TASK, **change)}
        assert component_key(**other, played=True) != component_key(**COMPONENT, played=True)
        assert component_key(**other) == component_key(**COMPONENT)


# Which keys move when a module is edited


def units() -> dict[str, Callable[[Path], str]]:
    """Name → the hash of a unit's code in a copy of the package."""
    kinds = ("diffusion", "flow", "meanflow", "mlp")
    configs = {name: component_config(name, {}, {}) for name in ("rebrac", "iql", "bc", "reward", "value")}
    models = {kind: component_config("world_model", {}, {"kind": kind}) for kind in kinds}
    trained: dict[str, Callable[[Path], str]] = {}
    for name, config in configs.items():
        trained[name] = lambda package, name=name, config=config: component_code(name, config, package=package)
    for kind, config in models.items():
        trained[kind] = lambda package, config=config: component_code("world_model", config, package=package)
    planners = {
        "frozen": None,
        "paper": {"preset": "paper"},
        "endless": {"preset": "paper", "terminate": False},
        "robust": {"preset": "robust"},
        "gate": {"preset": "paper", "gate": 1.0},
        "auto": {"preset": "paper", "step_size": "auto"},
        "action": {"kind": "action"},
        "mppi": {"kind": "mppi"},
    }
    for name, fields in planners.items():
        planner = None if fields is None else planner_config(fields)
        names = ("rebrac", *(() if planner is None else planner.needs))
        parts = {part: {**configs, "world_model": models["diffusion"]}[part] for part in dict.fromkeys(names)}
        trained[name] = lambda package, planner=planner, parts=parts: cell_code(planner, parts, package=package)
    return trained


COMPONENTS = "rebrac iql bc reward value diffusion flow meanflow mlp"
CELLS = "frozen paper endless robust gate auto action mppi"
MOVES: dict[str, str] = {  # the units whose key moves → the modules of mpcwdwm that move it
    f"{COMPONENTS} {CELLS}": (
        "components.component data.dataset data.fingerprint data.hdf5 envs.factory evaluation.rollout "
        "nn.compute nn.networks nn.weight_gradients random"
    ),
    "value diffusion flow meanflow mlp paper endless robust gate auto action mppi": (
        "components.world_models.world_model"
    ),
    f"rebrac iql bc {CELLS}": "components.actor_critic",
    f"rebrac {CELLS}": "components.rebrac",
    COMPONENTS: "training.buffer training.checkpoint training.evaluators training.loop",
    "diffusion paper endless robust gate auto action mppi": "components.world_models.diffusion",
    CELLS: (
        "components.artifact components.loading evaluation.evaluate planning.assemble planning.parts planning.planner"
    ),
    "reward paper endless robust gate auto action mppi": "components.reward",
    "paper endless robust gate auto action mppi": "planning.ascent planning.imagination",
    "value paper robust gate auto action mppi": "envs.termination",
    "paper endless robust gate auto": (
        "planning.mpc planning.objectives planning.presets planning.step_size.choice "
        "planning.step_size.off_policy planning.step_size.units planning.step_size.windows "
        "planning.trust.gate planning.trust.region"
    ),
    "bc auto": "components.bc",
    "flow meanflow": "components.world_models.flow",
    "value robust": "components.value",
    "action": "planning.action",
    "frozen": "planning.frozen",
    "iql": "components.iql",
    "meanflow": "components.world_models.meanflow",
    "mlp": "components.world_models.mlp",
    "mppi": "planning.mppi",
    "": (
        "__init__ api components.__init__ components.registry components.world_models.__init__ config "
        "data.__init__ data.audit data.download data.hyperparameters data.mapped data.sidecar data.tasks "
        "data.writing envs.__init__ errors evaluation.__init__ nn.__init__ planning.__init__ "
        "planning.registry planning.step_size.__init__ planning.trust.__init__ registry training.__init__"
    ),
}


def test_editing_a_module_moves_the_keys_of_what_it_computes_and_no_others(package: Path) -> None:
    of = units()
    before = {name: code(package) for name, code in of.items()}
    wrong = []
    expected = {module: set(names.split()) for names, modules in MOVES.items() for module in modules.split()}
    for path in sorted(package.rglob("*.py")):
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        text = path.read_text()
        path.write_text(f"{text}\nEDITED = 1\n")
        moved = {name for name, code in of.items() if code(package) != before[name]}
        path.write_text(text)
        if moved != expected.get(module):
            wrong.append(f"{module}: {' '.join(name for name in of if name in moved)}")
    assert not wrong, "MOVES says otherwise of\n" + "\n".join(wrong)
    assert expected.keys() == {".".join(p.relative_to(package).with_suffix("").parts) for p in package.rglob("*.py")}
