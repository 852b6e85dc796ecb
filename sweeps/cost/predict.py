"""What a plan will cost: wall time, GPU- and CPU-hours, disk, before anything starts.

A pack's time is its number of steps times the seconds of one step. Those come from what the store holds of the same
work on this machine, else they are measured (`sweeps.cost.speed`). Packs are then laid on as many processes as fit,
in the driver's order; the time around the work, and how much processes slow each other down, comes from
`sweeps.cost.machine`.
"""

import heapq
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean
from typing import Any

import torch

from cluster.provenance import cores, host_name
from cluster.ray.gpu_share import on_gpus
from cluster.store import Store
from cluster.units import KINDS, ComponentUnit, Kind, Pack
from mpcwdwm.components import component_config
from mpcwdwm.components.registry import curve_played
from mpcwdwm.nn.compute_config import ComputeConfig
from mpcwdwm.planning import planner_config
from sweeps.cost.machine import PLANNING, PLAYING, Machine, known_machine
from sweeps.cost.model import predicted
from sweeps.cost.speed import env_cost
from sweeps.cost.works import Acts, Place, Updates, Work, path_on, weight_bytes, work_shape
from sweeps.execution.progress import working_order
from sweeps.plan.code import digest
from sweeps.plan.gpus import gpus_here, idle_gpus
from sweeps.plan.plan import Plan, cell_packs, component_packs
from sweeps.spec.schema import Resources, Share

__all__ = ["Lengths", "Prediction", "predict", "slots"]

LONGEST_OVER_MEAN = 1.5  # of episodes whose lengths are not known yet
RESULT_BYTES = 24_000  # manifest and 10 to 100 episodes in Parquet
RECORD_BYTES = 12_000  # manifest and learning curve of a component
MOST_MANIFESTS = 500  # read to learn from: a second or two
NO_GPU_HERE = "no GPU here to measure: times and GPU-hours are those of this machine's processor, GPUs take less"
ASKED_LATER = "times are those of this machine; the run asks the Ray cluster for its GPUs when it starts"
NO_BENCH = "times are less accurate until `mpcwdwm bench` has measured this machine, once, in a minute"


@dataclass(frozen=True)
class Lengths:
    """How long the episodes of a pack are, in steps; a lockstep batch lasts as long as its longest."""

    mean: float
    longest: float


@dataclass(frozen=True)
class Prediction:
    """What the missing units of a sweep will take."""

    seconds: dict[str, float]  # phase → wall seconds: "start", "components", "cells", "end"
    gpu_hours: float
    cpu_hours: float
    disk_bytes: int  # of what is added for good
    packs: Mapping[str, float]  # id of each missing pack → its seconds
    notices: tuple[str, ...] = ()  # why it is less accurate than usual, one line each

    @property
    def wall_seconds(self) -> float:
        """Return the seconds from the command to the table."""
        return sum(self.seconds.values())


def predict(plan: Plan, store: Store, lengths: Mapping[str, Lengths] | None = None) -> Prediction:
    """Predict what the missing units of a plan cost on machines like this one.

    Args:
        plan: the plan.
        store: what is published there costs nothing, and tells how fast this machine is.
        lengths: key of a unit → its episodes' lengths, where they are known.
    """
    gpus = gpus_here(plan.spec.resources)
    resources = plan.spec.resources.given(gpus or 0)
    wants_gpu = bool(resources.actor.gpus or resources.trial.gpus)
    machines = [known_machine(_place(share)) for share in (resources.actor, resources.trial)]
    actor, trial = (machine or Machine() for machine in machines)
    training, playing = (working_order(packs(plan, store), plan.spec) for packs in (component_packs, cell_packs))
    actors, trials = slots(resources.actor, resources), slots(resources.trial, resources)
    every = _Packs(plan, store, lengths or {}, [*training, *playing])
    crowd = partial(actor.crowding.factor, processes=min(actors, len(training)))
    trained = [every.seconds(pack, crowd) for pack in training]
    crowd = partial(trial.crowding.factor, processes=min(trials, len(playing)))
    played = [every.seconds(pack, crowd) for pack in playing]
    packs = {pack.id: seconds for pack, seconds in zip([*training, *playing], [*trained, *played], strict=True)}
    played += _awaited(plan, played)
    missing = bool(trained or played)
    work = [(sum(trained), resources.actor), (sum(played), resources.trial)]
    notices = [NO_GPU_HERE] if missing and wants_gpu and not torch.cuda.is_available() else []
    if missing:
        notices += [ASKED_LATER] if gpus is None else idle_gpus(resources, [(cores(), gpus)])
        notices += [NO_BENCH] if None in machines else []
    return Prediction(
        seconds={
            "start": actor.start if missing else 0.0,
            "components": makespan(trained, actors, between=actor.pack),
            "cells": makespan(played, trials, between=actor.pack) + (actor.trial if trained and played else 0.0),
            "end": actor.end if missing else 0.0,
        },
        gpu_hours=sum(seconds * (share.gpus or 0.0) for seconds, share in work) / 3600,
        cpu_hours=sum(seconds * share.cpus for seconds, share in work) / 3600,
        disk_bytes=_bytes(plan, store),
        packs=packs,
        notices=tuple(notices),
    )


