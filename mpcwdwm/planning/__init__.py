"""Planning at run time: the parts, and the planners that adapt a policy with them."""

from mpcwdwm.planning.mpc import AdaptiveMpc, MpcConfig, adapt, imagine, objective
from mpcwdwm.planning.parts import ModulePolicy, Parts, load_parts
from mpcwdwm.planning.registry import DEFAULT_KIND, PLANNERS, planner_config

__all__ = [
    "DEFAULT_KIND",
    "PLANNERS",
    "AdaptiveMpc",
    "ModulePolicy",
    "MpcConfig",
    "Parts",
    "adapt",
    "imagine",
    "load_parts",
    "objective",
    "planner_config",
]
