"""Weight gradients formed once over all uses of a layer, instead of once per use and then added.

A policy that is rolled through a model for H steps uses its weights H + 1 times, and autograd forms a weight-sized
gradient at every use; with one policy per episode these are the largest tensors of a step. Here every use only notes
its input and its output's gradient, and one batched product over all notes gives the sum.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mpcwdwm.nn.products import product

__all__ = ["UseNotes", "gathered_weight_gradients", "noted_uses"]

Note = tuple[Tensor, Tensor]
"""Input (G, B, in) of one use, and the gradient of its output (G, B, out)."""


class UseNotes:
    """The weights in use within one `gathered_weight_gradients`."""

    def __init__(self) -> None:
        self._sources: dict[int, tuple[Tensor, Tensor, Tensor, list[Note]]] = {}

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return x · weight + bias; x (G, B, in), weight (G, in, out), bias (G, 1, out).

        The tensors given as weight and bias have to be the same objects at every use.
        """
        if id(weight) not in self._sources:
            notes: list[Note] = []
            # the entry keeps `weight` alive, so its id cannot come to mean another tensor
            self._sources[id(weight)] = (weight, *_Source.apply(weight, bias, notes), notes)
        _, source, source_bias, notes = self._sources[id(weight)]
        return _Use.apply(x, source, source_bias, notes)


_active: ContextVar[UseNotes | None] = ContextVar("use_notes", default=None)


def noted_uses() -> UseNotes | None:
    """Return the notes of the block we are in, None outside of one."""
    # torch.compile cannot trace the variable, and compiled training has no such block
    return None if torch.compiler.is_compiling() else _active.get()


@contextmanager
def gathered_weight_gradients() -> Iterator[None]:
    """Form weight gradients of stacked layers once over all their uses.

    The forward computation has to lie in the block; the backward pass may lie outside. First derivatives only.
    """
    token = _active.set(UseNotes())
    try:
        yield
    finally:
        _active.reset(token)


class _Source(Function):
    """The identity. The engine runs its backward once every use has run its own."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, notes: list[Note]) -> tuple[Tensor, Tensor]:
        ctx.notes = notes
        ctx.set_materialize_grads(False)
        return weight.view_as(weight), bias.view_as(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_weight: Tensor | None, of_bias: Tensor | None) -> tuple[Tensor, Tensor, None]:
        inputs, gradients = zip(*ctx.notes, strict=True)
        ctx.notes.clear()
        x, g = torch.cat(inputs, -2), torch.cat(gradients, -2)  # (G, all uses' rows, in) and (…, out)
        return product(x.mT, g), g.sum(-2, keepdim=True), None


class _Use(Function):
    """x · weight + bias, whose backward leaves weight and bias to `_Source`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, notes: list[Note]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.notes = notes
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        ctx.notes.append((x, g))
        return (product(g, weight.mT) if ctx.needs_input_grad[0] else None), None, None, None
