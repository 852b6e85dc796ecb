"""Inference-time policy adaptation in offline RL, with differentiable world models."""

from importlib import import_module
from typing import TYPE_CHECKING

import mpcwdwm.envs.registration  # noqa: F401  Gymnasium learns our ids, in a tenth of a second

if TYPE_CHECKING:  # the types of what is imported on first use
    from mpcwdwm.api import load as load
    from mpcwdwm.components import component_config as component_config
    from mpcwdwm.components.loading import stacked as stacked
    from mpcwdwm.data import find_task as find_task
    from mpcwdwm.data import read_dataset as read_dataset
    from mpcwdwm.envs.factory import make_env as make_env
    from mpcwdwm.errors import UserError as UserError
    from mpcwdwm.evaluation.evaluate import evaluate as evaluate
    from mpcwdwm.planning import ActionAscent as ActionAscent
    from mpcwdwm.planning import ActionConfig as ActionConfig
    from mpcwdwm.planning import AdaptiveMpc as AdaptiveMpc
    from mpcwdwm.planning import Frozen as Frozen
    from mpcwdwm.planning import FrozenConfig as FrozenConfig
    from mpcwdwm.planning import ModulePolicy as ModulePolicy
    from mpcwdwm.planning import MpcConfig as MpcConfig
    from mpcwdwm.planning import Mppi as Mppi
    from mpcwdwm.planning import MppiConfig as MppiConfig
    from mpcwdwm.planning import Parts as Parts
    from mpcwdwm.planning import Planner as Planner
    from mpcwdwm.planning import assemble as assemble
    from mpcwdwm.training.loop import train as train

__version__ = "0.1.0"

_MODULES = {
    "mpcwdwm.api": "load",
    "mpcwdwm.components": "component_config",
    "mpcwdwm.components.loading": "stacked",
    "mpcwdwm.data": "find_task read_dataset",
    "mpcwdwm.envs.factory": "make_env",
    "mpcwdwm.errors": "UserError",
    "mpcwdwm.evaluation.evaluate": "evaluate",
    "mpcwdwm.planning": "ActionAscent ActionConfig AdaptiveMpc Frozen FrozenConfig ModulePolicy MpcConfig "
    "Mppi MppiConfig Parts Planner assemble",
    "mpcwdwm.training.loop": "train",
}
_EXPORTS = {name: module for module, names in _MODULES.items() for name in names.split()}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> object:
    # Imported on first use: `mpcwdwm --help` and a bare `import mpcwdwm` should not wait for torch.
    if name not in _EXPORTS:
        raise AttributeError(f"module 'mpcwdwm' has no attribute '{name}'")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
