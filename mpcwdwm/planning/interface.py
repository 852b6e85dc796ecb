"""Checks of a user's own parts before the first step: methods, shapes, precision, gradients."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from mpcwdwm.errors import UserError
from mpcwdwm.planning.parts import Params, Parts, Policy, TransitionModel

__all__ = ["check_answers", "check_methods"]

COLUMNS = 7  # rollouts per row of what is tried out: unlike the number of critics, which would hide a swapped axis
NUDGE = 0.1  # change of an input that shows whether an answer depends on it


def check_methods(parts: Parts) -> None:
    """Raise UserError unless policy and world model have the methods of `Policy` and `TransitionModel`."""
    policy, model = type(parts.policy).__name__, type(parts.world_model).__name__
    if not isinstance(parts.policy, Policy):
        raise UserError(f"parts.policy is a {policy} without initial(): give mpcwdwm.ModulePolicy(module)")
    if parts.world_model is not None and not isinstance(parts.world_model, TransitionModel):
        raise UserError(f"parts.world_model is a {model} without noise_shape or sample(): see docs/python.md")
    if parts.world_model is not None and not isinstance(parts.world_model.noise_shape, Sequence):
        raise UserError(f"noise_shape of parts.world_model ({model}) has to be a tuple of sizes, such as (11,) or ()")


def check_answers(parts: Parts, psi0: Params, obs: Tensor, *, gradient: bool) -> None:
    """Ask every part once, and refuse answers of another shape, type, precision, or without a gradient.

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
        answer = _answer(name, part, inputs, shape)
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
    if parts.termination is not None:
        _answer("termination", parts.termination, {"observations": state}, (n, COLUMNS), torch.bool)


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
        before, after = answers
        changed = not torch.allclose(before, after, rtol=0, atol=0, equal_nan=True)
        if changed and all(slope is None or not slope.any() for slope in slopes):
            return name
    return None


def _weights(x: Tensor) -> Tensor:
    """Return different numbers from 1 to 2 for all entries of x, so that changes do not cancel in a sum."""
    return torch.linspace(1, 2, x.numel()).to(x).view_as(x)


@torch.no_grad()
def _answer(
    name: str,
    part: Callable[..., Tensor],
    inputs: Mapping[str, Tensor],
    shape: tuple[int, ...],
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return a part's answer, if it is of this shape (−1: any) and type (by default the inputs')."""
    given = next(iter(inputs.values())).dtype
    try:
        found: object = part(*inputs.values())
    except Exception as error:  # whatever a user's own part raises
        reason = " ".join(str(error).split())
        sizes = " and ".join(f"{what} of {value.shape[-1]} numbers" for what, value in inputs.items())
        raise UserError(
            f"parts.{name} does not take {sizes} ({given}) as planners give them: {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(found, Tensor):
        raise UserError(f"parts.{name} answers with a {type(found).__name__}, it should be a torch.Tensor")
    wanted = str(tuple("any" if size < 0 else size for size in shape)).replace("'", "")
    if found.dim() != len(shape) or any(-1 != want != size for want, size in zip(shape, found.shape, strict=True)):
        raise UserError(f"parts.{name} answers with shape {tuple(found.shape)}, it should be {wanted}")
    if dtype is not None and found.dtype != dtype:
        raise UserError(f"parts.{name} answers in {found.dtype}, it should be {dtype}")
    if dtype is None and found.dtype != given:
        raise UserError(f"parts.{name} answers in {found.dtype}, the policy is {given}: give both one precision")
    return found
