"""Named settings of adaptive MPC."""

from typing import Any

__all__ = ["PRESETS"]

PRESETS: dict[str, dict[str, Any]] = {
    # the method as it is read most often (v2): see docs/deviations.md for the readings that disagree
    "paper": {"horizon": 5, "updates": 1, "reset": "episode"},
    "robust": {
        "horizon": 5,
        "updates": 1,
        "reset": "step",
        "objective": "advantage",
        "step_unit": "action",
        "step_size": 0.05,
    },
}
