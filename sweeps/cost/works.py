"""The works whose cost a plan asks for, and what their seconds are made of.

A work is one step that is repeated many times: an update of stacked seeds, or an action for all episodes at once.
Works of a *kind* share a cost model (`sweeps.cost.model`): their seconds are a combination of `terms` in their sizes.
Works of a *group* differ in those sizes alone. `probes` are small works of the group, to which the model is fitted.
"""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from mpcwdwm.components import component_class
from mpcwdwm.components.component import ComponentConfig
from mpcwdwm.nn.compute import execution_of
from mpcwdwm.nn.compute_config import ComputeConfig
from mpcwdwm.planning import PlannerConfig, planner_config
from sweeps.plan.code import digest

__all__ = ["ONE_CORE", "Acts", "Cost", "Place", "Updates", "Work", "path_on", "weight_bytes", "work_shape"]

PROBES = (  # E, H, K, M, seeds and episodes of the plans to which a cost model is fitted
    *((2, 1, 5, 4, 1, 1), (2, 2, 10, 8, 1, 10), (2, 2, 1, 1, 8, 1), (5, 1, 10, 1, 1, 10), (1, 1, 5, 16, 1, 20)),
    *((2, 5, 5, 2, 3, 1), (1, 5, 5, 2, 1, 20), (5, 2, 10, 2, 1, 1), (3, 3, 5, 8, 3, 1), (1, 2, 10, 4, 1, 1)),
)
PROBE_SCALE = {"cpu": 1, "cuda": 16}  # of their rollouts and episodes: a GPU is hardly busy with those above
MOST_ROWS = {"cpu": 256, "cuda": 16_384}  # of a probed update's batch; the seconds are linear in it
MOST_WORK = {"cpu": 1_200, "cuda": 300_000}  # millions of weights times rows of a probe: tens of milliseconds
WIDEST = 512  # networks that are probed
SIZES = {"updates", "horizon", "rollouts", "samples", "elites", "policy_samples", "denoising_steps", "training_steps"}
SAMPLED = {"world_model", "diffuser"}  # components that are evaluated once per denoising step
AS_DEFAULT = ComputeConfig()


@dataclass(frozen=True)
class Place:
    """Where work runs."""

    device: str  # "cpu" or "cuda"
    threads: int

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Compute with this number of threads."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def clock(self) -> float:
        """Return seconds, once the device has done what it was given.

        With one thread they are processor seconds: what an idle machine needs, also while others use this one.
        """
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if self == ONE_CORE else time.perf_counter()


ONE_CORE = Place("cpu", 1)


@dataclass(frozen=True)
class Cost:
    """What repeated work costs, in seconds."""

    step: float  # one step, once the first ones are behind
    first: float = 0.0  # the first steps, beyond that: compilation, captured graphs; of an environment, making it
    point: float = 0.0  # a point of a learnt model's curve, judged on held-out rows


