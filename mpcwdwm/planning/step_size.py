"""The step size of adaptive MPC: given, measured in units of the action, or chosen by a judge.

A raw α means something else on every task: it multiplies a gradient whose size depends on the rewards, the critic
and the network. Measured in units of the action it says how far one real step's adaptation moves the action, in the
median over held-out states of the dataset; that carries over from task to task.
"""

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from mpcwdwm.config import Config, Real, setting
from mpcwdwm.errors import UserError
from mpcwdwm.random import generator

if TYPE_CHECKING:
    from mpcwdwm.planning.mpc import AdaptiveMpc

__all__ = ["StepSizeConfig", "action_unit", "step_sizes"]

PROBED_ROWS = 64  # held-out states on which the change of the action is measured
PROBE = 0.01  # change of the action aimed at: small enough to be proportional to α, far above rounding
FIRST_ALPHA = 1e-5  # tried first
PROBES = 8  # at most; each may correct α by a factor of
LARGEST_CORRECTION = 1e3


class StepSizeConfig(Config):
    """How α is found."""

    step_size: Real | Literal["auto"] = setting(
        1e-5, "α, step of the gradient ascent; auto: chosen by `judge`", paper="1e-3 (v1), 5e-7 to 5e-4 (v2)", ge=0
    )
    step_unit: Literal["raw", "action"] = setting(
        "raw",
        "raw: α itself; action: how far a real step's adaptation moves the action, in the median over held-out states",
        paper="raw",
    )

    @property
    def judges_need(self) -> tuple[str, ...]:
        """The components that only judge."""
        return ("bc",) if self.step_size == "auto" else ()


def step_sizes(planner: "AdaptiveMpc") -> tuple[float | Tensor, Any]:
    """Return α, one or one per row (N,), and the judgement that led to it, if any did.

    Raises:
        UserError: it has to be measured, and there is no dataset or nothing held out.
    """
    config = planner.config
    if config.step_unit == "raw" and config.step_size != "auto":
        return float(config.step_size), None
    unit = action_unit(planner)  # (S,)
    assert config.step_size != "auto"
    return (unit * config.step_size).repeat_interleave(planner.episodes), None


def action_unit(planner: "AdaptiveMpc") -> Tensor:
    """Return the α at which one real step's adaptation moves the action by 1, extrapolated from small steps.

    In the median over held-out states, starting from the pretrained policy: one for every member, (S,). 0 where the
    action does not move whatever α is.
    """
    dataset = planner.parts.dataset
    if dataset is None or not dataset.heldout.any():
        raise UserError("step_unit: action is measured on held-out episodes: set parts.dataset to one that has some")
    rows = torch.from_numpy(dataset.heldout.nonzero()[0])
    picked = [
        rows[torch.randint(len(rows), (PROBED_ROWS,), generator=generator(seed, "step_size"))] for seed in planner.seeds
    ]
    obs = torch.from_numpy(dataset.obs)[torch.cat(picked)].to(planner.parts.device, planner.dtype)
    twin = planner.twin(PROBED_ROWS, step_size=0.0, step_unit="raw", reset="step", trust_region=None)
    alpha = obs.new_full((len(planner.seeds),), FIRST_ALPHA)
    change = torch.zeros_like(alpha)
    for probe in range(PROBES):
        twin.alpha = alpha.repeat_interleave(PROBED_ROWS)
        twin.reset()
        action = twin.act(obs)[0]
        moved = (action - twin.pretrained_action()).norm(dim=-1)
        change = moved.unflatten(0, (-1, PROBED_ROWS)).median(1).values  # (S,)
        near = (change > PROBE / 2) & (change < PROBE * 2)
        if near.all() or probe == PROBES - 1:
            break
        correction = (PROBE / change).clamp(1 / LARGEST_CORRECTION, LARGEST_CORRECTION)
        alpha = torch.where(near, alpha, alpha * correction)
    return torch.where(change > 0, alpha / change, 0.0)
