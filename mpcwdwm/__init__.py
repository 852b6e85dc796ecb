"""Inference-time policy adaptation in offline RL, with differentiable world models."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "AdaptiveMpc": "mpcwdwm.planning",
    "ModulePolicy": "mpcwdwm.planning",
    "MpcConfig": "mpcwdwm.planning",
    "Parts": "mpcwdwm.planning",
    "UserError": "mpcwdwm.errors",
    "evaluate": "mpcwdwm.evaluation.evaluate",
    "load": "mpcwdwm.api",
    "make_env": "mpcwdwm.envs.factory",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    # Imported on first use: `mpcwdwm --help` and a bare `import mpcwdwm` should not wait for torch.
    if name not in _EXPORTS:
        raise AttributeError(f"module 'mpcwdwm' has no attribute '{name}'")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value
