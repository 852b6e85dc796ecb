"""Stacked networks: twin critics, the seeds of a task, or one policy per evaluation episode in one batched product.

A layer holds weights `(*stack, in, out)` and maps `(*stack, B, in)` to `(*stack, B, out)`. The stack is that of the
weights at call time, so `torch.func.functional_call` may swap in weights with another stack.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from mpcwdwm.nn import products
from mpcwdwm.nn.weight_gradients import noted_uses

__all__ = [
    "Init",
    "Mlp",
    "Normalizer",
    "ScaleFreeNormalizer",
    "StackedLayerNorm",
    "StackedLinear",
    "member_state",
    "orthogonal_init",
    "stack_states",
    "uniform_init",
]

Init = Callable[[Tensor, Tensor, torch.Generator], None]
"""Fills one member's weight (in, out) and bias (1, out) in place from a generator."""

FLAX_LAYER_NORM_EPS = 1e-6  # flax's epsilon, which the published ReBRAC uses; torch's is 1e-5
CONSTANT = 1e-6  # relative spread of numbers that count as one: that of rounding in single precision, and more
MIN_STD = 1e-3  # added to every standard deviation, as CORL does: constant inputs stay finite


# ------------------------------------------------------------------------------------------ layers


class StackedLinear(nn.Module):
    """A linear layer per stack member: weight (*stack, in, out), bias (*stack, 1, out)."""

    def __init__(self, stack: Sequence[int], n_in: int, n_out: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(*stack, n_in, n_out, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(*stack, 1, n_out, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:  # (*stack, B, in) → (*stack, B, out)
        """Apply each member to its own rows; size-one stack dimensions of `x` are broadcast."""
        stack = self.weight.shape[:-2]
        if x.shape[:-2] != stack:
            x = x.expand(*stack, *x.shape[-2:])
        notes = noted_uses()
        if notes is not None and self.weight.requires_grad and len(stack) == 1:
            return notes.linear(x, self.weight, self.bias)
        y = products.linear(x.flatten(0, -3), self.weight.flatten(0, -3), self.bias.flatten(0, -3))
        return y.unflatten(0, stack)


class StackedLayerNorm(nn.Module):
    """Layer normalisation with a scale and bias per stack member."""

    def __init__(self, stack: Sequence[int], n: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*stack, 1, n, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(*stack, 1, n, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:  # (*stack, B, n)
        """Normalise over the last dimension, then scale and shift."""
        x = nn.functional.layer_norm(x, x.shape[-1:], eps=FLAX_LAYER_NORM_EPS)
        return torch.addcmul(self.bias, x, self.weight)


class Normalizer(nn.Module):
    """Standardise by a mean and a standard deviation per stack member (identity until fitted)."""

    mean: Tensor
    std: Tensor

    def __init__(self, stack: Sequence[int], n: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(*stack, 1, n, dtype=dtype))
        self.register_buffer("std", torch.ones(*stack, 1, n, dtype=dtype))

    def fit(self, member: int, rows: Tensor) -> None:  # rows (R, n)
        """Set one member's moments from its training rows, accumulated in float64."""
        rows = rows.double()
        self.mean[member] = rows.mean(0).to(self.mean.dtype)
        self.std[member] = (rows.std(0, correction=0) + MIN_STD).to(self.std.dtype)

    def forward(self, x: Tensor) -> Tensor:  # (*stack, B, n)
        """Return (x − mean) / std."""
        return (x - self.mean) / self.std

    def inverse(self, x: Tensor) -> Tensor:
        """Return x · std + mean."""
        return x * self.std + self.mean


class ScaleFreeNormalizer(Normalizer):
    """The same for rewards and returns, whose unit is the task's: rows times a factor give the same numbers."""

    def fit(self, member: int, rows: Tensor) -> None:  # rows (R, n)
        """Set one member's moments; what is constant is divided by its size, or by 1 where that is 0."""
        rows = rows.double()
        std, size = rows.std(0, correction=0), rows.abs().amax(0)
        divisor = torch.where(std > CONSTANT * size, std, torch.where(size > 0, size, 1.0))
        self.mean[member] = rows.mean(0).to(self.mean.dtype)
        self.std[member] = divisor.to(self.std.dtype)


class Mlp(nn.Module):
    """A stacked multilayer perceptron: linear → activation → (layer norm), then a linear head."""

    def __init__(
        self,
        stack: Sequence[int],
        n_in: int,
        hidden: Sequence[int],
        n_out: int,
        *,
        activation: Callable[[Tensor], Tensor] = torch.relu,
        layer_norm: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        sizes = [n_in, *hidden]
        self.hidden = nn.ModuleList(StackedLinear(stack, a, b, dtype) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(StackedLayerNorm(stack, n, dtype) for n in hidden if layer_norm)
        self.head = StackedLinear(stack, sizes[-1], n_out, dtype)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:  # (*stack, B, in) → (*stack, B, out)
        """Apply the network of each member to its own rows."""
        for i, layer in enumerate(self.hidden):
            x = self.activation(layer(x))
            if self.norms:
                x = self.norms[i](x)
        return self.head(x)

    def with_derivative(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output at `x`, and its derivative along `dx`; only the output carries a gradient.

        Forward mode written out, one pass for both: for SiLU networks without layer norm.
        """
        assert self.activation is nn.functional.silu
        assert not self.norms
        for layer in self.hidden:
            assert isinstance(layer, StackedLinear)
            before = layer(x)
            with torch.no_grad():
                # SiLU is elementwise, so its derivative along dx is its backward of dx
                dx = torch.ops.aten.silu_backward(products.product(dx, layer.weight), before)
            x = self.activation(before)
        with torch.no_grad():
            dx = products.product(dx, self.head.weight)
        return self.head(x), dx

    @torch.no_grad()
    def initialize(self, member: int, g: torch.Generator, hidden: Init, head: Init) -> None:
        """Initialise the networks at index `member` of the first stack dimension, one after the other from `g`."""
        for layer, init in [*((layer, hidden) for layer in self.hidden), (self.head, head)]:
            assert isinstance(layer, StackedLinear)
            weights = layer.weight[member].reshape(-1, *layer.weight.shape[-2:])
            biases = layer.bias[member].reshape(-1, *layer.bias.shape[-2:])
            for weight, bias in zip(weights, biases, strict=True):
                init(weight, bias, g)


# ---------------------------------------------------------------------------------- initialisation


def uniform_init(bound: float | None = None, bias: float | None = None) -> Init:
    """Weights U(±bound), by default ±1/√fan_in; bias constant, or U(±bound) where None is given."""

    def init(weight: Tensor, bias_row: Tensor, g: torch.Generator) -> None:
        limit = 1 / math.sqrt(weight.shape[0]) if bound is None else bound
        weight.copy_(_uniform(weight, limit, g))
        bias_row.copy_(_uniform(bias_row, limit, g) if bias is None else torch.full_like(bias_row, bias))

    return init


def orthogonal_init() -> Init:
    """Orthogonal weights times √2, zero bias (the IQL authors' initialisation)."""

    def init(weight: Tensor, bias_row: Tensor, g: torch.Generator) -> None:
        rows, columns = weight.shape
        tall = torch.randn(max(rows, columns), min(rows, columns), generator=g, dtype=torch.float64)
        q, r = torch.linalg.qr(tall)
        q = q * r.diagonal().sign()  # makes the distribution uniform over orthogonal matrices
        weight.copy_((math.sqrt(2) * (q if rows >= columns else q.T)).to(weight.dtype))
        bias_row.zero_()

    return init


def _uniform(like: Tensor, limit: float, g: torch.Generator) -> Tensor:
    # Drawn on the CPU in float64 whatever the device and dtype: a member starts from the same weights everywhere.
    return ((2 * torch.rand(like.shape, generator=g, dtype=torch.float64) - 1) * limit).to(like.dtype)


# ----------------------------------------------------------------------------------------- members


def member_state(module: nn.Module, member: int) -> dict[str, Tensor]:
    """Return the parameters and buffers of one stack member, detached copies on the CPU."""
    return {name: value[member].detach().cpu().clone() for name, value in module.state_dict().items()}


def stack_states(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack the states of several members: the inverse of `member_state` over all members."""
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}
