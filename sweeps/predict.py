"""What a plan will cost: wall time, GPU- and CPU-hours, disk, before anything starts.

A pack's time is its number of steps times the seconds of one. Those come from what the store holds
of the same work on this machine, else they are measured (`sweeps.speed`). Packs are then laid on as
many processes as fit, in plan order.
"""

import heapq
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch

from cluster.provenance import host_name
from cluster.units import CellUnit, ComponentUnit, Pack
from mpcwdwm.components import component_config
from mpcwdwm.planning import planner_config
from sweeps.keys import digest
from sweeps.plan import Plan, StoreView, cell_packs, component_packs
from sweeps.schema import Resources, Share
from sweeps.speed import Place, act_seconds, update_seconds, weight_bytes, work_shape

__all__ = ["Prediction", "predict", "slots"]

START_SECONDS = 10.0  # Ray and MLflow's store, once a sweep (6 s and 4 s measured on two cores)
PROCESS_SECONDS = 5.0  # a process of Ray's with torch and MuJoCo imported, once per process and phase
ENV_STEP_SECONDS = 2e-4  # of one MuJoCo environment (0.07 to 0.2 ms measured)
ACT_SECONDS = 5e-4  # a policy without planner acts for a lockstep batch
LONGEST_OVER_MEAN = 1.5  # a lockstep batch lasts as long as its longest episode
RESULT_BYTES = 24_000  # manifest and 10 to 100 episodes in Parquet
RECORD_BYTES = 12_000  # manifest and learning curve of a component
MOST_MANIFESTS = 500  # read to learn from: a second or two
NO_GPU_HERE = "no GPU here to measure: times and GPU-hours are those of this machine's processor, GPUs take less"


class Archive(StoreView, Protocol):
    """What a prediction asks of the store."""

    def keys(self, kind: str) -> list[str]:
        """Return the keys of all published artifacts of a kind."""
        ...


@dataclass(frozen=True)
class Prediction:
    """What is missing of a sweep will take this much."""

    seconds: dict[str, float]  # phase → wall seconds: "start", "components", "cells"
    gpu_hours: float
    cpu_hours: float
    disk_bytes: int  # of what is added for good
    notices: tuple[str, ...] = ()  # what makes it rougher than usual, one line each

    @property
    def wall_seconds(self) -> float:
        """Return the seconds from the command to the table."""
        return sum(self.seconds.values())


def predict(plan: Plan, store: Archive) -> Prediction:
    """Predict what the missing units of a plan cost on machines like this one."""
    resources, past = plan.spec.resources, _Past(plan, store)
    training = [_training_seconds(pack, plan, past) for pack in component_packs(plan, store)]
    playing = [_playing_seconds(pack, plan, past) for pack in cell_packs(plan, store)]
    playing += _awaited(plan, playing)
    phases = {
        "components": makespan(training, slots(resources.actor, resources)),
        "cells": makespan(playing, slots(resources.trial, resources)),
    }
    missing = training or playing
    work = [(sum(training), resources.actor), (sum(playing), resources.trial)]
    return Prediction(
        seconds={"start": START_SECONDS if missing else 0.0, **phases},
        gpu_hours=sum(seconds * (share.gpus or 0.0) for seconds, share in work) / 3600,
        cpu_hours=sum(seconds * share.cpus for seconds, share in work) / 3600,
        disk_bytes=_bytes(plan, store),
        notices=(NO_GPU_HERE,) if missing and _wants_gpu(resources) and not torch.cuda.is_available() else (),
    )


def _wants_gpu(resources: Resources) -> bool:
    return bool(resources.actor.gpus or resources.trial.gpus)


