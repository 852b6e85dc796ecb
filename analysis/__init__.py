"""Statistics, tables and figures of sweeps, read from MLflow; `analysis.load` hands a sweep to a notebook."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.frames import Runs as Runs
    from analysis.frames import load as load
    from analysis.statistics import aggregate as aggregate
    from analysis.statistics import paired_gain as paired_gain
    from analysis.statistics import performance_profile as performance_profile
    from analysis.statistics import permutation_test as permutation_test
    from analysis.statistics import probability_of_improvement as probability_of_improvement
    from analysis.statistics import sample_efficiency as sample_efficiency
    from analysis.statistics import tuning_effort as tuning_effort

_EXPORTS = {
    "Runs": "analysis.frames",
    "load": "analysis.frames",
    "aggregate": "analysis.statistics",
    "paired_gain": "analysis.statistics",
    "performance_profile": "analysis.statistics",
    "probability_of_improvement": "analysis.statistics",
    "permutation_test": "analysis.statistics",
    "sample_efficiency": "analysis.statistics",
    "tuning_effort": "analysis.statistics",
}
__all__ = [*_EXPORTS]


def __getattr__(name: str) -> object:
    # Imported on first use: what only needs a submodule should not wait for pandas.
    if name not in _EXPORTS:
        raise AttributeError(f"module 'analysis' has no attribute '{name}'")
    return getattr(import_module(_EXPORTS[name]), name)
