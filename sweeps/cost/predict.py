"""What a plan will cost: wall time, GPU- and CPU-hours, disk, before anything starts.

A pack's time is its number of steps times the seconds of one. Those come from what the store holds
of the same work on this machine, else they are measured (`sweeps.cost.speed`). Packs are then laid on as
many processes as fit, in the driver's order; what surrounds the work, and what processes cost each
other, comes from `sweeps.cost.machine`.
"""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from cluster.provenance import cores, host_name
from cluster.store import Store
from cluster.units import CellUnit, ComponentUnit, Kind, Pack
from mpcwdwm.components import COMPONENTS, ActorComponent, component_config
from mpcwdwm.nn.compute import ComputeConfig
from mpcwdwm.planning import planner_config
from sweeps.cost.machine import PLANNING, PLAYING, Crowding, Machine, known_machine
from sweeps.cost.speed import Place, act_cost, env_cost, path_on, update_cost, weight_bytes, work_shape
from sweeps.execution.progress import relative_work
from sweeps.plan.code import digest
from sweeps.plan.plan import Plan, cell_packs, component_packs
from sweeps.spec.schema import Resources, Share

__all__ = ["Lengths", "Prediction", "predict", "slots"]

LONGEST_OVER_MEAN = 1.5  # of episodes whose lengths are not known yet
RESULT_BYTES = 24_000  # manifest and 10 to 100 episodes in Parquet
RECORD_BYTES = 12_000  # manifest and learning curve of a component
MOST_MANIFESTS = 500  # read to learn from: a second or two
NO_GPU_HERE = "no GPU here to measure: times and GPU-hours are those of this machine's processor, GPUs take less"
NO_BENCH = "times are rougher until `mpcwdwm bench` has measured this machine, once and for a minute"


@dataclass(frozen=True)
class Lengths:
    """How long the episodes of a pack are, in steps; a lockstep batch lasts as long as its longest."""

    mean: float
    longest: float


@dataclass(frozen=True)
class Prediction:
    """What is missing of a sweep will take this much."""

    seconds: dict[str, float]  # phase → wall seconds: "start", "components", "cells", "end"
    gpu_hours: float
    cpu_hours: float
    disk_bytes: int  # of what is added for good
    packs: Mapping[str, float]  # id of each missing pack → its seconds
    notices: tuple[str, ...] = ()  # what makes it rougher than usual, one line each

    @property
    def wall_seconds(self) -> float:
        """Return the seconds from the command to the table."""
        return sum(self.seconds.values())


def predict(plan: Plan, store: Store, lengths: Mapping[str, Lengths] | None = None) -> Prediction:
    """Predict what the missing units of a plan cost on machines like this one.

    Args:
        plan: the plan.
        store: what is published is not missing, and tells how fast this machine was.
        lengths: key of a unit → its episodes' lengths, where they are known.
    """
    resources, past = plan.spec.resources, _Past(plan, store, lengths or {})
    machines = [known_machine(_place(share)) for share in (resources.actor, resources.trial)]
    machine = machines[0] or Machine()
    packs = _in_order(component_packs(plan, store), plan)
    processes = min(slots(resources.actor, resources), len(packs))
    crowd = _Crowd((machines[0] or Machine()).crowding, processes)
    training = [_training_seconds(pack, plan, past, crowd) for pack in packs]
    games = cell_packs(plan, store)
    crowd = _Crowd((machines[1] or Machine()).crowding, min(slots(resources.trial, resources), len(games)))
    playing = [_playing_seconds(pack, plan, past, crowd) for pack in games]
    each = {pack.id: seconds for pack, seconds in zip([*packs, *games], [*training, *playing], strict=True)}
    playing += _awaited(plan, playing)
    missing = bool(training or playing)
    work = [(sum(training), resources.actor), (sum(playing), resources.trial)]
    notices = [NO_GPU_HERE] if missing and _wants_gpu(resources) and not torch.cuda.is_available() else []
    notices += [NO_BENCH] if missing and None in machines else []
    return Prediction(
        seconds={
            "start": machine.start if missing else 0.0,
            "components": makespan(training, processes, between=machine.pack),
            "cells": makespan(playing, slots(resources.trial, resources), between=machine.pack)
            + (machine.trial if training and playing else 0.0),
            "end": machine.end if missing else 0.0,
        },
        gpu_hours=sum(seconds * (share.gpus or 0.0) for seconds, share in work) / 3600,
        cpu_hours=sum(seconds * share.cpus for seconds, share in work) / 3600,
        disk_bytes=_bytes(plan, store),
        packs=each,
        notices=tuple(notices),
    )


@dataclass(frozen=True)
class _Crowd:
    """Processes that work side by side, and what that costs them."""

    crowding: Crowding
    processes: int

    def factor(self, kind: str) -> float:
        return self.crowding.factor(kind, self.processes)


