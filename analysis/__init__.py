"""Statistics, tables and figures of sweeps, read from MLflow; `analysis.load` hands a sweep to a notebook."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.frames import Runs as Runs
    from analysis.frames import load as load

_EXPORTS = {"Runs": "analysis.frames", "load": "analysis.frames"}
__all__ = [*_EXPORTS]


def __getattr__(name: str) -> object:
    # Imported on first use: what only needs a submodule should not wait for pandas.
    if name not in _EXPORTS:
        raise AttributeError(f"module 'analysis' has no attribute '{name}'")
    return getattr(import_module(_EXPORTS[name]), name)
