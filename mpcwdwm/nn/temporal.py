"""Stacked networks over windows of time: Diffuser's U-Net and its value network (arXiv 2205.09991, appendix C).

A window lies as (S, B, H, channels), S being the stack. A convolution along time is one `StackedLinear` over the
kernel's rows, so that members stay apart and are initialised like every other network here.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import mish, pad

from mpcwdwm.nn.networks import StackedLinear, uniform_init

__all__ = ["TemporalUnet", "TemporalValue", "sinusoidal_features"]

KERNEL = 5  # rows of a block's convolution
GROUPS = 8  # of channels that are normalised together
SLOWEST = 10_000.0  # the sinusoids' longest period over 2π
EPS = 1e-5  # of the group normalisation


def sinusoidal_features(steps: int, width: int) -> Tensor:
    """Return sines and cosines of the diffusion step at geometrically spaced frequencies: (steps, width), float64."""
    half = width // 2
    rates = torch.exp(-math.log(SLOWEST) / max(1, half - 1) * torch.arange(half, dtype=torch.float64))
    angles = torch.arange(steps, dtype=torch.float64).unsqueeze(-1) * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


# ------------------------------------------------------------------------------------------ layers


class TemporalConv(nn.Module):
    """A convolution along time per stack member, with zeros beyond the ends."""

    def __init__(
        self, stack: Sequence[int], n_in: int, n_out: int, kernel: int, dtype: torch.dtype, *, stride: int = 1
    ) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.linear = StackedLinear(stack, n_in * kernel, n_out, dtype)

    def forward(self, x: Tensor) -> Tensor:  # (S, B, H, n_in) → (S, B, H / stride, n_out)
        """Apply each member's kernel at every stride-th row."""
        beyond = self.kernel // 2
        rows = pad(x, (0, 0, beyond, beyond)).unfold(2, self.kernel, self.stride).flatten(-2)
        return self.linear(rows.flatten(1, 2)).unflatten(1, rows.shape[1:3])


