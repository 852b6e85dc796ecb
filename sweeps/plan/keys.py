"""Keys: a unit of work is named by the hash of everything that can change its result.

For a component that is its resolved config (defaults included), its dataset, its seed, the
environment and simulator, and the code that trains it; for a cell also the planner's config and the
keys of the parts it is built on. What only changes how the work is done is left out: device,
threads, torch's version, what it is packed with, and every name the user may choose freely.

Code counts by meaning: the modules that compute a unit and all they import, without comments,
docstrings, formatting and the wording of errors. Modules are followed through the names that are
imported, so that ReBRAC's key does not depend on a planner, nor a planner's result on IQL.
"""

import ast
import copy
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import mpcwdwm
from cluster.units import TaskRef
from mpcwdwm.registry import slug

__all__ = ["cell_code", "cell_key", "closure", "code_hash", "component_code", "component_key", "digest"]

PACKAGE = Path(mpcwdwm.__file__).parent
HASH_DIGITS = 16  # 64 bits: among a million keys the chance of two alike is 3e-8

# Which modules compute a unit: the loop, and what the registries name for the component or planner.
TRAINING = "mpcwdwm.training.loop"
EVALUATION = ("mpcwdwm.evaluation.evaluate", "mpcwdwm.planning.assemble")
# Modules that only name or check things. Following them would tie every key to every component.
NOT_COMPUTING = frozenset(
    {
        "mpcwdwm.components.registry",
        "mpcwdwm.planning.registry",
        "mpcwdwm.registry",
        "mpcwdwm.config",  # the resolved config is in the key
        "mpcwdwm.errors",
    }
)


# Keys


def digest(payload: Any) -> str:
    """Return the hash of plain data, whatever the order of its mappings."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def component_key(
    component: str,
    config: Mapping[str, Any],
    task: TaskRef,
    seed: int,
    code: str,
    *,
    parts: Mapping[str, str] | None = None,
    tf32: bool = False,
) -> str:
    """Return the key of a component trained with a seed: "rebrac-hopper-medium-v2-s0-3f…".

    Args:
        component: "rebrac", …
        config: fully resolved.
        task: where the data and the environment come from.
        seed: of the training.
        code: `component_code` of this component.
        parts: what it is trained with: component name → its key.
        tf32: whether a GPU may round matrix products to TF32, which is more than the order of a sum changes.
    """
    payload = {
        "unit": "component",
        "component": component,
        "config": dict(config),
        "dataset": task.dataset_sha256,
        "env": task.env_id,
        "mujoco": task.mujoco,
        "seed": seed,
        "code": code,
        # what is trained with other parts may imagine, and then the rule that ends it counts
        **({"parts": dict(parts), "termination": task.termination} if parts else {}),
        **({"tf32": True} if tf32 else {}),
    }
    return f"{slug(component)}-{task.name}-s{seed}-{digest(payload)[:HASH_DIGITS]}"


def cell_key(
    planner: Mapping[str, Any] | None,
    base: str,
    parts: Mapping[str, str],
    task: TaskRef,
    seed: int,
    *,
    episodes: int,
    env_seed: int,
    code: str,
    tf32: bool = False,
) -> str:
    """Return the key of a method's result for a training seed: "policy_rebrac-hopper-medium-v2-s0-91…".

    Args:
        planner: its fully resolved config; None for a policy that acts as it was trained.
        base: the component whose policy acts.
        parts: component name → its key.
        task: where it is judged.
        seed: of the parts' training.
        episodes: how many are played.
        env_seed: of the episodes.
        code: `cell_code` of this planner and these parts.
        tf32: as for a component.
    """
    payload = {
        "unit": "cell",
        "planner": None if planner is None else dict(planner),
        "base": base,
        "parts": dict(parts),
        "env": task.env_id,
        "mujoco": task.mujoco,
        "max_episode_steps": task.max_episode_steps,
        "termination": task.termination,
        "reference": task.reference,
        "episodes": episodes,
        "env_seed": env_seed,
        "seed": seed,
        "code": code,
        **({"tf32": True} if tf32 else {}),
    }
    method = slug(f"{planner['kind'] if planner else 'frozen'}_{base}")
    return f"{method}-{task.name}-s{seed}-{digest(payload)[:HASH_DIGITS]}"


def component_code(component: str, config: Any) -> str:
    """Return the hash of the code that trains a component with this config."""
    from mpcwdwm.components import component_class

    rules = ("mpcwdwm.envs.termination",) if config.builds_on else ()  # may be used in training, by no import
    return code_hash(TRAINING, component_class(component, config).__module__, *rules)


def cell_code(planner: Any | None, components: Mapping[str, Any]) -> str:
    """Return the hash of the code that evaluates a planner (None: the policy alone) with these components.

    Args:
        planner: the planner's config.
        components: name → config of each part.
    """
    from mpcwdwm.components import component_class
    from mpcwdwm.planning.registry import planner_class

    modules = {component_class(name, config).__module__ for name, config in components.items()}
    if planner is not None:
        modules.add(planner_class(planner).__module__)
    return code_hash(*EVALUATION, *sorted(modules))


# Code


def code_hash(*modules: str, package: Path = PACKAGE) -> str:
    """Return the hash of these modules and of all of their package that they import, at whatever depth.

    Args:
        *modules: full names, such as "mpcwdwm.training.loop".
        package: folder of the package whose modules count.
    """
    return digest({module: _meaning(module, package) for module in closure(*modules, package=package)})


def closure(*modules: str, package: Path = PACKAGE) -> list[str]:
    """Return the names of the modules that `code_hash` covers, sorted."""
    todo, seen = [*modules], set[str]()
    while todo:
        module = todo.pop()
        if module not in seen and module not in NOT_COMPUTING:
            seen.add(module)
            todo += _imports(module, package)
    return sorted(seen)


@cache
def _tree(module: str, package: Path) -> ast.Module:
    return ast.parse(_source(module, package).read_text(encoding="utf-8"))


def _source(module: str, package: Path) -> Path:
    """Return a module's file; FileNotFoundError if the package has no such module."""
    name, *steps = module.split(".")
    place = package.joinpath(*steps)
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if name == package.name and (steps or path.name == "__init__.py") and path.is_file():
            return path
    raise FileNotFoundError(f"{package} has no module {module}")


