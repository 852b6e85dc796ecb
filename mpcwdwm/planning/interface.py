"""Checks of a user's own parts before the first step: methods, shapes, precision, gradients."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from mpcwdwm.errors import UserError
from mpcwdwm.planning.parts import Params, Parts, Policy, TransitionModel

__all__ = ["check_answers", "check_methods"]

COLUMNS = 2  # rollouts per row of what is tried out: one would hide a wrong shape
NUDGE = 0.1  # change of an input that shows whether an answer depends on it


def check_methods(parts: Parts) -> None:
    """Raise UserError unless policy and world model have the methods of `Policy` and `TransitionModel`."""
    policy, model = type(parts.policy).__name__, type(parts.world_model).__name__
    if not isinstance(parts.policy, Policy):
        raise UserError(f"parts.policy is a {policy} without initial(): give mpcwdwm.ModulePolicy(module)")
    if parts.world_model is not None and not isinstance(parts.world_model, TransitionModel):
        raise UserError(f"parts.world_model is a {model} without noise_shape or sample(): see docs/python.md")


def check_answers(parts: Parts, psi0: Params, obs: Tensor, *, gradient: bool) -> None:
    """Ask every part once, and refuse answers of another shape, precision, or without a gradient.

    Args:
        parts: as the planner uses them.
        psi0: the pretrained parameters, one set per row.
        obs: the first observation, (N, obs_dim).
        gradient: whether the plan follows the gradient through the parts.

    Raises:
        UserError: which part, and what it should have answered.
    """
    n, obs_dim = obs.shape
    dtype = next(iter(psi0.values())).dtype
    if obs.dtype != dtype:
        raise UserError(f"the policy's parameters are {dtype}, the observations {obs.dtype}: give both one precision")
    state = obs.unsqueeze(1).repeat(1, COLUMNS, 1)

    def check(name: str, part: Callable[..., Tensor], inputs: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        answer = _answer(name, part, tuple(inputs.values()), shape, obs)
        try:
            lost = _detached_from(part, inputs) if gradient else None
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"parts.{name} cannot be differentiated: compute it with torch alone ({reason})") from error
        if lost:
            raise UserError(f"parts.{name} is detached from its {lost}: compute it without no_grad, detach or rounding")
        return answer

    action = check("policy", partial(parts.policy, psi0), {"observations": state}, (n, COLUMNS, -1))
    inputs = {"observations": state, "actions": action}
    if parts.critic is not None:
        check("critic", parts.critic, inputs, (n, -1, COLUMNS))
    if (model := parts.world_model) is not None:
        noise = obs.new_zeros(n, COLUMNS, *model.noise_shape)
        check("world_model", lambda obs, action: model.sample(obs, action, noise), inputs, (n, COLUMNS, obs_dim))
    if parts.reward is not None:
        check("reward", parts.reward, inputs, (n, COLUMNS))


def _detached_from(part: Callable[..., Tensor], inputs: Mapping[str, Tensor]) -> str | None:
    """Return an input that changes a part's answer while the gradient is missing or 0, before and after the change."""
    for name, value in inputs.items():
        answers, slopes = list[Tensor](), list[Tensor | None]()
        for here in (value, value - NUDGE * _weights(value).copysign(value)):
            leaf = here.detach().requires_grad_()
            with torch.enable_grad():
                answer = part(*(leaf if other == name else given for other, given in inputs.items()))
                total = (answer * _weights(answer)).sum()
            answers.append(answer.detach())
            slopes.append(torch.autograd.grad(total, leaf, allow_unused=True)[0] if total.requires_grad else None)
        if not torch.equal(*answers) and all(slope is None or not slope.any() for slope in slopes):
            return name
    return None


def _weights(x: Tensor) -> Tensor:
    """Return different numbers from 1 to 2 for all entries of x, so that changes do not cancel in a sum."""
    return torch.linspace(1, 2, x.numel()).to(x).view_as(x)


@torch.no_grad()
def _answer(
    name: str, part: Callable[..., Tensor], inputs: Sequence[Tensor], shape: tuple[int, ...], obs: Tensor
) -> Tensor:
    """Return a part's answer, if it is of this shape (−1: any) and of the precision of `obs`."""
    try:
        found = part(*inputs)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"parts.{name} does not take observations of {obs.shape[1]} numbers as planners give them: {reason}"
        ) from error
    wanted = str(tuple("any" if size < 0 else size for size in shape)).replace("'", "")
    if found.dim() != len(shape) or any(-1 != want != size for want, size in zip(shape, found.shape, strict=True)):
        raise UserError(f"parts.{name} answers with shape {tuple(found.shape)}, it should be {wanted}")
    if found.dtype != obs.dtype:
        raise UserError(f"parts.{name} answers in {found.dtype}, the policy is {obs.dtype}: give both one precision")
    return found
