"""Gradient ascent on the actions instead of the policy's parameters, through the same world model and return.

Every row has one open-loop sequence, the same for its M rollouts; its first action is executed.
"""

from typing import Literal

import torch
from torch import Tensor

from mpcwdwm.config import Flag, Int, Real, setting
from mpcwdwm.planning.ascent import climb, rollouts_per_pass
from mpcwdwm.planning.parts import Params
from mpcwdwm.planning.planner import AdaptingConfig, Planner
from mpcwdwm.planning.returns import imagined_rollouts, sequence_returns

__all__ = ["ActionAscent", "ActionConfig"]


class ActionConfig(AdaptingConfig):
    """Settings of the ascent on actions, which is not in the paper."""

    kind: Literal["action"] = setting("action", "kind of planner", paper="none")
    updates: Int = setting(5, "gradient steps per real step", paper="none", alias="E", ge=0, le=1000)
    step_size: Real = setting(1e-3, "step of the gradient ascent", unit="action² per return", paper="none", ge=0)
    warm_start: Flag = setting(
        False, "begin with the last plan, shifted by a step; else with the policy's", paper="none"
    )


class ActionAscent(Planner):
    """The planner: H + 1 actions per row, each in [−1, 1], ascended and then forgotten or shifted.

    The terminal critic gets the last of them, so that horizon 0 looks for the critic's best action.
    """

    config_class = ActionConfig
    follows_gradient = True
    config: ActionConfig

    def initial(self) -> Params:
        """Return an empty plan; where `fresh`, the start is the policy's."""
        plan = self.obs.new_zeros(self.rows, self.config.horizon + 1, self.act_dim)
        return {"plan": plan, "fresh": torch.ones_like(plan[:, 0, 0], dtype=torch.bool)}

    def prepare(self) -> None:
        """Measure how many rollouts a backward pass may have."""
        start = {"plan": self.kept["plan"]}
        self._chunk = rollouts_per_pass(self.returns, start, self.noises[0], self.config.memory_gb)

    def plan(self) -> tuple[Tensor, Tensor, Tensor]:
        """Roll out the start, ascend it, and act with the first action."""
        start = {"plan": self.start()}
        noises = [self.noises[e % len(self.noises)] for e in range(self.config.updates)]
        climbed, value, fallen = climb(
            self.returns,
            start,
            start,
            noises,
            self.config.step_size,
            chunk=self._chunk,
            within=lambda moved: {"plan": moved["plan"].clamp_(-1, 1)},
        )
        plan = climbed["plan"]
        again = fallen if self.config.warm_start else torch.ones_like(fallen)
        self.keep({"plan": plan, "fresh": again | ~plan.flatten(1).isfinite().all(1)})
        return plan[:, 0], value, fallen

    def returns(self, variables: Params, noise: Tensor) -> Tensor:
        """Return the mean imagined return of every row's sequence, (N,)."""
        plans = variables["plan"].unsqueeze(1)
        return sequence_returns(self.parts, self.psi0, plans, self.obs, noise, self.config).squeeze(1)

    @torch.no_grad()
    def start(self) -> Tensor:
        """Return the sequences to start from, (N, H + 1, act_dim).

        With a stochastic model, the policy's actions are means over the rollouts.
        """
        horizon = self.config.horizon

        def choose(j: int, state: Tensor) -> Tensor:
            own = self.parts.policy(self.psi0, state)  # (N, 1 or M, act_dim)
            if j == horizon:  # behind the end of the shifted plan
                return own
            return torch.where(self.kept["fresh"].view(-1, 1, 1), own, self.kept["plan"][:, j + 1].unsqueeze(1))

        rolled = imagined_rollouts(self.parts, self.obs, self.noises[0], choose, terminate=False)
        return torch.stack([action.mean(1) for action in rolled.action], 1)
