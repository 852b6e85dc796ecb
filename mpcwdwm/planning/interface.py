"""What a user's own parts get wrong, said once before the first step: methods, shapes, precision, gradients."""

from collections.abc import Callable

import torch
from torch import Tensor

from mpcwdwm.errors import UserError
from mpcwdwm.planning.parts import Params, Parts

__all__ = ["check_answers", "check_methods"]

COLUMNS = 2  # rollouts per row of what is tried out: one would hide a wrong shape


def check_methods(parts: Parts) -> None:
    """Raise UserError unless policy and world model have the methods of `Policy` and `WorldModel`."""
    if not callable(getattr(parts.policy, "initial", None)):
        kind = type(parts.policy).__name__
        raise UserError(f"parts.policy is a {kind} without initial(): give mpcwdwm.ModulePolicy(module)")
    model = parts.world_model
    for name in ("noise_shape", "sample") if model is not None else ():
        if not hasattr(model, name):
            raise UserError(f"parts.world_model is a {type(model).__name__} without {name}: see docs/python.md")


def check_answers(parts: Parts, psi0: Params, obs: Tensor, *, gradient: bool) -> None:
    """Ask every part once, and refuse answers of another shape, precision, or without a gradient.

    Args:
        parts: as the planner uses them.
        psi0: the pretrained parameters, one set per row.
        obs: the first observation, (N, obs_dim).
        gradient: whether the plan follows the gradient of world model and critic.

    Raises:
        UserError: which part, and what it should have answered.
    """
    n, obs_dim = obs.shape
    dtype = next(iter(psi0.values())).dtype
    if obs.dtype != dtype:
        raise UserError(f"the policy's parameters are {dtype}, the observations {obs.dtype}: give both one precision")
    state = obs.unsqueeze(1).repeat(1, COLUMNS, 1).requires_grad_()
    with torch.enable_grad():
        action = _answer("policy", lambda: parts.policy(psi0, state), (n, COLUMNS, -1), obs).detach().requires_grad_()
        critic, model, reward = parts.critic, parts.world_model, parts.reward
        answers = list[tuple[str, Tensor]]()
        if critic is not None:
            answers.append(("critic", _answer("critic", lambda: critic(state, action), (n, -1, COLUMNS), obs)))
        if model is not None:
            noise = obs.new_zeros(n, COLUMNS, *model.noise_shape)
            after = _answer("world_model", lambda: model.sample(state, action, noise), (n, COLUMNS, obs_dim), obs)
            answers.append(("world_model", after))
        if reward is not None:
            _answer("reward", lambda: reward(state, action), (n, COLUMNS), obs)
        for name, answer in answers if gradient else ():
            if not answer.requires_grad:
                raise UserError(f"parts.{name} is detached from its inputs: compute it without no_grad or detach")


def _answer(name: str, ask: Callable[[], Tensor], shape: tuple[int, ...], obs: Tensor) -> Tensor:
    """Return a part's answer, if it is of this shape (−1: any) and of the precision of `obs`."""
    try:
        found = ask()
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
