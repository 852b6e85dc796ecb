"""Environments, made through Gymnasium and refused where scores would not be comparable.

D4RL's Gym-MuJoCo -v2 tasks are evaluated in Gymnasium's -v4 environments, whose dynamics and rewards
equal those of gym's -v2 when MuJoCo is older than 3.5, its AntMaze tasks in `mpcwdwm.envs.antmaze`. Any other
Gymnasium id works too; where an action space is not [-1, 1] it is rescaled, because every policy here acts in [-1, 1].
"""

import importlib
import inspect
import os
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from pydantic import JsonValue

from mpcwdwm.errors import UserError, did_you_mean

__all__ = ["check_env", "env_spec", "environment_note", "make_env", "mujoco_version"]

# From 3.5.0 on the contact margin of a pair is the sum of both geoms' margins, before it was the larger
# one: Hopper and Ant then move differently from the environments the datasets were recorded in.
FIRST_UNFIT_MUJOCO = (3, 5)
SIMULATED = ("gymnasium.envs.mujoco", "mpcwdwm.envs.")  # where the entry points of MuJoCo's robots begin
FAITHFUL = ("gymnasium.envs.", "mpcwdwm.envs.")  # of environments that need no guard
# Arguments of gymnasium.make that are not the environment's.
TAKEN_KWARGS = frozenset({"max_episode_steps", "disable_env_checker", "vectorization_mode", "vector_kwargs"})
TAKEN = "they are not the environment's own; the time limit is the task's max_episode_steps"
NEW_API = "update it to gymnasium.Env, or wrap it in shimmy.GymV21CompatibilityV0 (pip install 'shimmy[gym-v21]')"
# Where Gymnasium's v5 differs from D4RL's environments, -v2, and from -v4.
V5_NOTES = {
    "Hopper": "its return is 1.0 lower at each fall than that of Hopper-v4 and D4RL",
    "Walker2d": "other physics (a foot's friction) than Walker2d-v4 and D4RL, and its return is 1.0 lower at each fall",
    "Ant": "other observations and rewards than those of Ant-v4 and D4RL",
}
MUJOCO_INSTALL = "pip uninstall -y mujoco mujoco-core mujoco-studio && pip install 'mujoco>=3.3.7,<3.5'"


# ── Guards ────────────────────────────────────────────────────────────────────


def mujoco_version() -> str:
    """Return the version of the MuJoCo library that steps the environments, such as "3.4.0".

    Raises:
        UserError: it cannot be imported, as where MUJOCO_GL names a renderer whose library is missing.
    """
    try:
        import mujoco
    except Exception as error:  # whatever OpenGL's loaders raise
        reason = " ".join(str(error).split()) or "no message"
        named = os.environ.get("MUJOCO_GL")
        how = f"MUJOCO_GL is '{named}': install its library, or unset it" if named else "install it again"
        raise UserError(f"mujoco cannot be imported ({type(error).__name__}: {reason}); {how}") from None

    return str(mujoco.mj_versionString())


def env_spec(env_id: str) -> Any:
    """Return Gymnasium's registration of an id; ``module:Id-v0`` imports the module first.

    Raises:
        UserError: the id is malformed or unknown, or names a -v2 or -v3 robot Gymnasium has given up.
    """
    if not env_id:
        raise UserError("no environment is given: name its Gymnasium id, such as Hopper-v4 (parts.env_id)")
    module, _, name = env_id.rpartition(":")
    old = re.fullmatch(r"(\w+)-v[0-3]", name)
    if old and f"{old[1]}-v4" in gymnasium.registry:
        raise UserError(f"environment '{env_id}' is no longer made by gymnasium: use '{old[1]}-v4'")
    try:
        if module:
            importlib.import_module(module)
        return gymnasium.spec(name)
    except ImportError as error:
        raise UserError(f"environment '{env_id}': module '{module}' cannot be imported ({error})") from None
    except gymnasium.error.Error:
        hint = did_you_mean(name, gymnasium.registry)
        raise UserError(
            f"environment '{env_id}' is not known to gymnasium{hint};"
            f" write 'module:{name}' if a package of yours registers it"
        ) from None


def _refuse_unfit_mujoco(spec: Any) -> None:
    """Raise UserError if the environment is one of the MuJoCo robots of Gymnasium or ours and MuJoCo is too new."""
    if not str(spec.entry_point).startswith(SIMULATED):
        return
    version = mujoco_version()
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers >= FIRST_UNFIT_MUJOCO:
        raise UserError(
            f"mujoco {version} is too new for '{spec.id}': contacts differ from 3.5 on, so scores would not"
            f" be comparable; install an older one: {MUJOCO_INSTALL}"
        )


def _refuse_unfit_spaces(env: Any, env_id: str) -> None:
    """Raise UserError unless observation and action are vectors and the action is bounded."""
    for what, space in (("observation", env.observation_space), ("action", env.action_space)):
        if not isinstance(space, gymnasium.spaces.Box):
            kind = type(space).__name__
            raise UserError(f"environment '{env_id}': {what} space is {kind}, only Box (a vector of floats) works")
        if len(space.shape) != 1:
            raise UserError(f"environment '{env_id}': {what} has shape {space.shape}, only vectors work")
    box = env.action_space
    if not (np.isfinite(box.low).all() and np.isfinite(box.high).all()):
        raise UserError(f"environment '{env_id}': the action space is unbounded, it cannot be scaled to [-1, 1]")


