"""No adaptation: the policy acts as it was trained."""

from typing import Literal

import torch
from torch import Tensor

from mpcwdwm.config import setting
from mpcwdwm.planning.planner import Planner, PlannerConfig

__all__ = ["Frozen", "FrozenConfig"]


class FrozenConfig(PlannerConfig):
    """Settings of no adaptation."""

    kind: Literal["none"] = setting("none", "kind of planner")


class Frozen(Planner):
    """The frozen policy as a planner; its imagined return is nan."""

    config_class = FrozenConfig
    config: FrozenConfig

    def plan(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pretrained policy's action."""
        nothing = self.obs.new_full((self.rows,), float("nan"))
        return self.pretrained_action(), nothing, torch.zeros_like(nothing, dtype=torch.bool)

    def _plan_or_fall_back(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.plan()
