"""Gradient ascent on actions instead of the policy's parameters, through the same world model and return.

Every row has one open-loop sequence, the same for its M rollouts, or its first action alone, behind which the policy
acts. The first action is executed. Step and objective are those of adaptive MPC: `planning/step_size/alpha.py`.
"""

from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from mpcwdwm.config import Int, setting
from mpcwdwm.planning.ascent import climb
from mpcwdwm.planning.objectives import PenalisedConfig, check_objective, penalised_returns
from mpcwdwm.planning.parts import Params
from mpcwdwm.planning.presets import ACTION, filled
from mpcwdwm.planning.returns import imagined_rollouts, sequence_returns
from mpcwdwm.planning.step_size.alpha import SteppingPlanner, StepSizeChosen, StepSizeConfig, in_unit

__all__ = ["ActionAscent", "ActionConfig"]


class ActionConfig(PenalisedConfig, StepSizeConfig):
    """Settings of the ascent on actions, which is not in the paper."""

    kind: Literal["action"] = setting("action", "kind of planner", paper="none")
    preset: Literal["none", "robust"] = setting(
        "none", "named values of the other fields, where they are not given: docs/algorithm.md", paper="none"
    )
    planned: Literal["sequence", "first"] = setting(
        "sequence",
        "what is ascended: H + 1 actions, the last for the critic; or the first alone, behind which the policy acts",
        paper="none",
    )
    updates: Int = setting(5, "gradient steps per real step", paper="none", alias="E", ge=0, le=1000)
    step_size: StepSizeChosen = setting(
        1e-3, "step of the gradient ascent, 0 or more; auto: chosen by `judge`", unit="see step_unit", paper="none"
    )
    reset: Literal["episode", "step"] = setting(
        "step",
        "where a plan begins: with the policy's actions at every step, or with the last plan, shifted by a step",
        paper="none",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, given: Any) -> Any:
        return filled(cls, given, ACTION)

    @model_validator(mode="after")
    def _something_is_left(self) -> "ActionConfig":
        if self.planned == "first" and (self.reset == "episode" or self.candidate_resets == "both"):
            raise ValueError(
                "planned: first leaves no plan to go on from; give reset: step and candidate_resets: given"
            )
        return self


class ActionAscent(SteppingPlanner):
    """The planner: L actions per row, each in [−1, 1], ascended and then forgotten or shifted.

    With L = H + 1 the terminal critic gets the last of them, so that horizon 0 looks for the critic's best action. An
    action that a step moves out of [−1, 1] is set to the bound.
    """

    config_class = ActionConfig
    config: ActionConfig

    @property
    def length(self) -> int:
        """Return L."""
        return self.config.horizon + 1 if self.config.planned == "sequence" else 1

    def initial(self) -> Params:
        """Return an empty plan; where `fresh`, the start is the policy's."""
        plan = self.obs.new_zeros(self.rows, self.length, self.act_dim)
        return {"plan": plan, "fresh": torch.ones_like(plan[:, 0, 0], dtype=torch.bool)}

    def climbed(self) -> Params:
        """Return the plan that is kept."""
        return {"plan": self.kept["plan"]}

    def prepare(self) -> None:
        """Check that the parts have what the penalties need."""
        check_objective(self.parts, self.config)
        super().prepare()

    def plan(self) -> tuple[Tensor, Tensor, Tensor]:
        """Roll out the start, ascend it, and act with the first action."""
        start = {"plan": self.start()}
        assert self.alpha is not None
        climbed, value, fallen = climb(
            self.objective_of,
            start,
            start,
            self.held_noises(),
            in_unit(self.config, self.alpha, lambda _, gradient: gradient["plan"][:, 0]),
            chunk=self._chunk,
            within=lambda moved: {"plan": moved["plan"].clamp_(-1, 1)},
        )
        plan = climbed["plan"]
        if self.afresh is not None:
            again = fallen | self.afresh
        else:
            again = fallen if self.config.reset == "episode" else torch.ones_like(fallen)
        self.keep({"plan": plan, "fresh": again | ~plan.flatten(1).isfinite().all(1)})
        return plan[:, 0], value, fallen

    def objective_of(self, variables: Params, noise: Tensor) -> Tensor:
        """Return the mean imagined return of every row's actions, less the penalties: (N,)."""
        plans = variables["plan"].unsqueeze(1)
        returns = sequence_returns(
            self.parts,
            self.psi0,
            plans,
            self.obs,
            noise,
            self.config,
            lambda imagined: penalised_returns(self.parts, imagined, self.config),
        )
        return returns.squeeze(1)

    @torch.no_grad()
    def start(self) -> Tensor:
        """Return the sequences to start from, (N, L, act_dim).

        With a stochastic model, the policy's actions are means over the rollouts.
        """
        last = self.length - 1

        def choose(j: int, state: Tensor) -> Tensor:
            own = self.parts.policy(self.psi0, state)  # (N, 1 or M, act_dim)
            if j == last:  # behind the end of the shifted plan
                return own
            return torch.where(self.kept["fresh"].view(-1, 1, 1), own, self.kept["plan"][:, j + 1].unsqueeze(1))

        rolled = imagined_rollouts(self.parts, self.obs, self.noises[0][:, :last], choose, terminate=False)
        return torch.stack([action.mean(1) for action in rolled.action], 1)
