"""Keys: a unit of work is named by the hash of everything that can change its result.

For a component that is its resolved config (defaults included), its dataset, its seed, the code that trains it
and, if its learning curve is played in the environment, that environment; for a cell the planner's config, the
keys of its parts, the environment and the code. What only changes how the work is done is left out: device,
threads, torch's version, what it is packed with, and the names a user chooses. `sweeps.plan.code` hashes the code.
"""

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.units import TaskRef
from mpcwdwm.components import ComponentConfig, component_class
from mpcwdwm.components.registry import curve_played
from mpcwdwm.envs.factory import env_spec
from mpcwdwm.envs.termination import RULES
from mpcwdwm.planning import FrozenConfig, PlannerConfig
from mpcwdwm.planning.registry import planner_class
from mpcwdwm.registry import slug
from sweeps.plan.code import code_hash, digest

__all__ = ["cell_code", "cell_key", "component_code", "component_key"]

RULES_MODULE = "mpcwdwm.envs.termination"  # a code root of what imagines
PLAYING = ("mpcwdwm.evaluation.rollout", "mpcwdwm.data.scores")  # imported by training, run where a curve is played
HASH_DIGITS = 16  # 64 bits: among a million keys the chance of two alike is 3e-8


# Keys


def component_key(
    component: str,
    config: Mapping[str, Any],
    task: TaskRef,
    seed: int,
    code: str,
    *,
    parts: Mapping[str, str] | None = None,
    played: bool = False,
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
        played: whether its learning curve is played in the environment; then that, the time limit and the reference
            scores shape the curve.
        tf32: whether a GPU may round matrix products to TF32, which is more than the order of a sum changes.
    """
    payload = {
        "unit": "component",
        "component": component,
        "config": dict(config),
        "dataset": task.dataset_sha256,
        "seed": seed,
        "code": code,
        # what is trained with other parts may imagine, and then the rule that ends it counts
        **({"parts": dict(parts), **_ended_by(task)} if parts else {}),
        **(_played_in(task) if played else {}),
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
    traced_episodes: int = 0,
    tf32: bool = False,
) -> str:
    """Return the key of a method's result for a training seed: "policy_rebrac-hopper-medium-v2-s0-91…".

    Args:
        planner: its fully resolved config; None for a policy that acts as it was trained.
        base: the component whose policy acts.
        parts: component name → its key.
        task: where it is evaluated.
        seed: of the parts' training.
        episodes: how many are played.
        env_seed: of the episodes.
        code: `cell_code` of this planner and these parts.
        traced_episodes: of how many every step is recorded.
        tf32: as for a component.
    """
    payload = {
        "unit": "cell",
        "planner": None if planner is None else dict(planner),
        "base": base,
        "parts": dict(parts),
        **_played_in(task),
        **(_ended_by(task) if planner and planner.get("terminate", True) else {}),
        "episodes": episodes,
        "env_seed": env_seed,
        "seed": seed,
        "code": code,
        **({"traced_episodes": traced_episodes} if traced_episodes else {}),
        **({"tf32": True} if tf32 else {}),
    }
    method = slug(f"{planner['kind'] if planner else 'frozen'}_{base}")
    return f"{method}-{task.name}-s{seed}-{digest(payload)[:HASH_DIGITS]}"


def _played_in(task: TaskRef) -> dict[str, Any]:
    """Return what of a task shapes an episode in its environment, and its score."""
    return {
        "env": task.env_id,
        "mujoco": task.mujoco,
        "max_episode_steps": task.max_episode_steps,
        "reference": task.reference,
        **({"env_kwargs": task.env_kwargs} if task.env_kwargs else {}),
    }


def _ended_by(task: TaskRef) -> dict[str, Any]:
    """Return what of a task ends an imagined rollout."""
    goal = {} if task.goal_reward is None else {"goal_reward": task.goal_reward}
    return {"termination": task.termination, **goal}


def component_code(
    component: str,
    config: ComponentConfig,
    *,
    termination: str | None = None,
    env_id: str | None = None,
    package: Path | None = None,
) -> str:
    """Return the hash of the code that trains a component with this config.

    Args:
        component: its name.
        config: its config.
        termination: name of the task's rule, of which the code counts where episodes are imagined.
        env_id: the task's environment, of which the code counts where a curve is played.
        package: another copy of `mpcwdwm`.
    """
    played = curve_played(component, config)
    own_env = _env_modules(env_id) if played else []
    roots = [*config.code_roots, component_class(component, config).__module__, *own_env]
    idle = () if played else PLAYING
    return code_hash(*_with_rule(roots, termination), without=idle, package=package)


def cell_code(
    planner: PlannerConfig | None,
    components: Mapping[str, ComponentConfig],
    *,
    termination: str | None = None,
    env_id: str | None = None,
    package: Path | None = None,
) -> str:
    """Return the hash of the code that evaluates a planner with these components.

    Args:
        planner: its config; None for a policy that acts as it was trained.
        components: name → config of each part.
        termination: name of the task's rule, of which the code counts where rollouts end by it.
        env_id: the task's environment, of which the code counts.
        package: another copy of `mpcwdwm`.
    """
    config = planner or FrozenConfig()
    modules = {component_class(name, own).__module__ for name, own in components.items()}
    roots = [*config.code_roots, planner_class(config).__module__, *sorted(modules), *_env_modules(env_id)]
    return code_hash(*_with_rule(roots, termination), without=config.idle_modules, package=package)


def _with_rule(roots: list[str], termination: str | None) -> list[str]:
    """Return the roots, with the module of a rule that is used; it may be of another package."""
    if termination is None or RULES_MODULE not in roots:
        return roots
    return [*roots, RULES[termination].__module__]


def _env_modules(env_id: str | None) -> list[str]:
    """Return the module that defines an environment; none for Gymnasium's own, whose id has their version."""
    entry = env_spec(env_id).entry_point if env_id else None
    module = entry.partition(":")[0] if isinstance(entry, str) else entry.__module__ if entry else "gymnasium"
    if module.partition(".")[0] == "gymnasium":
        return []
    source = inspect.getsourcefile(importlib.import_module(module))
    return [module] if source else []
