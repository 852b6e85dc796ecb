"""Planning at run time: the parts, and the planners that adapt a policy with them."""

from mpcwdwm.planning.action import ActionAscent, ActionConfig
from mpcwdwm.planning.assemble import assemble
from mpcwdwm.planning.frozen import Frozen, FrozenConfig
from mpcwdwm.planning.mpc import AdaptiveMpc, MpcConfig, adapt, imagine, objective
from mpcwdwm.planning.mppi import Mppi, MppiConfig
from mpcwdwm.planning.parts import ModulePolicy, Parts
from mpcwdwm.planning.planner import AdaptingConfig, LookaheadConfig, Planner, PlannerConfig
from mpcwdwm.planning.random_direction import RandomDirection, RandomDirectionConfig
from mpcwdwm.planning.registry import DEFAULT_KIND, PLANNERS, planner_class, planner_config
from mpcwdwm.planning.returns import sequence_returns

__all__ = [
    "DEFAULT_KIND",
    "PLANNERS",
    "ActionAscent",
    "ActionConfig",
    "AdaptingConfig",
    "AdaptiveMpc",
    "Frozen",
    "FrozenConfig",
    "LookaheadConfig",
    "ModulePolicy",
    "MpcConfig",
    "Mppi",
    "MppiConfig",
    "Parts",
    "Planner",
    "PlannerConfig",
    "RandomDirection",
    "RandomDirectionConfig",
    "adapt",
    "assemble",
    "imagine",
    "objective",
    "planner_class",
    "planner_config",
    "sequence_returns",
]
