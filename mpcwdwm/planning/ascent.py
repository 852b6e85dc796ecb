"""Gradient ascent with one independent problem per row, within a budget of memory.

What is climbed is a function of variables and noise; a policy's parameters and a sequence of
actions are variables alike.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mpcwdwm.nn.weight_gradients import gathered_weight_gradients
from mpcwdwm.planning.parts import Params

__all__ = ["Objective", "StepSize", "ascent", "climb", "kept_bytes", "restored", "rollouts_per_pass"]

Objective = Callable[[Params, Tensor], Tensor]
"""(variables, one set (N, …) per row; noise (N, H, M, *noise_shape)) → Ĵ (N,), the mean over the M rollouts."""

StepSize = float | Tensor | Callable[[Params, Params], Tensor]
"""α, one for all rows or one per row (N,); or (variables, their gradient) → one per row."""

# Of the memory a plan may take, the share for what autograd keeps. Gradients on their way, the gaps of the
# allocator between passes and the noise take the rest: the measured peak was 2.5 to 3 times what is kept.
KEPT_SHARE = 0.3


def ascent(objective: Objective, variables: Params, noise: Tensor, chunk: int) -> tuple[Tensor, Params]:
    """Return Ĵ (N,) and ∇Ĵ of every row, at most `chunk` rollouts at a time.

    Ĵ of a row depends on no other row's variables, so the gradient of the sum over rows is every row's own.
    """
    leaves = {name: p.detach().requires_grad_() for name, p in variables.items()}
    value = noise.new_zeros(noise.shape[0])
    gradient: Params = {}
    for part in noise.split(chunk, dim=2):
        with gathered_weight_gradients():
            share = objective(leaves, part) * (part.shape[2] / noise.shape[2])
        gradients = torch.autograd.grad(share.sum(), list(leaves.values()), materialize_grads=True)
        value += share.detach()
        gradient = {n: gradient[n] + g if gradient else g for n, g in zip(leaves, gradients, strict=True)}
    return value, gradient


def climb(
    objective: Objective,
    variables: Params,
    safe: Params,
    noises: Sequence[Tensor],
    step_size: StepSize,
    *,
    chunk: int | None = None,
    project: Callable[[Tensor], Tensor] = lambda p: p,
    within: Callable[[Params], Params] = lambda variables: variables,
) -> tuple[Params, Tensor, Tensor]:
    """Plain gradient ascent, one step for each of `noises`: x ← project(x + α ∇Ĵ(x)).

    A row whose objective or gradient is not finite goes back to its safe variables; no other row notices.

    Args:
        objective: what to climb.
        variables: where to start, one set per row.
        safe: where a row falls back to.
        noises: the noise of each step.
        step_size: α, one or one per row (N,), or what gives it for the variables and their gradient.
        chunk: rollouts per backward pass; None for all.
        project: keeps the variables where they may be; may work in place.
        within: the same for all variables of a row together, after every step.

    Returns:
        The variables, Ĵ before the last step (N,), and which rows fell back (N,).
    """
    rows = len(next(iter(variables.values())))
    like = next(iter(variables.values()))
    fallen = torch.zeros(rows, dtype=torch.bool, device=like.device)
    value = like.new_full((rows,), float("nan"))
    for noise in noises:
        value, gradient = ascent(objective, variables, noise, chunk or noise.shape[2])
        finite = value.isfinite()
        for g in gradient.values():
            finite = finite & g.flatten(1).sum(1).isfinite()  # one pass: nan and inf survive a sum
        fallen = fallen | ~finite
        # the sum takes the gradient's place: a policy per row is the largest tensor here, and new memory
        # costs page faults
        alpha = step_size(variables, gradient) if callable(step_size) else step_size
        moved = {n: project(_step(p, gradient[n], alpha)) for n, p in variables.items()}
        variables = within(restored(moved, safe, fallen))
    return variables, value, fallen


def _step(variable: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
    """Return variable + α gradient, in the gradient's place."""
    if isinstance(step_size, Tensor):
        return gradient.mul_(step_size.view(-1, *[1] * (gradient.dim() - 1))).add_(variable)
    return torch.add(variable, gradient, alpha=step_size, out=gradient)


def restored(variables: Params, safe: Params, fallen: Tensor) -> Params:
    """Return the variables, with the safe ones in the rows that fell back."""
    if looking_is_free(fallen.device) and not fallen.any():  # spares a pass over them
        return variables
    return {name: torch.where(fallen.view(-1, *[1] * (p.dim() - 1)), safe[name], p) for name, p in variables.items()}


def looking_is_free(device: torch.device) -> bool:
    """Return whether Python may read a tensor there: on an accelerator it would wait for the device."""
    return device.type == "cpu"


# -------------------------------------------------------------------------------------------- memory


def kept_bytes(work: Callable[[], Tensor]) -> int:
    """Return the size of what autograd keeps for the backward pass of `work`."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        value = work()
    assert value.requires_grad  # keeps the graph, and with it the storages, alive until here
    return sum(storages.values())


def rollouts_per_pass(objective: Objective, variables: Params, noise: Tensor, memory_gb: float) -> int:
    """Return how many rollouts of every row one backward pass may have within `memory_gb`.

    What autograd keeps for one more rollout is measured, so it holds for any objective and any part.
    """
    if noise.shape[2] < 3:  # too few to measure the difference one makes
        return noise.shape[2]
    leaves = {name: p.detach().requires_grad_() for name, p in variables.items()}
    kept = [kept_bytes(lambda m=m: objective(leaves, noise[:, :, :m])) for m in (3, 2)]  # type: ignore[misc]
    return max(1, int(KEPT_SHARE * memory_gb * 1e9 / max(1, kept[0] - kept[1])))
