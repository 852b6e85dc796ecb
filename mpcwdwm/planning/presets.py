"""Named settings of adaptive MPC."""

from typing import Any

__all__ = ["PRESETS"]

PRESETS: dict[str, dict[str, Any]] = {
    # version 2 of the paper, where the versions disagree: docs/deviations.md
    "paper": {"horizon": 5, "updates": 1, "reset": "episode"},
    # ends plans with the policy's own value, and moves the action equally far everywhere: docs/results.md
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