def slots(share: Share, resources: Resources) -> int:
    """Return how many such processes run at a time on this machine, at least one."""
    fitting = [cores() / share.cpus, resources.concurrency or math.inf]
    if share.gpus:
        fitting.append(on_gpus(max(1, torch.cuda.device_count()), share.gpus))
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


def _place(share: Share) -> Place:
    """Return where the work is timed: a plan for machines with GPUs may be made on one without."""
    return Place("cuda" if share.gpus and torch.cuda.is_available() else "cpu", min(max(1, int(share.cpus)), cores()))


def _bytes(plan: Plan, store: Store) -> int:
    """Return the size of the missing artifacts and results."""
    published = {kind: set(store.keys(kind)) for kind in KINDS}
    missing = [unit for unit in plan.components if unit.key not in published["component"]]
    sizes = dict[Hashable, int]()
    total = 0
    for unit in missing:
        known = plan.facts[unit.task.name]
        dims = (known.obs_dim, known.act_dim)
        kind = (unit.component, id(unit.config), dims)
        if kind not in sizes:
            sizes[kind] = weight_bytes(unit.component, component_config(unit.component, {}, unit.config), dims)
        total += sizes[kind] + RECORD_BYTES
    results = sum(unit.key not in published["cell"] for unit in plan.cells) + plan.awaiting_choice
    return total + results * RESULT_BYTES


# One pack


