"""Products of stacked matrices on a CPU, by whichever of torch's two libraries is faster there.

torch multiplies with MKL, which on AMD processors runs its AVX2 code even where the core has AVX-512. oneDNN, in
the same wheel, decides by the core's flags and reaches twice the rate (docs/benchmarks.md). torch offers it for one
matrix at a time and without derivatives; both are added here. It costs 20 µs a call, so small products stay with MKL,
and so do other precisions. Both libraries compute the same up to the rounding of float32.
"""

import contextlib
import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from filelock import FileLock
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mpcwdwm.data.fingerprint import cache_folder, write_json

__all__ = ["Library", "faster_library", "linear", "multiplied_by", "onednn_available", "product"]

Library = Literal["mkl", "onednn"]
LEAST = 2**21  # multiply-adds of one matrix product from which oneDNN is asked: 32 rows of 256 × 256
CLEARLY = 1.15  # times as fast oneDNN must be to be chosen
TIMED = ((64, 256, 256), (256, 256, 256))  # rows, inputs and outputs of the products that decide
REPEATS = 30  # of which the fastest counts: other work on the machine only adds time

_library: Library = "mkl"


@contextmanager
def multiplied_by(library: Library) -> Iterator[None]:
    """Multiply with this library, whatever was set before."""
    global _library  # torch.compile reads a global variable, not a context variable
    before, _library = _library, library
    try:
        yield
    finally:
        _library = before


# ---------------------------------------------------------------------------------------- products


def product(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x · w (+ bias) member by member, without a derivative where oneDNN computes it.

    Args:
        x: (…, n, k).
        w: (…, k, m).
        bias: (S, 1, m), or None; with it, x and w have one dimension before their last two.
    """
    if not _asks_onednn(x, w):
        return x @ w if bias is None else torch.baddbmm(bias, x, w)
    return torch.ops.mpcwdwm.product(x, w, bias) if torch.compiler.is_compiling() else _by_onednn(x, w, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # (S, B, in), (S, in, out), (S, 1, out) → (S, B, out)
    """Return x · weight + bias; has first derivatives."""
    if not _asks_onednn(x, weight):
        return torch.baddbmm(bias, x, weight)
    return _Linear.apply(x, weight, bias)


def _asks_onednn(x: Tensor, w: Tensor) -> bool:
    large = x.shape[-2] * x.shape[-1] * w.shape[-1] >= LEAST
    return _library == "onednn" and large and x.dtype == torch.float32 and x.device.type == "cpu"


def _by_onednn(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    a, b = x.flatten(0, -3), w.flatten(0, -3).mT
    c: list[Tensor | None] = [None] * len(a) if bias is None else list(bias.flatten(0, -2))
    if len(a) == 1:  # spares a copy
        return _multiply(a[0], b[0], c[0]).view(*x.shape[:-1], w.shape[-1])
    y = x.new_empty(*x.shape[:-1], w.shape[-1])
    for own, *factors in zip(y.flatten(0, -3), a, b, c, strict=True):
        own.copy_(_multiply(*factors))
    return y


def _multiply(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:  # (n, k), (m, k), (m,) → (n, m)
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")  # Inductor's own way to oneDNN


# One operator, so that a compiled program calls it as it is.
_OPERATORS = torch.library.Library("mpcwdwm", "DEF")
_OPERATORS.define("product(Tensor x, Tensor w, Tensor? bias) -> Tensor")
_OPERATORS.impl("product", _by_onednn, "CPU")


@torch.library.register_fake("mpcwdwm::product", lib=_OPERATORS)
def _shape_of_product(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], w.shape[-1])


class _Linear(Function):
    """x · weight + bias with its first derivatives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            product(g, weight.mT) if of_x else None,
            product(x.mT, g) if of_weight else None,
            g.sum(-2, keepdim=True) if of_bias else None,
        )


# ---------------------------------------------------------------------------------------- the choice


def onednn_available() -> bool:
    """Return whether this build of torch lets oneDNN be asked."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def faster_library() -> Library:
    """Return the faster library on this machine, measured once (10 ms) and kept in the user's cache folder.

    Where both are about as fast, and where the measurement cannot be kept, that is MKL: a rerun multiplies as before.
    """
    if not onednn_available():
        return "mkl"
    name = "-".join((platform.node(), torch.__version__, torch.backends.cpu.get_cpu_capability()))
    entry = cache_folder() / "speed" / f"products-{name}-{torch.get_num_threads()}.json"
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(entry.with_suffix(".lock")):  # processes that start together take one choice
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent or damaged: measure
                return (
                    "onednn"
                    if min(json.loads(entry.read_text(encoding="utf-8"))["times_as_fast"]) >= CLEARLY
                    else "mkl"
                )
            ratios = [_times_as_fast(*shape) for shape in TIMED]
            write_json(entry, {"times_as_fast": ratios, "rows, inputs, outputs": TIMED})
    except OSError:
        return "mkl"
    return "onednn" if min(ratios) >= CLEARLY else "mkl"


@torch.no_grad()
def _times_as_fast(rows: int, inputs: int, outputs: int) -> float:
    """Return MKL's time over oneDNN's for one product."""
    x, w = torch.ones(1, rows, inputs), torch.ones(1, inputs, outputs)

    def seconds(library: Library) -> float:
        started = time.perf_counter()
        with multiplied_by(library):
            product(x, w)
        return time.perf_counter() - started

    times = [(seconds("mkl"), seconds("onednn")) for _ in range(REPEATS)]
    return min(mkl for mkl, _ in times) / min(onednn for _, onednn in times)
