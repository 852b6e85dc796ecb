"""A control: the policy's action, moved by a given distance in a random direction.

It has the step of `step_unit: state` and looks at no model. What a planner gains with steps of the same size, and this
does not, comes from where it steps.
"""

from typing import Literal

from torch import Tensor

from mpcwdwm.config import Real, setting
from mpcwdwm.planning.planner import Planner, PlannerConfig

__all__ = ["RandomDirection", "RandomDirectionConfig"]


class RandomDirectionConfig(PlannerConfig):
    """Settings of the control."""

    kind: Literal["random"] = setting("random", "kind of planner", paper="none")
    step_size: Real = setting(0.1, "how far the action is moved at every real state", unit="action", paper="none", ge=0)


class RandomDirection(Planner):
    """The planner: a = clip(π₀(s) + size · u, −1, 1), u uniform on the unit sphere; its imagined return is nan."""

    config_class = RandomDirectionConfig
    config: RandomDirectionConfig

    def noise_shapes(self) -> list[tuple[int, ...]]:
        """Return one normal per row and action dimension: its direction is uniform."""
        return [(self.act_dim,)]

    def plan(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the moved action."""
        normal = self.noises[0]
        direction = normal / normal.norm(dim=1, keepdim=True)
        action = (self.pretrained_action() + self.config.step_size * direction).clamp(-1, 1)
        nothing = self.obs.new_full((self.rows,), float("nan"))
        return action, nothing, nothing.new_zeros(self.rows).bool()
