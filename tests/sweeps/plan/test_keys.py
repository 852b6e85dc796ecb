"""Keys: what changes them, what does not; and the hash of code, which follows meaning, not text."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpcwdwm
from cluster.units import TaskRef
from mpcwdwm.components import component_config
from mpcwdwm.components.registry import curve_played
from mpcwdwm.planning import planner_config
from sweeps.plan.code import closure, digest
from sweeps.plan.keys import PLAYING, cell_code, cell_key, component_code, component_key

TASK = TaskRef("hop", "Hopper-v4", "/a/x.hdf5", "d" * 64, "3.4.0", "hopper", (-20.0, 3000.0), 1000, "local")
CONFIG = {"steps": 10, "actor_lr": 1e-3, "normalize_obs": True}
PLANNER = {"kind": "policy", "base": "rebrac", "horizon": 3}
PARTS = {"rebrac": "rebrac-hop-s0-1", "world_model": "world_model-hop-s0-2"}
CELL: dict[str, Any] = {
    "planner": PLANNER, "base": "rebrac", "parts": PARTS, "task": TASK,
    "seed": 0, "episodes": 10, "env_seed": 0, "code": "c",
}  # fmt: skip
COMPONENT: dict[str, Any] = {"component": "rebrac", "config": CONFIG, "task": TASK, "seed": 0, "code": "c"}

OWN_ENVIRONMENT = """
import gymnasium
from gymnasium.envs.mujoco.hopper_v4 import HopperEnv

class Mine(HopperEnv):
    pass

