"""Network evaluations: how many inputs pass through networks while a planner decides on one step.

They are counted while a step runs, so that the number follows the code, whatever the planner. One evaluation is one
input of one network: a row of a batch, a window of a trajectory model. Each of K denoising steps counts, and each
network of an ensemble and of twin critics. A derivative through a network (a backward pass, or one in forward mode)
counts as one more. So the number says nothing of a network's size, and does not depend on the machine, on how many
episodes are planned at a time, or on the memory of a plan.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.autograd import forward_ad

from mpcwdwm.nn.networks import Mlp

__all__ = ["Evaluations", "counted", "counted_evaluations", "counted_once", "counting", "passes"]


@dataclass
class Evaluations:
    """What passed through networks."""

    forward: int = 0
    derivatives: int = 0

    @property
    def total(self) -> int:
        """Return both together."""
        return self.forward + self.derivatives


class _Count:
    """A count under way: the networks that are being evaluated, and what a later pass repeats."""

    def __init__(self) -> None:
        self.found = Evaluations()
        self.running: list[nn.Module | None] = []  # the network that is evaluated now; None: one by a function
        self.later = self.shared = False
        self._networks: dict[int, bool] = {}

    def enter(self, module: nn.Module, _: Any) -> None:
        if not self.running and self._is_network(module):
            self.running.append(module)

    def leave(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self.running and self.running[-1] is module:
            self.running.pop()
            # an `Mlp` adds its ensemble, which other modules cannot be asked for, to the inputs
            like = output if isinstance(module, Mlp) else next((x for x in inputs if isinstance(x, Tensor)), output)
            if isinstance(output, Tensor) and isinstance(like, Tensor):
                self.add(output, like.shape[:-1].numel())

    def add(self, output: Tensor, inputs: int) -> None:
        if self.running or (self.later and self.shared):
            return
        self.found.forward += inputs
        if forward_ad.unpack_dual(output).tangent is not None:
            self._derive(inputs)
        if output.requires_grad:
            output.register_hook(lambda _: self._derive(inputs))

    def _derive(self, inputs: int) -> None:
        self.found.derivatives += inputs

    def _is_network(self, module: nn.Module) -> bool:
        """Return whether it is an `Mlp`, or a module of the user's own: with parameters, and no `Mlp` in it."""
        if id(module) not in self._networks:
            own = not any(isinstance(part, Mlp) for part in module.modules())
            self._networks[id(module)] = isinstance(module, Mlp) or (own and any(True for _ in module.parameters()))
        return self._networks[id(module)]


_active: ContextVar[_Count | None] = ContextVar("evaluations", default=None)


@contextmanager
def counted_evaluations() -> Iterator[Evaluations]:
    """Count what is evaluated in the block. Calls of modules are seen by themselves, functions tell of theirs."""
    count = _Count()
    token = _active.set(count)
    hooks = [
        nn.modules.module.register_module_forward_pre_hook(count.enter),
        nn.modules.module.register_module_forward_hook(count.leave),
    ]
    try:
        yield count.found
    finally:
        _active.reset(token)
        for hook in hooks:
            hook.remove()


def counting() -> bool:
    """Return whether evaluations are counted now: then nothing may be spared that another machine would compute."""
    return _active.get() is not None


def counted(work: Callable[[], Tensor], inputs: int) -> Tensor:
    """Do work that is one network of so many inputs, whatever modules it calls, and return its output."""
    count = _active.get()
    if count is None:
        return work()
    count.running.append(None)
    output = work()
    count.running.pop()
    count.add(output, inputs)
    return output


def passes(noise: Tensor, chunk: int) -> Iterator[Tensor]:
    """Split noise (N, H, M, …) into passes of at most `chunk` rollouts, which share what `counted_once` computes."""
    count = _active.get()
    for number, part in enumerate(noise.split(chunk, dim=2)):
        if count is not None:
            count.later = number > 0
        yield part
    if count is not None:
        count.later = False


def counted_once(work: Callable[[], Tensor]) -> Tensor:
    """Do work that each of several passes does again: it counts in the first alone."""
    count = _active.get()
    if count is None:
        return work()
    count.shared = True
    output = work()
    count.shared = False
    return output
