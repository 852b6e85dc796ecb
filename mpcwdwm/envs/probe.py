"""Whether somebody else's environment can be played: made, reset and stepped once before anything is trained for it.

Those of Gymnasium and of this package are known to be, and are not tried.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from pydantic import JsonValue

from mpcwdwm.envs.factory import FAITHFUL, env_spec, make_env
from mpcwdwm.errors import UserError

__all__ = ["check_playable", "import_module_of"]


def import_module_of(env_id: str) -> None:
    """Import the module that an id names, as in ``module:Id-v0``; UserError if its code fails.

    One that is not there is left to `mpcwdwm.envs.factory.env_spec`.
    """
    module = env_id.rpartition(":")[0]
    if not module:
        return
    try:
        import_module(module)
    except ImportError:
        return
    except (Exception, SystemExit) as error:  # whatever the module's own code raises
        raise UserError(
            f"environment '{env_id}': module '{module}' fails when it is imported: {type(error).__name__}: {error}"
        ) from None


def check_playable(env_id: str, env_kwargs: Mapping[str, JsonValue] | None = None) -> None:
    """Raise UserError unless the environment can be made, and answers its first step as its spaces say.

    Args:
        env_id: Gymnasium id.
        env_kwargs: what it is made with.
    """
    if str(env_spec(env_id).entry_point).startswith(FAITHFUL):
        return
    try:
        env = make_env(env_id, env_kwargs)
        try:
            _play(env, env_id)
        finally:
            env.close()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever foreign code raises
        said = " ".join(str(error).split())
        raise UserError(
            f"environment '{env_id}' fails before its second step: {type(error).__name__}: {said}; mend it, and try it"
            " with gymnasium.utils.env_checker.check_env"
        ) from error


def _play(env: Any, env_id: str) -> None:
    own = env.unwrapped.action_space
    if not np.issubdtype(own.dtype, np.floating):
        raise UserError(f"environment '{env_id}': actions of type {own.dtype} would be rounded, only floats work")
    obs, _ = env.reset(seed=0)
    _check(env_id, "reset()", env.observation_space.shape, obs)
    obs, reward, *_ = env.step(np.zeros(env.action_space.shape, np.float32))
    _check(env_id, "step()", env.observation_space.shape, obs)
    if not np.isfinite(float(reward)):
        raise UserError(f"environment '{env_id}': step() returns the reward {reward}: no score follows from it")


def _check(env_id: str, call: str, shape: tuple[int, ...], obs: Any) -> None:
    """Raise UserError unless an observation is one of finite numbers, of the shape that its space names."""
    found = np.asarray(obs)
    if found.shape != shape:
        raise UserError(
            f"environment '{env_id}': {call} returns an observation of shape {found.shape}, its space says {shape}"
        )
    if not np.isfinite(found.astype(np.float64)).all():
        raise UserError(f"environment '{env_id}': {call} returns an observation that is not finite")
