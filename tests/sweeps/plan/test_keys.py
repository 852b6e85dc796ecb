"""Keys: what changes them, what does not; and the hash of code, which follows meaning, not text."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpcwdwm
from cluster.units import TaskRef
from mpcwdwm.components import component_config
from mpcwdwm.planning import planner_config
from sweeps.plan.keys import cell_code, cell_key, closure, code_hash, component_code, component_key, digest

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


def test_components_depend_on_their_own_module_and_on_no_other_component_or_planner() -> None:
    names = ("rebrac", "iql", "bc", "world_model", "reward", "value")
    codes = {name: component_code(name, component_config(name, {}, {})) for name in names}
    assert len(set(codes.values())) == len(names)
    covered = closure(*REBRAC)
    assert {
        "mpcwdwm.components.rebrac",
        "mpcwdwm.nn.networks",
        "mpcwdwm.data.dataset",
        "mpcwdwm.evaluation.rollout",
    } <= set(covered)
    assert not [module for module in covered if "planning" in module or module.endswith((".iql", ".bc", ".reward"))]


def test_a_planners_code_covers_its_parts_and_not_the_others() -> None:
    parts = {name: component_config(name, {}, {}) for name in ("rebrac", "world_model", "reward")}
    planner = planner_config({"kind": "policy"})
    frozen = {"rebrac": parts["rebrac"]}
    covered = closure(
        "mpcwdwm.evaluation.evaluate", "mpcwdwm.planning.mpc", *(type(part).__module__ for part in parts.values())
    )
    assert {"mpcwdwm.planning.mpc", "mpcwdwm.planning.parts", "mpcwdwm.components.world_models.diffusion"} <= set(
        covered
    )
    assert "mpcwdwm.components.iql" not in covered
    assert cell_code(planner, parts) == code_hash(
        "mpcwdwm.evaluation.evaluate",
        "mpcwdwm.planning.assemble",
        "mpcwdwm.planning.mpc",
        *sorted({type(part).__module__ for part in parts.values()}),
    )
    assert cell_code(None, frozen) != cell_code(planner, parts)