def slots(share: Share, resources: Resources) -> int:
    """Return how many such processes run at a time on this machine, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fitting = [cores / share.cpus, resources.concurrency or math.inf]
    if share.gpus:
        fitting.append(max(1, torch.cuda.device_count()) / share.gpus)
    return max(1, int(min(fitting)))


def makespan(seconds: Sequence[float], processes: int) -> float:
    """Return when the last of these tasks ends if each goes to the process that is free first."""
    if not seconds:
        return 0.0
    free = [PROCESS_SECONDS] * min(processes, len(seconds))
    for duration in seconds:
        heapq.heapreplace(free, free[0] + duration)
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


def _training_seconds(pack: Pack, plan: Plan, past: "_Past") -> float:
    """Return the seconds of a pack of components."""
    unit = cast(ComponentUnit, pack.units[0])
    known, steps = plan.facts[unit.task.name], int(unit.config["steps"])
    place = _place(plan.spec.resources.actor)
    dims = (known.obs_dim, known.act_dim)
    if rate := past.rates.get(_training_work(unit.component, unit.config, dims, len(pack.units), place)):
        return steps / rate
    config = component_config(unit.component, {}, unit.config)
    updating = steps * update_seconds(unit.component, config, dims, len(pack.units), place)
    rows = len(pack.units) * int(unit.config.get("eval_episodes", 0))
    if unit.component not in ("rebrac", "iql", "bc") or not rows:
        return updating
    lasts = past.lockstep_steps(unit)
    return updating + int(unit.config["evaluations"]) * lasts * (ACT_SECONDS + rows * ENV_STEP_SECONDS)


def _playing_seconds(pack: Pack, plan: Plan, past: "_Past") -> float:
    """Return the seconds of a pack of cells."""
    unit = cast(CellUnit, pack.units[0])
    known, place = plan.facts[unit.task.name], _place(plan.spec.resources.trial)
    lasts = past.lockstep_steps(unit)
    if step := past.step_seconds.get(_playing_work(unit.planner, unit.configs, unit.task.env_id, _rows(pack), place)):
        return lasts * step
    acting = ACT_SECONDS
    if unit.planner is not None:
        parts = {name: component_config(name, {}, config) for name, config in unit.configs.items()}
        dims = (known.obs_dim, known.act_dim)
        acting = act_seconds(planner_config(unit.planner), parts, dims, len(pack.units), unit.episodes, place)
    return lasts * (acting + len(pack.units) * unit.episodes * ENV_STEP_SECONDS)


def _rows(pack: Pack) -> list[int]:
    return [len(pack.units), cast(CellUnit, pack.units[0]).episodes]


def _bytes(plan: Plan, store: StoreView) -> int:
    """Return the size of the missing artifacts and results."""
    missing = [unit for unit in plan.components if not store.has("components", unit.key)]
    sizes = dict[str, int]()
    total = 0
    for unit in missing:
        known = plan.facts[unit.task.name]
        dims = (known.obs_dim, known.act_dim)
        kind = digest([unit.component, work_shape(unit.config), dims])
        if kind not in sizes:
            sizes[kind] = weight_bytes(unit.component, component_config(unit.component, {}, unit.config), dims)
        total += sizes[kind] + RECORD_BYTES
    results = sum(not store.has("results", unit.key) for unit in plan.cells) + plan.awaiting_choice
    return total + results * RESULT_BYTES


# What has been done before


def _training_work(component: str, config: dict[str, Any], dims: tuple[int, int], seeds: int, place: Place) -> str:
    """Return what two packs of components share if one's speed predicts the other's."""
    return digest([component, work_shape(config), dims, seeds, place.device, place.threads])


def _playing_work(
    planner: dict[str, Any] | None, configs: dict[str, Any], env_id: str, rows: list[int], place: Place
) -> str:
    """Return what two packs of cells share if one's speed predicts the other's."""
    shapes = {name: work_shape(config) for name, config in configs.items()}
    return digest([planner and work_shape(planner), shapes, env_id, rows, place.device, place.threads])


class _Past:
    """What the store holds of the same kind of work, done on this machine."""

    def __init__(self, plan: Plan, store: Archive) -> None:
        self.plan = plan
        self.rates: dict[str, float] = {}  # kind of training → stacked updates per second
        self.step_seconds: dict[str, float] = {}  # kind of evaluation → seconds of a lockstep step
        self.lengths: dict[str, list[float]] = {}  # task → mean episode lengths of its results
        for one in _manifests(store, "components"):
            place = Place(one["device"].split(":")[0], one["threads"])
            dims, seeds = (one["obs_dim"], one["act_dim"]), len(one["packed_with"])
            work = _training_work(one["component"], one["config"], dims, seeds, place)
            self.rates[work] = one["updates_per_second"]
        for one in _manifests(store, "results"):
            mean, seeds = one["episodes_mean"]["length"], len(one["packed_with"])
            self.lengths.setdefault(one["task"]["name"], []).append(mean)
            rows = [seeds, one["episodes"]]
            place = Place(one["device"].split(":")[0], one["threads"])
            work = _playing_work(one["planner"], one["configs"], one["task"]["env_id"], rows, place)
            lasts = _longest(mean, one["task"]["max_episode_steps"])
            self.step_seconds[work] = seeds * one["seconds"] / lasts

    def lockstep_steps(self, unit: ComponentUnit | CellUnit) -> float:
        """Return how many steps a batch of episodes of the unit's task lasts."""
        before = self.lengths.get(unit.task.name)
        mean = sum(before) / len(before) if before else self.plan.facts[unit.task.name].mean_length
        return _longest(mean, unit.task.max_episode_steps)


def _longest(mean: float, most: int) -> float:
    return min(float(most), LONGEST_OVER_MEAN * mean)


def _manifests(store: Archive, kind: str) -> Iterable[dict[str, Any]]:
    """Yield the manifests of what this machine has made."""
    here = host_name()
    for key in store.keys(kind)[:MOST_MANIFESTS]:
        manifest = store.manifest(kind, key)
        if manifest["host"] == here:
            yield manifest