def _exists(module: str, package: Path) -> bool:
    try:
        return bool(_source(module, package))
    except FileNotFoundError:
        return False


@cache
def _meaning(module: str, package: Path) -> str:
    """Return a module's code without what cannot change a result."""
    return ast.unparse(ast.fix_missing_locations(_Bare().visit(copy.deepcopy(_tree(module, package)))))


class _Bare(ast.NodeTransformer):
    """Strips docstrings and other bare strings, the wording of errors and what documents a setting."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Drop strings that stand alone."""
        bare = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if bare else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Keep that something is raised, drop what it says: a result exists only where nothing was."""
        return ast.Raise()

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Keep a setting's default, drop its description and limits: its value is in the key."""
        if isinstance(node.func, ast.Name) and node.func.id == "setting":
            node = ast.Call(node.func, node.args[:1], [])
        return self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Leave no body empty."""
        super().generic_visit(node)
        if getattr(node, "body", None) == [] and not isinstance(node, ast.Module):
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node


@cache
def _imports(module: str, package: Path) -> tuple[str, ...]:
    """Return the modules of the package that a module imports anywhere, functions included."""
    found: dict[str, None] = {}
    for node in ast.walk(_tree(module, package)):
        if isinstance(node, ast.Import):
            found |= dict.fromkeys(name.name for name in node.names if _exists(name.name, package))
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(module, node, package)
            if _exists(origin, package):
                found |= dict.fromkeys(_home(origin, name.name, package) for name in node.names)
    return tuple(found)


def _origin(module: str, node: ast.ImportFrom, package: Path) -> str:
    """Return the full name of what a from-import imports from."""
    if not node.level:
        return node.module or ""
    steps = module.split(".")
    if _source(module, package).name == "__init__.py":
        steps = [*steps, ""]
    return ".".join([*steps[: -node.level], *([node.module] if node.module else [])])


def _home(origin: str, name: str, package: Path) -> str:
    """Return the module where a name imported from `origin` is defined: packages only pass names on."""
    if _exists(f"{origin}.{name}", package):
        return f"{origin}.{name}"
    if _source(origin, package).name != "__init__.py":
        return origin
    for node in _tree(origin, package).body:
        if isinstance(node, ast.ImportFrom):
            inner = _origin(origin, node, package)
            passed = {alias.asname or alias.name: alias.name for alias in node.names}
            if name in passed and _exists(inner, package):
                return _home(inner, passed[name], package)
    return origin
