"""Named settings of planners, for the fields that the user does not give."""

from collections.abc import Mapping
from typing import Any

from mpcwdwm.config import Config

__all__ = ["ACTION", "MPPI", "POLICY", "filled"]

Presets = Mapping[str, Mapping[str, Any]]

# Ends plans with the policy's own value, and moves the action equally far everywhere: docs/results.md.
ROBUST = {
    "horizon": 5,
    "updates": 1,
    "reset": "step",
    "critic_from": "value",
    "critic": "mean",
    "step_unit": "state",
    "step_size": 0.1,
}
POLICY: Presets = {
    # The two versions of the paper, as independent readings have them: docs/deviations.md. ψ is reset at an episode's
    # start in a re-implementation alone. v2 takes α from a grid, for each dataset, so it names none.
    "v1": {"horizon": 5, "rollouts": 10, "updates": 5, "step_size": 1e-3, "reset": "episode"},
    "v2": {"horizon": 5, "rollouts": 4096, "updates": 1, "reset": "episode"},
    "robust": ROBUST,
}
ACTION: Presets = {
    "robust": {**ROBUST, "planned": "first"},  # the same objective and step, on the action itself
}
MPPI: Presets = {
    # the best of N samples around the policy's action: one iteration, no Gaussian, nothing kept
    "best_of_n": {
        "horizon": 0,
        "last_action": "planned",
        "updates": 1,
        "samples": 64,
        "policy_samples": 64,
        "policy_std": 0.1,
        "elites": 1,
        "execute": "best",
        "warm_start": False,
    },
}


def filled(config: type[Config], given: Any, presets: Presets) -> Any:
    """Return the fields of a config with its preset's values where the user gives none."""
    if not isinstance(given, dict) or not isinstance(name := given.get("preset"), str) or name not in presets:
        return given
    long = {field.alias: name for name, field in config.model_fields.items() if field.alias}
    named = {long.get(name, name) for name in given}
    return {**{field: value for field, value in presets[name].items() if field not in named}, **given}
