"""Named settings of adaptive MPC."""

from typing import Any

__all__ = ["PRESETS"]

PRESETS: dict[str, dict[str, Any]] = {
    # the method as it is read most often (v2): see docs/deviations.md for the readings that disagree
    "paper": {"horizon": 5, "updates": 1, "reset": "episode"},
    # ReBRAC's own term put back, and a small step that means the same on every task: docs/results.md
    "robust": {
        "horizon": 5,
        "updates": 1,
        "reset": "step",
        "anchor": 1.0,
        "step_unit": "action",
        "step_size": 0.01,
    },
}