def _in_order(packs: list[Pack], plan: Plan) -> list[Pack]:
    """Return packs of components in the driver's order: task by task, the longest first."""
    tasks = [task.name for task in plan.spec.tasks]
    return sorted(packs, key=lambda pack: (tasks.index(pack.units[0].task.name), -relative_work(pack)))


def _wants_gpu(resources: Resources) -> bool:
    return bool(resources.actor.gpus or resources.trial.gpus)


def slots(share: Share, resources: Resources) -> int:
    """Return how many such processes run at a time on this machine, at least one."""
    fitting = [cores() / share.cpus, resources.concurrency or math.inf]
    if share.gpus:
        fitting.append(max(1, torch.cuda.device_count()) / share.gpus)
    return max(1, int(min(fitting)))


def makespan(seconds: Sequence[float], processes: int, between: float = 0.0) -> float:
    """Return when the last of these tasks ends if each goes to the process that is free first.

    Args:
        seconds: of each task, in the order in which they are given out.
        processes: how many work at a time.
        between: seconds that every task takes besides.
    """
    if not seconds:
        return 0.0
    free = [0.0] * min(processes, len(seconds))
    for duration in seconds:
        heapq.heapreplace(free, free[0] + duration + between)
    return max(free)


def _awaited(plan: Plan, playing: Sequence[float]) -> list[float]:
    """Return the time of cells that are still to be chosen: like those they are chosen from."""
    select = plan.spec.evaluation.select
    if not plan.awaiting_choice or select is None or not playing:
        return []
    packs = math.ceil(plan.awaiting_choice / len(plan.spec.seeds))
    return [sum(playing) / len(playing) * plan.spec.evaluation.episodes / select.episodes] * packs


# One pack


def _place(share: Share) -> Place:
    """Return where the work is timed: a plan for machines with GPUs may be made on one without."""
    return Place("cuda" if share.gpus and torch.cuda.is_available() else "cpu", max(1, int(share.cpus)))


def _training_seconds(pack: Pack, plan: Plan, past: "_Past", crowd: _Crowd) -> float:
    """Return the seconds of a pack of components."""
    unit = cast(ComponentUnit, pack.units[0])
    known, steps = plan.facts[unit.task.name], int(unit.config["steps"])
    place = _place(plan.spec.resources.actor)
    dims = (known.obs_dim, known.act_dim)
    compute = ComputeConfig(**pack.compute)
    config = component_config(unit.component, {}, unit.config)
    way = {"path": path_on(place, compute, unit.component, config), "tf32": compute.tf32}
    if rate := past.rates.get(_training_work(unit.component, unit.config, dims, len(pack.units), place, way)):
        return steps / rate
    cost = update_cost(unit.component, config, dims, len(pack.units), place, compute)
    points = int(unit.config["evaluations"])
    updating = cost.first + (steps * cost.step + points * cost.point) * crowd.factor(unit.component)
    episodes = int(unit.config.get("eval_episodes", 0))
    if not issubclass(COMPONENTS[unit.component], ActorComponent) or not episodes:
        return updating
    parts = {unit.component: config}
    acting = act_cost(None, parts, unit.component, dims, len(pack.units), episodes, place).step
    return updating + points * _episodes_seconds(pack, episodes, acting, past) * crowd.factor(PLAYING)


def _playing_seconds(pack: Pack, plan: Plan, past: "_Past", crowd: _Crowd) -> float:
    """Return the seconds of a pack of cells."""
    unit = cast(CellUnit, pack.units[0])
    known, place = plan.facts[unit.task.name], _place(plan.spec.resources.trial)
    compute = ComputeConfig(**pack.compute)
    way = {"path": "eager" if unit.planner is None else path_on(place, compute), "tf32": compute.tf32}
    work = _playing_work(unit.planner, unit.configs, unit.task.env_id, _rows(pack), place, way)
    if step := past.step_seconds.get(work):
        return past.lengths_of(pack).longest * step
    dims = (known.obs_dim, known.act_dim)
    parts = {name: component_config(name, {}, config) for name, config in unit.configs.items()}
    planner = None if unit.planner is None else planner_config(unit.planner)
    cost = act_cost(planner, parts, unit.base, dims, len(pack.units), unit.episodes, place, compute)
    acting = cost.step * crowd.factor(PLAYING if planner is None else PLANNING) / crowd.factor(PLAYING)
    return cost.first + _episodes_seconds(pack, unit.episodes, acting, past) * crowd.factor(PLAYING)


def _episodes_seconds(pack: Pack, episodes: int, acting: float, past: "_Past") -> float:
    """Return the seconds of playing so many episodes for each unit, in lockstep; `acting` is one step of the batch.

    The policy is asked until the longest episode has ended; an environment is stepped until its own has.
    """
    rows, env, lengths = len(pack.units) * episodes, env_cost(pack.units[0].task.env_id), past.lengths_of(pack)
    return rows * env.first + lengths.longest * acting + rows * lengths.mean * env.step


