"""Named settings of adaptive MPC."""

from typing import Any

__all__ = ["PRESETS"]

PRESETS: dict[str, dict[str, Any]] = {
    # the method as it is read most often (v2): see docs/deviations.md for the readings that disagree
    "paper": {"horizon": 5, "updates": 1, "reset": "episode"},
    # the policy's own value in imagination instead of its critic, and steps of the same size: docs/results.md
    "robust": {
        "horizon": 5,
        "updates": 1,
        "reset": "step",
        "critic_from": "value",
        "critic": "mean",
        "step_unit": "state",
        "step_size": 0.1,
    },
}