class _Guarded(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A foreign environment: refused if it is of gym's old API, and stepped in the dtype of its action space."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Return observation and info."""
        if not {"seed", "options"} <= _keywords(self.env.reset):
            raise _old_api(self.env, "reset() takes no seed and options")
        answer: object = self.env.reset(seed=seed, options=options)
        if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict)):
            raise _old_api(self.env, "reset() does not return (observation, info)")
        return answer

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Return observation, reward, terminated, truncated and info."""
        answer = self.env.step(np.asarray(action, self.env.action_space.dtype))
        if len(answer) != 5:
            raise _old_api(self.env, f"step() returns {len(answer)} values instead of 5")
        return answer


def _guarded(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Put the guard below all of Gymnasium's wrappers, which take the new API for granted."""
    if not isinstance(env, gymnasium.Wrapper):
        return _Guarded(env)
    inner = env
    while isinstance(inner.env, gymnasium.Wrapper):
        inner = inner.env
    inner.env = _Guarded(inner.env)
    return env


def _keywords(method: Callable[..., Any]) -> set[str]:
    """Return which of seed and options a method takes."""
    parameters = inspect.signature(method).parameters
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    return {"seed", "options"} if takes_any else set(parameters)


def _old_api(env: gymnasium.Env[Any, Any], reason: str) -> UserError:
    name = env.spec.id if env.spec else type(env).__name__
    return UserError(f"environment '{name}' has gym's old API, {reason}: {NEW_API}")


# ── The factory ───────────────────────────────────────────────────────────────


def make_env(env_id: str, env_kwargs: Mapping[str, JsonValue] | None = None) -> Any:
    """Return a ready Gymnasium environment with vector observations and actions in [-1, 1].

    An action space with other bounds is rescaled (`gymnasium.wrappers.RescaleAction`), so a dataset
    for it must hold actions divided by those bounds. Nothing is printed.

    Args:
        env_id: Gymnasium id.
        env_kwargs: passed to the environment's constructor, over those of its registration.

    Raises:
        UserError: unknown or retired id, unfit MuJoCo, spaces that are not vectors, or the
            environment's own constructor failed.
    """
    spec, env_kwargs = env_spec(env_id), dict(env_kwargs or {})
    if taken := TAKEN_KWARGS & env_kwargs.keys():
        raise UserError(f"environment '{env_id}': env_kwargs may not hold {', '.join(sorted(taken))}; {TAKEN}")
    _refuse_unfit_mujoco(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gymnasium calls -v4 out of date; here it is the one wanted
        try:
            env = gymnasium.make(spec, disable_env_checker=True, **env_kwargs)
        except Exception as error:  # a foreign constructor may raise anything
            if "Gym is incompatible with Gymnasium" in str(error):
                raise UserError(f"environment '{env_id}' is of gym, not of gymnasium: {NEW_API}") from None
            reason = " ".join(str(error).split())
            raise UserError(f"environment '{env_id}' cannot be made: {type(error).__name__}: {reason}") from error
    try:
        _refuse_unfit_spaces(env, env_id)
    except UserError:
        env.close()
        raise
    if not str(spec.entry_point).startswith(FAITHFUL):  # those take float64, in which scores are computed
        env = _guarded(env)
    low, high = env.action_space.low, env.action_space.high
    if (low != -1).any() or (high != 1).any():
        return gymnasium.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
    return env


def check_env(
    env_id: str, obs_dim: int, act_dim: int, env_kwargs: Mapping[str, JsonValue] | None = None
) -> tuple[float, float] | None:
    """Return the action bounds that [-1, 1] is rescaled to, (lowest, highest), None where nothing is rescaled.

    Raises:
        UserError: the environment's observation or action has other dimensions, or `make_env` raises it.
    """
    env = make_env(env_id, env_kwargs)
    env_obs_dim, env_act_dim = env.observation_space.shape[0], env.action_space.shape[0]
    own = env.env.action_space if isinstance(env, gymnasium.wrappers.RescaleAction) else None
    env.close()
    for what, data_dim, env_dim in (("observations", obs_dim, env_obs_dim), ("actions", act_dim, env_act_dim)):
        if data_dim != env_dim:
            raise UserError(
                f"the dataset's {what} have {data_dim} dimensions, those of environment '{env_id}'"
                f" have {env_dim}: give the environment the data were recorded in"
            )
    return None if own is None else (float(own.low.min()), float(own.high.max()))


def environment_note(env_id: str, env_kwargs: Mapping[str, JsonValue], bounds: tuple[float, float] | None) -> str:
    """Return in one line what a reader of scores should know of an environment; "" where there is nothing.

    Args:
        env_id: Gymnasium id.
        env_kwargs: what it is made with.
        bounds: of its actions, where they are rescaled.
    """
    notes, robot = [], re.fullmatch(r"(\w+)-v5", env_id)
    if robot and robot[1] in V5_NOTES:
        notes.append(f"{env_id}: {V5_NOTES[robot[1]]}")
    if env_kwargs:
        notes.append(f"{env_id} is made with {', '.join(f'{name}={value}' for name, value in env_kwargs.items())}")
    if bounds:
        notes.append(f"actions of policies and data, in [-1, 1], are rescaled to [{bounds[0]:g}, {bounds[1]:g}]")
    return "; ".join(notes)
