"""How arithmetic is run: eagerly, compiled by torch.compile, or captured as a CUDA graph and replayed.

All compute the same up to float32 rounding (`tests/mpcwdwm/training/test_captured.py` compares each with eager). A
result's manifest says which was used.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, Literal

import torch

from mpcwdwm.errors import UserError
from mpcwdwm.nn.compute_config import ComputeConfig
from mpcwdwm.nn.memory import keep_freed_memory
from mpcwdwm.nn.products import Library, faster_library, multiplied_by, onednn_available

__all__ = ["Captured", "Execution", "arithmetic", "compiled", "execution_of", "library_of", "record", "uncompiled_on"]

Execution = Literal["graph", "compile", "eager"]
WARM_UP = 3  # calls before a capture: lazy initialisation and the allocator's first requests must lie behind


def execution_of(
    compute: ComputeConfig,
    device: str | torch.device,
    *,
    updates: int | None = None,
    compile_pays: Mapping[str, int] = MappingProxyType({}),
) -> Execution:
    """Return how a training or a planner runs on a device; what is compiled is captured as well on a GPU.

    Planning is not compiled: on a processor that gained a tenth and took a minute (docs/benchmarks.md).

    Args:
        compute: what the user asks for.
        device: where the work is done.
        updates: of the whole training; None: a planner's steps.
        compile_pays: "cpu" or "cuda" → the updates of a training from which on compiling pays.

    Raises:
        UserError: there is no GPU or no compiler for what was asked for.
    """
    kind, uncompiled = torch.device(device).type, uncompiled_on(device)
    if compute.capture == "graph" and kind != "cuda":
        raise UserError("capture: graph needs a GPU; on a processor use capture: auto, compile or eager")
    if compute.capture == "compile" and not compiler():
        needed = "capture: compile needs a C++ compiler (g++, c++ or clang++), and none is found"
        raise UserError(f"{needed}: use {uncompiled}")
    if compute.capture in ("graph", "eager") or (compute.capture == "compile" and updates is not None):
        return compute.capture
    pays = updates is not None and updates >= compile_pays.get(kind, math.inf)
    return "compile" if pays and compiler() and (kind == "cpu" or find_spec("triton")) else uncompiled


def uncompiled_on(device: str | torch.device) -> Execution:
    """Return how work runs on a device by default where it is not compiled."""
    return "graph" if torch.device(device).type == "cuda" else "eager"


def record(compute: ComputeConfig, device: str | torch.device, path: Execution) -> dict[str, Any]:
    """Return what a manifest says of how a result was computed."""
    on_gpu = torch.device(device).type == "cuda"
    return {"path": path, "tf32": compute.tf32 and on_gpu, "products": library_of(compute, device)}


def compiler() -> str | None:
    """Return the C++ compiler that torch.compile would find."""
    return next((found for name in ("g++", "c++", "clang++") if (found := shutil.which(name))), None)


def library_of(compute: ComputeConfig, device: str | torch.device) -> Library | None:
    """Return which library multiplies on a CPU; None on a GPU.

    Raises:
        UserError: oneDNN is asked for, and this build of torch does not have it.
    """
    if torch.device(device).type == "cuda":
        return None
    if compute.products == "onednn" and not onednn_available():
        raise UserError("products: onednn needs a torch built with oneDNN, and this one has none: use auto or mkl")
    return faster_library() if compute.products == "auto" else compute.products


@contextmanager
def arithmetic(compute: ComputeConfig, library: Library | None) -> Iterator[None]:
    """Multiply on a GPU in TF32 or float32, and on a CPU with `library_of` that device, whatever was set before."""
    if library:
        keep_freed_memory()
    settings = torch.backends.cuda.matmul
    before, settings.allow_tf32 = settings.allow_tf32, compute.tf32
    try:
        with multiplied_by(library or "mkl"):
            yield
    finally:
        settings.allow_tf32 = before


def compiled(part: Any) -> Callable[..., Any]:
    """Return a component's `advance`, compiled by torch.compile; the optimizer's step stays outside of it."""
    import torch._inductor.config as inductor

    inductor.compile_threads = torch.get_num_threads()  # as many as this process was given, no pool beside it
    torch.compiler.reset()  # a process may train several parts; the compiler stops at so many versions of a function
    part.descend = torch.compiler.disable(part.descend)
    return torch.compile(part.advance, dynamic=False)


class Captured:
    """Work on tensors that stay in place, recorded as one CUDA graph and replayed.

    The first calls run eagerly, on a stream of their own; on a processor all do.

    Args:
        work: reads and writes only tensors that persist between calls, and never waits for the device.
        device: where these tensors are.
    """

    def __init__(self, work: Callable[[], Any], device: str | torch.device) -> None:
        self.work, self.device = work, torch.device(device)
        self._calls, self._result = 0, None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream: Any = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def __call__(self) -> Any:
        """Do the work and return what it returned; the same tensors at every call, once captured."""
        if self._stream is None:
            return self.work()
        if self._graph is None and self._calls >= WARM_UP:
            self._capture()
        if self._graph is not None:
            self._graph.replay()
            return self._result
        self._calls += 1
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            result = self.work()
        torch.cuda.current_stream(self.device).wait_stream(self._stream)
        return result

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):  # records, does not run
            self._result = self.work()
        self._graph = graph
