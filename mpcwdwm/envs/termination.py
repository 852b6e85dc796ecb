"""Termination rules: which observations end an episode, per robot.

In the Gym-MuJoCo tasks termination is a known function of the state, so imagined rollouts can end where real ones
would. Each rule reads observations of Gymnasium's -v4 environments, not normalised, of any leading shape. They clip
velocities to ±10, so Hopper's limit of 100 on velocities never applies.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mpcwdwm.registry import Registry, is_function

__all__ = ["RULES", "Rule", "ant", "halfcheetah", "hopper", "walker2d"]

# Healthy ranges, the defaults of gymnasium.envs.mujoco's Hopper-v4, Walker2d-v4 and Ant-v4.
HOPPER_LOWEST = 0.7  # torso height [m]
HOPPER_TILT = 0.2  # torso angle [rad]
HOPPER_STATE = 100.0  # every other coordinate and velocity
WALKER2D_LOWEST, WALKER2D_HIGHEST = 0.8, 2.0  # torso height [m]
WALKER2D_TILT = 1.0  # torso angle [rad]
ANT_LOWEST, ANT_HIGHEST = 0.2, 1.0  # torso height [m], bounds included


def hopper(obs: Tensor) -> Tensor:
    """Return whether Hopper has fallen: obs (..., 11) → bool (...)."""
    upright = (obs[..., 0] > HOPPER_LOWEST) & (obs[..., 1].abs() < HOPPER_TILT)
    return ~(upright & (obs[..., 1:].abs() < HOPPER_STATE).all(-1))


def walker2d(obs: Tensor) -> Tensor:
    """Return whether Walker2d has fallen: obs (..., 17) → bool (...)."""
    height = obs[..., 0]
    upright = (height > WALKER2D_LOWEST) & (height < WALKER2D_HIGHEST) & (obs[..., 1].abs() < WALKER2D_TILT)
    return ~upright


def halfcheetah(obs: Tensor) -> Tensor:
    """Return False everywhere, HalfCheetah never terminates: obs (..., 17) → bool (...)."""
    return torch.zeros(obs.shape[:-1], dtype=torch.bool, device=obs.device)


def ant(obs: Tensor) -> Tensor:
    """Return whether Ant has left its height range or is not finite: obs (..., 27) → bool (...)."""
    height = obs[..., 0]
    return ~((height >= ANT_LOWEST) & (height <= ANT_HIGHEST) & torch.isfinite(obs).all(-1))


Rule = Callable[[Tensor], Tensor]
"""obs (..., obs_dim) → bool (...): whether an episode ends there."""


RULES: Registry[Rule] = Registry(
    "termination rule",
    "mpcwdwm.termination",
    is_function,
    "a function: obs (..., obs_dim) → bool (...)",
    {name: f"{__name__}:{name}" for name in ("hopper", "walker2d", "halfcheetah", "ant")},
)