def work_shape(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a config decides how much work a step is: of real numbers whether they are 0, no lengths."""
    lengths = ("steps", "evaluations", "eval_episodes")
    return {k: v != 0 if isinstance(v, float) else v for k, v in config.items() if k not in lengths}


def path_on(place: Place, compute: ComputeConfig, **training: Any) -> str:
    """Return how work is run there, like `mpcwdwm.nn.compute.execution_of`.

    A plan for GPUs may be made on a machine without: then it is measured eagerly.
    """
    if place.device == "cpu" and compute.capture == "graph":
        return "eager"
    return execution_of(compute, place.device, **training)


@dataclass(frozen=True)
class Updates:
    """Updates of a component, of several seeds stacked."""

    component: str
    config: ComponentConfig
    dims: tuple[int, int]  # obs_dim and act_dim
    seeds: int
    compute: ComputeConfig = AS_DEFAULT
    bases: Mapping[str, ComponentConfig] = field(default_factory=dict)  # of what it builds on

    def path(self, place: Place) -> str:
        """Return how they are run there."""
        pays = component_class(self.component, self.config).compile_pays
        return path_on(place, self.compute, updates=self.config.steps, compile_pays=pays)

    @cached_property
    def kind(self) -> str:
        """Works of a kind share a cost model."""
        return f"{self.component} {component_class(self.component, self.config).__name__}"

    @cached_property
    def group(self) -> str:
        """Works of a group differ in the number of seeds alone."""
        return digest([self.shape, self.dims, self.compute.to_dict()])

    @property
    def shape(self) -> dict[str, Any]:
        """What of the configs decides how much work an update is."""
        built_on = {name: work_shape(config.to_dict()) for name, config in self.bases.items()}
        own = {"component": self.component, "config": work_shape(self.config.to_dict())}
        return {**own, **({"bases": built_on} if built_on else {})}

    @cached_property
    def size(self) -> float:
        """Millions of weights times rows, of one seed; a window of Diffuser's has many rows."""
        return self.weights * self.config.batch_size * self.config.to_dict().get("horizon", 1)

    @cached_property
    def weights(self) -> float:
        """Millions of weights of one seed."""
        return max(1e-6, weight_bytes(self.component, self.config, self.dims) / 4e6)

    @property
    def terms(self) -> tuple[list[float], list[float]]:
        """What the seconds of an update are made of: overhead, and what grows with seeds, weights and rows."""
        return [1.0], [self.seeds, self.seeds * self.weights, self.seeds * self.size]

    def probes(self, place: Place) -> list["Updates"]:
        """Return small works of the same group, or of narrower networks."""
        narrow = replace(
            self, config=self.config.model_copy(update={"hidden_dim": min(self.config.hidden_dim, WIDEST)})
        )
        per_row, found = narrow.size / self.config.batch_size, list["Updates"]()
        rows = min(self.config.batch_size, MOST_ROWS[place.device], int(MOST_WORK[place.device] / per_row))
        for seeds, share in ((1, 1), (3, 4), (1, 4)):
            config = narrow.config.model_copy(update={"batch_size": max(1, rows // share)})
            probe = replace(self, seeds=seeds, config=config)
            found += [probe] if probe not in found else []
        return found


@dataclass(frozen=True)
class Acts:
    """Actions for all seeds × episodes at once, of a planner or (None) of the policy of `base`."""

    planner: PlannerConfig | None
    parts: Mapping[str, ComponentConfig]
    base: str
    dims: tuple[int, int]  # obs_dim and act_dim
    seeds: int
    episodes: int
    compute: ComputeConfig = AS_DEFAULT

    @property
    def kind(self) -> str:
        """Works of a kind share a cost model."""
        return f"acts {self.planner and self.planner.kind}"

    @cached_property
    def group(self) -> str:
        """Works of a group differ in seeds, episodes and the planner's and the world model's sizes alone."""
        shapes = {name: _without_sizes(config) for name, config in self.parts.items()}
        planner = self.planner and _without_sizes(self.planner.unmeasured())
        return digest([planner, shapes, self.base, self.dims, self.compute.to_dict()])

    @cached_property
    def weights(self) -> tuple[float, float]:
        """Millions of weights of what is sampled from, once for each row of a Diffuser's window; of the other parts."""
        sizes = {name: weight_bytes(name, config, self.dims) / 4e6 for name, config in self.parts.items()}
        sampled = sum(sizes.pop(name) * self.parts[name].to_dict().get("horizon", 1) for name in SAMPLED & set(sizes))
        return sampled, max(1e-6, sum(sizes.values()))

    @property
    def size(self) -> float:
        """Millions of weights."""
        return sum(self.weights)

    @property
    def terms(self) -> tuple[list[float], list[float]]:
        """What the seconds of an action are made of: overhead, and what grows with rows and weights.

        E updates of a plan over H steps with M rollouts; each step is sampled in K denoising steps. A product of few
        rows takes more per row than one of many: hence the square root.
        """
        rows, (sampled, rest) = self.seeds * self.episodes, self.weights
        if self.planner is None:
            return [1.0], [self.seeds * rest, rows * rest]
        fields = self.planner.to_dict()
        e, h, m = (fields.get(name, 1) for name in ("updates", "horizon", "rollouts"))
        k, m = denoising_steps(self.parts), m * fields.get("samples", 1)
        once = [rows * e * (h + 1) * rest, self.seeds * e * (h + 1) * rest, self.seeds * e * h * k * sampled]
        few = math.sqrt(m * self.episodes) * self.seeds * e * h * k * sampled
        many = [rows * m * e * (h + 1) * rest, rows * m * e * h * k * sampled]
        return [1.0, e * (h + 1), e * h * k], [*once, few, *many]

    def probes(self, place: Place) -> list["Acts"]:
        """Return small works of the same group, or of narrower networks; the first two tell most."""
        if self.planner is None:
            parts = _narrow(self.parts, 1)
            return [replace(self, seeds=s, episodes=n, parts=parts) for s, n in ((1, 1), (3, 10), (1, 10))]
        planner, more, found = self.planner.unmeasured().to_dict(), PROBE_SCALE[place.device], list[Acts]()
        sampled, rest = replace(self, parts=_narrow(self.parts, 1)).weights
        for e, h, k, *rows in PROBES:
            heavy = rows[0] * more * rows[2] * more * rows[1] * (e * (h + 1) * rest + e * h * k * sampled)
            m, episodes, seeds, k = _reduced(
                [rows[0] * more, rows[2] * more, rows[1], k], heavy / MOST_WORK[place.device]
            )
            sizes = {"updates": e, "horizon": h, "rollouts": m}
            if "samples" in planner:  # they widen the batch like rollouts do
                samples = 8 * m
                sizes |= {"rollouts": 1, "samples": samples}
                sizes |= {n: math.ceil(planner[n] * samples / planner["samples"]) for n in ("elites", "policy_samples")}
            config = planner_config({**planner, **{name: size for name, size in sizes.items() if name in planner}})
            probe = replace(self, planner=config, parts=_narrow(self.parts, k), seeds=seeds, episodes=episodes)
            found += [probe] if probe not in found else []
        return found


Work = Updates | Acts


def _reduced(sizes: list[int], over: float) -> list[int]:
    """Return sizes whose product is smaller by a factor, as far as it goes: the first is reduced first."""
    reduced = []
    for size in sizes:
        less = max(1, math.ceil(size / max(1.0, over)))
        over *= less / size
        reduced.append(less)
    return reduced


def _without_sizes(config: PlannerConfig | ComponentConfig) -> dict[str, Any]:
    return {name: value for name, value in work_shape(config.to_dict()).items() if name not in SIZES}


def denoising_steps(parts: Mapping[str, ComponentConfig]) -> int:
    """Return in how many denoising steps a planner with these parts samples."""
    return max(int(config.to_dict().get("denoising_steps", 1)) for config in parts.values())


def _narrow(parts: Mapping[str, ComponentConfig], depth: int) -> dict[str, ComponentConfig]:
    """Return parts of bounded width, the sampled one with so many denoising steps."""
    narrow = dict[str, ComponentConfig]()
    for name, config in parts.items():
        fields = config.to_dict()
        sizes = {"hidden_dim": min(config.hidden_dim, WIDEST)}
        if "denoising_steps" in fields:
            sizes["denoising_steps"] = depth
            if fields.get("training_steps"):
                sizes["training_steps"] = max(depth, fields["training_steps"])
        narrow[name] = config.model_copy(update=sizes)
    return narrow


# Sizes


_SIZES: dict[str, int] = {}  # of one member's tensors, by the shape of its config


def weight_bytes(component: str, config: ComponentConfig, dims: tuple[int, int]) -> int:
    """Return the size of one member's parameters and buffers."""
    kind = digest([component, work_shape(config.to_dict()), dims])
    if kind not in _SIZES:
        part = component_class(component, config)(config, *dims, ())  # no member, so nothing is allocated
        _SIZES[kind] = sum(tensor.shape[1:].numel() * tensor.element_size() for tensor in part.state_dict().values())
    return _SIZES[kind]