def _rows(pack: Pack) -> list[int]:
    return [len(pack.units), cast(CellUnit, pack.units[0]).episodes]


def _bytes(plan: Plan, store: Store) -> int:
    """Return the size of the missing artifacts and results."""
    missing = [unit for unit in plan.components if not store.has("component", unit.key)]
    sizes = dict[str, int]()
    total = 0
    for unit in missing:
        known = plan.facts[unit.task.name]
        dims = (known.obs_dim, known.act_dim)
        kind = digest([unit.component, work_shape(unit.config), dims])
        if kind not in sizes:
            sizes[kind] = weight_bytes(unit.component, component_config(unit.component, {}, unit.config), dims)
        total += sizes[kind] + RECORD_BYTES
    results = sum(not store.has("cell", unit.key) for unit in plan.cells) + plan.awaiting_choice
    return total + results * RESULT_BYTES


# What has been done before


def _training_work(
    component: str, config: dict[str, Any], dims: tuple[int, int], seeds: int, place: Place, way: dict[str, Any]
) -> str:
    """Return what two packs of components share if one's speed predicts the other's."""
    return digest([component, work_shape(config), dims, seeds, place.device, place.threads, way])


def _playing_work(
    planner: dict[str, Any] | None,
    configs: dict[str, Any],
    env_id: str,
    rows: list[int],
    place: Place,
    way: dict[str, Any],
) -> str:
    """Return what two packs of cells share if one's speed predicts the other's."""
    shapes = {name: work_shape(config) for name, config in configs.items()}
    return digest([planner and work_shape(planner), shapes, env_id, rows, place.device, place.threads, way])


class _Past:
    """What the store holds of the same kind of work, done on this machine."""

    def __init__(self, plan: Plan, store: Store, known: Mapping[str, Lengths]) -> None:
        self.plan, self.known = plan, known
        self.rates: dict[str, float] = {}  # kind of training → stacked updates per second
        self.step_seconds: dict[str, float] = {}  # kind of evaluation → seconds of a lockstep step
        self._lengths: dict[str, list[Lengths]] = {}  # task → those of its packs of results
        for one in _manifests(store, "component"):
            place = Place(one["device"].split(":")[0], one["threads"])
            dims, seeds = (one["obs_dim"], one["act_dim"]), len(one["packed_with"])
            work = _training_work(one["component"], one["config"], dims, seeds, place, one["compute"])
            self.rates[work] = one["updates_per_second"]
        packs = dict[tuple[str, ...], list[dict[str, Any]]]()
        for one in _manifests(store, "cell"):
            packs.setdefault(tuple(one["packed_with"]), []).append(one)
        for pack in packs.values():
            one, lengths = pack[0], _lengths_of_results(pack)
            self._lengths.setdefault(one["task"]["name"], []).append(lengths)
            rows = [len(one["packed_with"]), one["episodes"]]
            place = Place(one["device"].split(":")[0], one["threads"])
            work = _playing_work(one["planner"], one["configs"], one["task"]["env_id"], rows, place, one["compute"])
            self.step_seconds[work] = rows[0] * one["seconds"] / lengths.longest

    def lengths_of(self, pack: Pack) -> Lengths:
        """Return how long a pack's episodes are: known, or like those of its task, or like those in its dataset."""
        known = [self.known[unit.key] for unit in pack.units if unit.key in self.known]
        task = pack.units[0].task
        if not known and not (known := self._lengths.get(task.name, [])):
            return _guessed(self.plan.facts[task.name].mean_length, task.max_episode_steps)
        mean = sum(each.mean for each in known) / len(known)
        if pack.units[0].key in self.known:
            return Lengths(mean, max(each.longest for each in known))
        return Lengths(mean, sum(each.longest for each in known) / len(known))


def _guessed(mean: float, most: int) -> Lengths:
    return Lengths(mean, min(float(most), LONGEST_OVER_MEAN * mean))


def _lengths_of_results(pack: Sequence[dict[str, Any]]) -> Lengths:
    """Return the lengths of results that were played together, from their manifests."""
    mean = sum(one["episodes_mean"]["length"] for one in pack) / len(pack)
    longest = [one["longest_episode"] for one in pack if "longest_episode" in one]
    guessed = _guessed(mean, pack[0]["task"]["max_episode_steps"])
    return Lengths(mean, float(max(longest))) if len(longest) == len(pack) else guessed


def _manifests(store: Store, kind: Kind) -> Iterable[dict[str, Any]]:
    """Yield the manifests of what this machine has made."""
    here = host_name()
    for key in store.keys(kind)[:MOST_MANIFESTS]:
        manifest = store.manifest(kind, key)
        if manifest["host"] == here:
            yield manifest
