"""Planners by the name the YAML gives as `kind`."""

from typing import Annotated, Any

from pydantic import AfterValidator, ValidationError

from mpcwdwm.errors import UserError
from mpcwdwm.planning.planner import Planner, PlannerConfig
from mpcwdwm.registry import Registry, subclass_of
from mpcwdwm.validation import first_finding

__all__ = ["DEFAULT_KIND", "PLANNERS", "PlannerFields", "planner_class", "planner_config"]

DEFAULT_KIND = "policy"  # the method itself
PLANNERS: Registry[type[Planner]] = Registry(
    "planner kind",
    "mpcwdwm.planners",
    subclass_of(Planner),
    "a subclass of mpcwdwm.planning.Planner, its config_class one of PlannerConfig",
    {
        "policy": "mpcwdwm.planning.mpc:AdaptiveMpc",
        "action": "mpcwdwm.planning.action:ActionAscent",
        "mppi": "mpcwdwm.planning.mppi:Mppi",
        "diffuser": "mpcwdwm.planning.guided:GuidedSampling",
        "random": "mpcwdwm.planning.random_direction:RandomDirection",
        "none": "mpcwdwm.planning.frozen:Frozen",
    },
)


def planner_config(fields: dict[str, Any]) -> PlannerConfig:
    """Resolve a planner's config from the fields that differ from the defaults.

    Raises:
        UserError: unknown kind.
        pydantic.ValidationError: unknown field or impossible value.
    """
    return PLANNERS[str(fields.get("kind", DEFAULT_KIND))].config_class.model_validate(fields)


def planner_class(config: PlannerConfig) -> type[Planner]:
    """Return the class that `config` configures.

    Raises:
        UserError: unknown kind, or the kind has another class of configs.
    """
    found = PLANNERS[config.kind]
    if not isinstance(config, found.config_class):
        named = type(config).__name__
        raise UserError(f"planner kind '{config.kind}' is configured by {found.config_class.__name__}, not by {named}")
    return found


def _resolved(fields: dict[str, Any]) -> dict[str, Any]:
    """Return all fields of the planner that some of them configure; what is wrong is one line."""
    try:
        return planner_config(fields).to_dict()
    except ValidationError as error:
        kind = PLANNERS[str(fields.get("kind", DEFAULT_KIND))].config_class
        raise UserError(first_finding(error, lambda at: kind.model_fields if not at else ()).message) from None


PlannerFields = Annotated[dict[str, Any], AfterValidator(_resolved)]
"""A planner in a config: its fields, as under `planners` in a YAML."""