gymnasium.register("StrangersHopper-v0", entry_point=Mine)
"""


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
    {"parts": {"rebrac": "rebrac-hop-s0-1"}},
]
BUILT_ON = {**COMPONENT, "parts": {"rebrac": "rebrac-hop-s0-1"}}


@pytest.mark.parametrize("change", COUNTS_FOR_A_COMPONENT, ids=str)
def test_whatever_changes_a_component_changes_its_key(change: dict[str, Any]) -> None:
    assert component_key(**{**COMPONENT, **change}) != component_key(**COMPONENT)


@pytest.mark.parametrize("change", [{"termination": None}, {"goal_reward": 0.5}], ids=str)
def test_what_ends_a_rollout_counts_for_a_component_that_imagines(change: dict[str, Any]) -> None:
    assert component_key(**{**BUILT_ON, "task": replace(TASK, **change)}) != component_key(**BUILT_ON)
    assert component_key(**{**COMPONENT, "task": replace(TASK, **change)}) == component_key(**COMPONENT)


@pytest.mark.parametrize("change", [{"dataset": "/b/y.hdf5"}, {"source": "d4rl"}, {"env_note": "rescaled"}], ids=str)
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
    {"traced_episodes": 1},
    {"code": "d"},
    {"task": replace(TASK, env_id="Hopper-v5")},
    {"task": replace(TASK, mujoco="3.3.7")},
    {"task": replace(TASK, max_episode_steps=500)},
    {"task": replace(TASK, termination=None)},
    {"task": replace(TASK, goal_reward=0.5)},
    {"task": replace(TASK, env_kwargs={"frame_skip": 5})},
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


PLAYED_IN = [
    {"env_id": "Hopper-v5"},
    {"env_kwargs": {"frame_skip": 5}},
    {"mujoco": "3.3.7"},
    {"max_episode_steps": 500},
    {"reference": (0.0, 1.0)},
    {"reference": None},
]


@pytest.mark.parametrize("change", PLAYED_IN, ids=str)
def test_what_a_curve_is_played_in_counts_where_it_is_played(change: dict[str, Any]) -> None:
    other = {**COMPONENT, "task": replace(TASK, **change)}
    assert component_key(**other, played=True) != component_key(**COMPONENT, played=True)
    assert component_key(**other) == component_key(**COMPONENT)


@pytest.mark.parametrize("planner", [None, {**PLANNER, "terminate": False}], ids=["frozen", "endless"])
def test_a_termination_rule_counts_only_where_a_rollout_may_end_by_it(planner: dict[str, Any] | None) -> None:
    other = {**CELL, "task": replace(TASK, termination=None, goal_reward=0.5)}
    assert cell_key(**{**other, "planner": planner}) == cell_key(**{**CELL, "planner": planner})


def test_the_source_of_ones_own_judge_counts_where_it_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "strangers_judges.py"
    file.write_text("def mine(parts, windows, base, candidate):\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = {"preset": "v1", "judge": "strangers_judges:mine"}
    asked, unasked = planner_config({**own, "step_size": "auto"}), planner_config(own)
    before = [cell_code(planner, {}) for planner in (asked, unasked)]
    file.write_text("def mine(parts, windows, base, candidate):\n    return 2\n")
    assert cell_code(asked, {}) != before[0]
    assert cell_code(unasked, {}) == before[1]


def test_the_source_of_ones_own_environment_counts_where_it_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "strangers_envs.py"
    file.write_text(OWN_ENVIRONMENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    played, unplayed = component_config("bc", {}, {}), component_config("bc", {}, {"eval_episodes": 0})

    def codes() -> list[str]:
        env_id = "strangers_envs:StrangersHopper-v0"
        own = [component_code("bc", config, env_id=env_id) for config in (unplayed, played)]
        return [*own, cell_code(None, {}, env_id=env_id)]

    before = codes()
    file.write_text(f"{OWN_ENVIRONMENT}\nGRAVITY = 2\n")
    assert [new == old for new, old in zip(codes(), before, strict=True)] == [True, False, False]
    assert cell_code(None, {}, env_id="Hopper-v4") == cell_code(None, {})


# Which keys move when a module is edited

# Units: "unplayed" is ReBRAC without a curve, "endless" the paper's planner with rollouts that never end.
PLAYED, KINDS = "rebrac iql bc mopo improved", "diffusion flow meanflow mlp"
TRAINED = f"{PLAYED} unplayed reward value diffuser {KINDS}"
ASCENDING = "paper endless robust trust gate auto"  # the policy's parameters
ADAPTED = f"{ASCENDING} action mppi"
CELLS = f"frozen guided random {ADAPTED}"  # all of ReBRAC's policy and, where they imagine, the diffusion model
ALL = f"{TRAINED} {CELLS}"
NONE = ""

# Module of mpcwdwm → the units whose code it is. A cell moves with its components, too; here stands what its own
# code adds. A package's __init__ only passes names on and moves nothing.
MOVES = {
    "api": NONE,
    "artifact_names": NONE,
    "collecting.headings": NONE,
    "collecting.navigation": NONE,
    "collecting.walker": NONE,
    "collecting.waypoints": NONE,
    "components.actor_critic": f"{PLAYED} unplayed {CELLS}",
    "components.artifact": f"value {CELLS} improved mopo",
    "components.bc": "bc",
    "components.component": ALL,
    "components.diffuser": "diffuser guided",
    "components.iql": "iql",
    "components.loading": f"value {CELLS} improved mopo",
    "components.rebrac": f"rebrac unplayed {CELLS} mopo",
    "components.registry": NONE,
    "components.imagined_episodes": "value mopo improved robust",
    "components.mopo": "mopo",
    "components.reward": f"reward {ADAPTED}",
    "components.value": "value robust improved",
    "components.windows": "diffuser guided",
    "components.world_models.diffusion": f"diffusion {ADAPTED}",
    "components.world_models.flow": "flow meanflow",
    "components.world_models.meanflow": "meanflow",
    "components.world_models.mlp": "mlp",
    "components.world_models.world_model": f"{KINDS} value {ADAPTED} improved mopo",
    "config": NONE,  # the resolved values are in the key
    "data.audit": NONE,
    "data.conversion": NONE,  # the copy's hash is in the key
    "data.dataset": ALL,
    "data.d4rl_package": NONE,  # the copy's hash is in the key
    "data.d4rl_side": NONE,
    "data.download": NONE,
    "data.ends": NONE,  # the copy's hash is in the key
    "data.fingerprint": ALL,
    "data.hdf5": ALL,
    "data.hyperparameters": NONE,
    "data.mapped": TRAINED,
    "data.recognised": NONE,
    "data.opening": ALL,
    "data.replay": NONE,
    "data.scores": f"{PLAYED} {CELLS}",
    "data.sidecar": NONE,
    "data.tasks": NONE,
    "data.verify": NONE,
    "data.whole": NONE,  # it only refuses
    "data.writing": NONE,
    "envs.antmaze": NONE,  # counts where a task is evaluated in it
    "envs.factory": f"{PLAYED} {CELLS}",
    "envs.maze_env": NONE,
    "envs.mazes": NONE,
    "envs.pointmaze": NONE,
    "envs.probe": NONE,
    "envs.registration": NONE,  # what it says of an environment is in the key
    "envs.termination": "value paper robust trust gate auto action mppi improved mopo",
    "errors": NONE,
    "evaluation.evaluate": f"{CELLS} improved",
    "evaluation.film": NONE,
    "evaluation.trace": f"{CELLS} improved",
    "evaluation.rollout": f"{PLAYED} {CELLS}",
    "imagination": f"value {KINDS} {ADAPTED} improved mopo",
    "nn.compute": ALL,
    "nn.compute_config": ALL,
    "nn.networks": ALL,
    "nn.memory": ALL,
    "nn.products": ALL,
    "nn.temporal": "diffuser guided",
    "nn.weight_gradients": ALL,
    "paths": NONE,
    "planning.action": "action improved",
    "planning.ascent": f"{ADAPTED} improved",
    "planning.assemble": f"{CELLS} improved",
    "planning.evaluations": f"{CELLS} improved",
    "planning.guided": "guided",
    "planning.improved": "improved",
    "planning.frozen": f"{CELLS} improved",  # imported by the evaluation
    "planning.interface": f"{CELLS} improved",
    "planning.mpc": f"{ASCENDING} improved",
    "planning.mppi": "mppi",
    "planning.objectives": f"{ASCENDING} action improved",
    "planning.parts": f"{CELLS} improved",
    "planning.planner": f"{CELLS} improved",
    "planning.presets": NONE,  # like config
    "planning.registry": NONE,
    "planning.step_size.choice": "auto improved",
    "planning.step_size.off_policy": "auto improved",
    "planning.random_direction": "random",
    "planning.step_size.alpha": f"{ASCENDING} action improved",
    "planning.step_size.windows": "auto improved",
    "planning.trust.gate": "gate improved",
    "planning.trust.region": "trust gate improved",
    "planning.returns": f"{ADAPTED} improved",
    "random": ALL,
    "registry": NONE,
    "training.buffer": TRAINED,
    "training.checkpoint": TRAINED,
    "training.evaluators": TRAINED,
    "training.loop": TRAINED,
    "validation": NONE,
}


def units() -> dict[str, Callable[[Path], str]]:
    """Name → the hash of a unit's code in a copy of the package."""
    configs = {
        name: component_config(name, {}, {})
        for name in ("rebrac", "iql", "bc", "reward", "value", "mopo", "improved", "diffuser")
    }
    models = {kind: component_config("world_model", {}, {"kind": kind}) for kind in KINDS.split()}
    trained = [(name, name, config) for name, config in configs.items()]
    trained += [(kind, "world_model", config) for kind, config in models.items()]
    trained.append(("unplayed", "rebrac", component_config("rebrac", {}, {"eval_episodes": 0})))
    planners = {
        "frozen": None,
        "paper": {"preset": "v1"},
        "endless": {"preset": "v1", "terminate": False},
        "robust": {"preset": "robust"},
        "trust": {"preset": "v1", "trust_region": 0.1},
        "gate": {"preset": "v1", "gate": 1.0},
        "auto": {"preset": "v1", "step_size": "auto"},
        "action": {"kind": "action"},
        "mppi": {"kind": "mppi"},
        "random": {"kind": "random"},
        "guided": {"kind": "diffuser", "base": "rebrac"},
    }
    found: dict[str, Callable[[Path], str]] = {
        unit: partial(_component_code, name, config) for unit, name, config in trained
    }
    for unit, fields in planners.items():
        planner: Any = None if fields is None else planner_config(fields)
        names = ("rebrac", *(() if planner is None else planner.needs))
        parts = {part: {**configs, "world_model": models["diffusion"]}[part] for part in names}
        found[unit] = partial(_cell_code, planner, parts)
    return found