class TemporalDoubling(nn.Module):
    """The transposed convolution of kernel 4 and stride 2: twice the rows, each from the two rows next to it."""

    def __init__(self, stack: Sequence[int], n: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.even, self.odd = (StackedLinear(stack, 2 * n, n, dtype) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:  # (S, B, H, n) → (S, B, 2 H, n)
        """Return the rows between the rows."""
        pairs = pad(x, (0, 0, 1, 1)).unfold(2, 2, 1).flatten(-2)  # (S, B, H + 1, 2 n)
        halves = [
            layer(rows.flatten(1, 2)).unflatten(1, rows.shape[1:3])
            for layer, rows in ((self.even, pairs[:, :, :-1]), (self.odd, pairs[:, :, 1:]))
        ]
        return torch.stack(halves, 3).flatten(2, 3)


class GroupNorm(nn.Module):
    """Group normalisation over time and a group's channels, with a scale and bias per stack member."""

    def __init__(self, stack: Sequence[int], n: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.groups = math.gcd(GROUPS, n)
        self.weight = nn.Parameter(torch.ones(*stack, 1, 1, n, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(*stack, 1, 1, n, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:  # (S, B, H, n)
        """Normalise every window's groups, then scale and shift."""
        groups = x.unflatten(-1, (self.groups, -1))
        variance, mean = torch.var_mean(groups, (2, 4), correction=0, keepdim=True)
        normalised = (groups - mean) * (variance + EPS).rsqrt()
        return torch.addcmul(self.bias, normalised.flatten(-2), self.weight)


class ResidualBlock(nn.Module):
    """Two convolutions with normalisation and Mish, the diffusion step's embedding between them, around a shortcut."""

    def __init__(self, stack: Sequence[int], n_in: int, n_out: int, embedding: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.first = TemporalConv(stack, n_in, n_out, KERNEL, dtype)
        self.first_norm = GroupNorm(stack, n_out, dtype)
        self.of_step = StackedLinear(stack, embedding, n_out, dtype)
        self.second = TemporalConv(stack, n_out, n_out, KERNEL, dtype)
        self.second_norm = GroupNorm(stack, n_out, dtype)
        self.shortcut = TemporalConv(stack, n_in, n_out, 1, dtype) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor, step: Tensor) -> Tensor:  # (S, B, H, n_in), (S, B or 1, embedding) → (S, B, H, n_out)
        """Return the block's output."""
        y = mish(self.first_norm(self.first(x))) + self.of_step(mish(step)).unsqueeze(2)
        return mish(self.second_norm(self.second(y))) + self.shortcut(x)


class StepEmbedding(nn.Module):
    """A two-layer network on the features of the diffusion step."""

    def __init__(self, stack: Sequence[int], width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner = StackedLinear(stack, width, 4 * width, dtype)
        self.outer = StackedLinear(stack, 4 * width, width, dtype)

    def forward(self, features: Tensor) -> Tensor:  # (S, B or 1, width)
        """Return the embedding."""
        return self.outer(mish(self.inner(features)))


@torch.no_grad()
def _initialize(net: nn.Module, member: int, g: torch.Generator) -> None:
    """Initialise one member of every linear layer from `g`, U(±1/√fan_in) as torch does."""
    init = uniform_init()
    for layer in net.modules():
        if isinstance(layer, StackedLinear):
            init(layer.weight[member], layer.bias[member], g)


# ---------------------------------------------------------------------------------------- networks


class TemporalUnet(nn.Module):
    """Diffuser's denoiser: levels of half the rows each, joined with the way back at the same number of rows.

    Args:
        stack: sizes of the stack.
        n: numbers per row of a window, in and out.
        width: channels of the first level.
        multipliers: channels of every level over `width`; H has to be divisible by 2^(levels − 1).
        dtype: of the parameters.
    """

    def __init__(
        self, stack: Sequence[int], n: int, width: int, multipliers: Sequence[int], dtype: torch.dtype
    ) -> None:
        super().__init__()
        sizes = [n, *(width * m for m in multipliers)]

        def block(n_in: int, n_out: int) -> ResidualBlock:
            return ResidualBlock(stack, n_in, n_out, width, dtype)

        self.embed = StepEmbedding(stack, width, dtype)
        self.down = nn.ModuleList(nn.ModuleList([block(a, b), block(b, b)]) for a, b in pairwise(sizes))
        self.halve = nn.ModuleList(TemporalConv(stack, b, b, 3, dtype, stride=2) for b in sizes[1:-1])
        self.middle = nn.ModuleList(block(sizes[-1], sizes[-1]) for _ in range(2))
        back = list(reversed(list(pairwise(sizes[1:]))))
        self.up = nn.ModuleList(nn.ModuleList([block(2 * b, a), block(a, a)]) for a, b in back)
        self.enlarge = nn.ModuleList(TemporalDoubling(stack, a, dtype) for a, _ in back)
        self.last = TemporalConv(stack, width * multipliers[0], width, KERNEL, dtype)
        self.last_norm = GroupNorm(stack, width, dtype)
        self.head = TemporalConv(stack, width, n, 1, dtype)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:  # (S, B, H, n), (S, B or 1, width) → (S, B, H, n)
        """Return the denoised window."""
        step, passed = self.embed(features), list[Tensor]()
        for level, blocks in enumerate(self.down):
            for block in _blocks(blocks):
                x = block(x, step)
            passed.append(x)
            if level < len(self.halve):
                x = self.halve[level](x)
        for block in self.middle:
            x = block(x, step)
        for blocks, enlarge in zip(self.up, self.enlarge, strict=True):
            x = torch.cat([x, passed.pop()], -1)
            for block in _blocks(blocks):
                x = block(x, step)
            x = enlarge(x)
        return self.head(mish(self.last_norm(self.last(x))))

    def initialize(self, member: int, g: torch.Generator) -> None:
        """Initialise one member."""
        _initialize(self, member, g)


class TemporalValue(nn.Module):
    """Diffuser's value network: the U-Net's way down, two narrower halvings, and a head on what is left.

    Args:
        stack: sizes of the stack.
        n: numbers per row of a window.
        horizon: rows of a window.
        width: channels of the first level.
        multipliers: channels of every level over `width`.
        dtype: of the parameters.
    """

    def __init__(
        self, stack: Sequence[int], n: int, horizon: int, width: int, multipliers: Sequence[int], dtype: torch.dtype
    ) -> None:
        super().__init__()
        sizes = [n, *(width * m for m in multipliers)]
        narrow = [sizes[-1], sizes[-1] // 2, sizes[-1] // 4]

        def level(a: int, b: int, blocks: int) -> nn.ModuleList:
            chain = [ResidualBlock(stack, a if i == 0 else b, b, width, dtype) for i in range(blocks)]
            return nn.ModuleList([*chain, TemporalConv(stack, b, b, 3, dtype, stride=2)])

        self.embed = StepEmbedding(stack, width, dtype)
        self.levels = nn.ModuleList(
            [*(level(a, b, 2) for a, b in pairwise(sizes)), *(level(a, b, 1) for a, b in pairwise(narrow))]
        )
        rows = horizon
        for _ in self.levels:
            rows = (rows + 1) // 2
        left = rows * narrow[-1]
        self.inner = StackedLinear(stack, left + width, left // 2, dtype)
        self.head = StackedLinear(stack, left // 2, 1, dtype)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:  # (S, B, H, n), (S, B or 1, width) → (S, B)
        """Return the value of a noisy window."""
        step = self.embed(features)
        for level in self.levels:
            *blocks, halve = _blocks(level)
            for block in blocks:
                x = block(x, step)
            x = halve(x)
        x = torch.cat([x.flatten(2), step.expand(*x.shape[:2], -1)], -1)
        return self.head(mish(self.inner(x))).squeeze(-1)

    def initialize(self, member: int, g: torch.Generator) -> None:
        """Initialise one member."""
        _initialize(self, member, g)


def _blocks(level: nn.Module) -> list[nn.Module]:
    """Return the modules of a level, in order."""
    assert isinstance(level, nn.ModuleList)
    return list(level)
