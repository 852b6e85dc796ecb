"""Planners by the name the YAML gives as `kind`: one line each."""

from typing import Any

from mpcwdwm.config import Config
from mpcwdwm.errors import UserError, did_you_mean
from mpcwdwm.planning.action import ActionAscent
from mpcwdwm.planning.frozen import Frozen
from mpcwdwm.planning.mpc import AdaptiveMpc
from mpcwdwm.planning.mppi import Mppi
from mpcwdwm.planning.planner import Planner

__all__ = ["DEFAULT_KIND", "PLANNERS", "PLANNER_CLASSES", "planner_config"]

DEFAULT_KIND = "policy"  # the method itself
PLANNER_CLASSES: dict[str, type[Planner]] = {
    "policy": AdaptiveMpc,
    "action": ActionAscent,
    "mppi": Mppi,
    "none": Frozen,
}
PLANNERS: dict[str, type[Config]] = {kind: planner.config_class for kind, planner in PLANNER_CLASSES.items()}


def planner_config(overrides: dict[str, Any]) -> Config:
    """Resolve a planner's config from the fields that differ from the defaults.

    Raises:
        UserError: unknown kind.
        pydantic.ValidationError: unknown field or impossible value.
    """
    kind = overrides.get("kind", DEFAULT_KIND)
    if kind not in PLANNERS:
        raise UserError(
            f"unknown planner kind '{kind}'{did_you_mean(str(kind), PLANNERS)}; known: {', '.join(PLANNERS)}"
        )
    return PLANNERS[kind](**overrides)