def _component_code(name: str, config: Any, package: Path) -> str:
    return component_code(name, config, termination="hopper", package=package)


def _cell_code(planner: Any, parts: dict[str, Any], package: Path) -> str:
    return cell_code(planner, parts, termination="hopper", package=package)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that a test may change."""
    return Path(shutil.copytree(Path(mpcwdwm.__file__).parent, tmp_path / "mpcwdwm"))


def test_editing_a_module_moves_the_keys_of_what_it_computes_and_no_others(package: Path) -> None:
    codes = units()
    before = {unit: code(package) for unit, code in codes.items()}
    paths = {".".join(path.relative_to(package).with_suffix("").parts): path for path in package.rglob("*.py")}
    wrong = [f"{module}: there is no such module" for module in MOVES.keys() - paths.keys()]
    for module, path in sorted(paths.items()):
        passes_on = path.name == "__init__.py"
        text = path.read_text()
        path.write_text(f"{text}\nEDITED = 1\n")
        moved = {unit for unit, code in codes.items() if code(package) != before[unit]}
        path.write_text(text)
        expected = set(MOVES.get(module, NONE).split())
        if moved != expected or passes_on == (module in MOVES):
            more, less = (" ".join(sorted(names)) or "none" for names in (moved - expected, expected - moved))
            wrong.append(f"{module}: add {more}; take out {less}")
    assert not wrong, "mend the code roots of a class, or MOVES if this is meant:\n" + "\n".join(wrong)


def test_what_a_config_leaves_out_exists() -> None:
    for name in ("reward", "value", "world_model"):
        config = component_config(name, {}, {})
        assert not curve_played(name, config)
        assert set(PLAYING) < set(closure(*config.code_roots, type(config).__module__))
    paper = planner_config({"preset": "v1"})
    assert paper.idle_modules
    assert set(paper.idle_modules) < set(closure(*paper.code_roots, type(paper).__module__))
