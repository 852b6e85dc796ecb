"""Gradient ascent on policy parameters or actions, one independent problem per row, within a budget of memory."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from mpcwdwm.nn.weight_gradients import gathered_weight_gradients
from mpcwdwm.planning.evaluations import counting, passes
from mpcwdwm.planning.parts import Params

__all__ = ["Objective", "StepSize", "ascent", "climb", "kept_bytes", "restored", "rollouts_per_pass"]

Objective = Callable[[Params, Tensor], Tensor]
"""(variables, one set (N, …) per row; noise (N, H, M, *noise_shape)) → Ĵ (N,), the mean over the M rollouts."""

StepSize = float | Tensor | Callable[[Params, Params], Tensor]
"""α, one for all rows or one per row (N,); or (variables, their gradient) → one per row."""

# Share of a plan's memory for what autograd keeps. Gradients, the allocator's gaps between passes and the noise take
# the rest: the measured peak was 2.5 to 3 times what is kept.
KEPT_SHARE = 0.3


def ascent(objective: Objective, variables: Params, noise: Tensor, chunk: int) -> tuple[Tensor, Params]:
    """Return Ĵ (N,) and ∇Ĵ of every row, at most `chunk` rollouts at a time.

    A row's Ĵ depends on its own variables alone, so the gradient of the sum holds every row's own.
    """
    leaves = {name: p.detach().requires_grad_() for name, p in variables.items()}
    value = noise.new_zeros(noise.shape[0])
    gradient: Params = {}
    for part in passes(noise, chunk):
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
    within: Callable[[Params], Params] = lambda variables: variables,
) -> tuple[Params, Tensor, Tensor]:
    """Plain gradient ascent, one step for each of `noises`: x ← within(x + α ∇Ĵ(x)).

    A row whose objective or gradient is not finite goes back to its safe variables, without an effect on other rows.

    Args:
        objective: what to climb.
        variables: where to start, one set per row.
        safe: where a row falls back to.
        noises: the noise of each step.
        step_size: α, one or one per row (N,), or what gives it for the variables and their gradient.
        chunk: rollouts per backward pass; None for all.
        within: returns the nearest allowed variables, after every step; may work in place.

    Returns:
        The variables, Ĵ before the last step (N,), and which rows fell back (N,).
    """
    like = next(iter(variables.values()))
    value = like.new_full((len(like),), float("nan"))
    fallen = torch.zeros_like(value, dtype=torch.bool)
    for noise in noises:
        value, gradient = ascent(objective, variables, noise, chunk or noise.shape[2])
        finite = value.isfinite()
        for g in gradient.values():
            finite = finite & g.flatten(1).sum(1).isfinite()  # one pass: nan and inf survive a sum
        fallen = fallen | ~finite
        alpha = step_size(variables, gradient) if callable(step_size) else step_size
        moved = {n: _step(p, gradient[n], alpha) for n, p in variables.items()}
        variables = within(restored(moved, safe, fallen))
    return variables, value, fallen


def by_row(values: Tensor, like: Tensor) -> Tensor:
    """Return values (N,) in a shape that multiplies the rows of `like`, (N, …)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def _step(variable: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
    """Return variable + α gradient, in the gradient's place: new memory for all policies costs page faults."""
    if isinstance(step_size, Tensor):
        return gradient.mul_(by_row(step_size, gradient)).add_(variable)
    return torch.add(variable, gradient, alpha=step_size, out=gradient)


def restored(variables: Params, safe: Params, fallen: Tensor) -> Params:
    """Return the variables, with the safe ones in the rows that fell back."""
    if looking_is_free(fallen.device) and not fallen.any():  # spares a pass over them
        return variables
    return {name: torch.where(by_row(fallen, p), safe[name], p) for name, p in variables.items()}


def looking_is_free(device: torch.device) -> bool:
    """Return whether Python may read a tensor there: on an accelerator it would wait for the device.

    Not where evaluations are counted, so that the count is that of every device.
    """
    return device.type == "cpu" and not counting()


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

    What autograd keeps for one more rollout is measured, whatever the objective and the parts.
    """
    if noise.shape[2] < 3:  # too few to measure the difference one makes
        return noise.shape[2]
    leaves = {name: p.detach().requires_grad_() for name, p in variables.items()}
    kept = [kept_bytes(partial(objective, leaves, noise[:, :, :m])) for m in (3, 2)]
    return max(1, int(KEPT_SHARE * memory_gb * 1e9 / max(1, kept[0] - kept[1])))