class _Packs:
    """Predicts packs, from what the store holds of the same work done on this machine, else from measurements."""

    def __init__(self, plan: Plan, store: Store, known: Mapping[str, Lengths], packs: Iterable[Pack]) -> None:
        self.plan, self.known = plan, known
        self._shapes: dict[int, str] = {}  # of configs, by identity
        self._known: dict[Hashable, float | None] = {}  # kind of pack → its rate or step, if the store tells it
        self._works: dict[Hashable, list[tuple[Work, Place]]] = {}  # kind of pack → what has to be predicted
        self._rates: dict[str, float] = {}  # kind of training → stacked updates per second
        self._step_seconds: dict[str, float] = {}  # kind of evaluation → seconds of a lockstep step
        self._lengths: dict[str, list[Lengths]] = {}  # task → those of its packs of results
        for one in _manifests(store, "component"):
            self._rates[_alike(one)] = one["updates_per_second"]
        together = dict[tuple[str, ...], list[dict[str, Any]]]()
        for one in _manifests(store, "cell"):
            together.setdefault(tuple(one["packed_with"]), []).append(one)
        for results in together.values():
            one, mean = results[0], fmean(each["episodes_mean"]["length"] for each in results)
            longest = max(each.get("longest_episode", LONGEST_OVER_MEAN * mean) for each in results)
            self._lengths.setdefault(one["task"]["name"], []).append(Lengths(mean, longest))
            self._step_seconds[_alike(one)] = len(one["packed_with"]) * one["seconds"] / longest
        for pack in packs:
            if (kind := self._kind(pack)) not in self._works:
                self._add(kind, pack)
        costs = iter(predicted([work for works in self._works.values() for work in works]))
        self._costs = {kind: [next(costs) for _ in works] for kind, works in self._works.items()}

    def seconds(self, pack: Pack, crowd: Callable[[str], float]) -> float:
        """Return the seconds of a pack; ``crowd`` is by what the time of each kind of work is multiplied."""
        unit, kind = pack.units[0], self._kind(pack)
        known, costs = self._known[kind], self._costs[kind]
        if isinstance(unit, ComponentUnit):
            steps, points, episodes = (unit.config[name] for name in ("steps", "evaluations", "eval_episodes"))
            if known:
                return float(steps / known)
            updating = costs[0].first + (steps * costs[0].step + points * costs[0].point) * crowd(unit.component)
            if len(costs) == 1:
                return float(updating)
            return float(updating + points * self._playing(pack, episodes, costs[1].step) * crowd(PLAYING))
        if known:
            return self._lengths_of(pack).longest * known
        acting = costs[0].step * crowd(PLAYING if unit.planner is None else PLANNING) / crowd(PLAYING)
        return costs[0].first + self._playing(pack, unit.episodes, acting) * crowd(PLAYING)

    def _kind(self, pack: Pack) -> Hashable:
        """Return what the packs share that take the same time; configs are shared by the units of a grid."""
        unit = pack.units[0]
        shared = (unit.task.name, len(pack.units))
        if isinstance(unit, ComponentUnit):
            return (*shared, id(unit.config), *(self._shape(config) for config in unit.configs.values()))
        configs = (self._shape(config) for config in (unit.planner or {}, *unit.configs.values()))
        return (*shared, unit.base, unit.episodes, *configs)

    def _shape(self, config: dict[str, Any]) -> str:
        if id(config) not in self._shapes:
            self._shapes[id(config)] = digest(work_shape(config))
        return self._shapes[id(config)]

    def _add(self, kind: Hashable, pack: Pack) -> None:
        """Note what is known of a kind of pack, else what has to be predicted."""
        unit = pack.units[0]
        facts = self.plan.facts[unit.task.name]
        dims, seeds, compute = (facts.obs_dim, facts.act_dim), len(pack.units), ComputeConfig(**pack.compute)
        works: list[Work] = []
        if isinstance(unit, ComponentUnit):
            config, place = component_config(unit.component, {}, unit.config), _place(self.plan.spec.resources.actor)
            bases = {name: component_config(name, {}, fields) for name, fields in unit.configs.items()}
            updates = Updates(unit.component, config, dims, seeds, compute, bases)
            known = self._rates.get(_alike(self._manifest(pack, place, updates.path(place))))
            works.append(updates)
            if curve_played(unit.component, config):
                frozen = {unit.component: config}
                works.append(Acts(None, frozen, unit.component, dims, seeds, config.eval_episodes))
        else:
            place = _place(self.plan.spec.resources.trial)
            path = "eager" if unit.planner is None else path_on(place, compute)
            known = self._step_seconds.get(_alike(self._manifest(pack, place, path)))
            parts = {name: component_config(name, {}, config) for name, config in unit.configs.items()}
            planner = None if unit.planner is None else planner_config(unit.planner)
            works.append(Acts(planner, parts, unit.base, dims, seeds, unit.episodes, compute))
        self._known[kind], self._works[kind] = known, [] if known else [(work, place) for work in works]

    def _playing(self, pack: Pack, episodes: int, acting: float) -> float:
        """Return the seconds of playing so many episodes for each unit, in lockstep; `acting` is one step of the batch.

        The policy is asked until the longest episode has ended; an environment is stepped until its own has.
        """
        rows, task, lengths = len(pack.units) * episodes, pack.units[0].task, self._lengths_of(pack)
        env = env_cost(task.env_id, task.env_kwargs)
        return rows * env.first + lengths.longest * acting + rows * lengths.mean * env.step

    def _lengths_of(self, pack: Pack) -> Lengths:
        """Return how long a pack's episodes are: known, or like those of its task, or like those in its dataset."""
        if known := [self.known[key] for key in pack.keys if key in self.known]:
            return Lengths(fmean(each.mean for each in known), max(each.longest for each in known))
        task = pack.units[0].task
        if played := self._lengths.get(task.name):
            return Lengths(fmean(each.mean for each in played), fmean(each.longest for each in played))
        mean = self.plan.facts[task.name].mean_length
        return Lengths(mean, min(float(task.max_episode_steps), LONGEST_OVER_MEAN * mean))

    def _manifest(self, pack: Pack, place: Place, path: str) -> dict[str, Any]:
        """Return what of the manifest that a pack will have decides its speed."""
        facts = self.plan.facts[pack.units[0].task.name]
        compute = {"path": path, "tf32": pack.compute["tf32"]}
        manifest = {**asdict(pack.units[0]), **asdict(place), "packed_with": pack.keys, "compute": compute}
        return {**manifest, "obs_dim": facts.obs_dim, "act_dim": facts.act_dim}


def _alike(manifest: Mapping[str, Any]) -> str:
    """Return what the manifests of two packs share if one's speed predicts the other's."""
    one, device = manifest, manifest["device"].split(":")[0]
    way = [len(one["packed_with"]), device, one["threads"], one["compute"]]
    if "component" in one:
        return digest([one["component"], work_shape(one["config"]), one["obs_dim"], one["act_dim"], *way])
    shapes = {name: work_shape(config) for name, config in one["configs"].items()}
    planner = one["planner"] and work_shape(one["planner"])
    return digest([planner, shapes, one["task"]["env_id"], one["episodes"], *way])


def _manifests(store: Store, kind: Kind) -> Iterator[dict[str, Any]]:
    """Yield the manifests of what this machine has made."""
    manifests = (store.manifest(kind, key) for key in store.keys(kind)[:MOST_MANIFESTS])
    return (one for one in manifests if one["host"] == host_name())
