"""Actors that cost nothing, in the place of those in which Ray Tune runs trials: thousands fit on one machine.

Tune's controller, our search algorithm, the driver and the store are the real ones. What the actors would compute takes
its time by the clock and is then published by renaming folders that were prepared. What waiting for so many real
actors would cost Tune, `ray.wait` on as many references, is paid here as well.
"""

import heapq
import itertools
import json
import random
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace
from typing import Any

import ray
from ray.air.execution._internal import RayActorManager
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.tune.execution import tune_controller

from cluster.provenance import provenance
from cluster.store import Store
from cluster.units import Pack, pack_from_dict
from cluster.work import write_result

START = 2.0  # seconds from a request for an actor to its first trial
PREPARED = "prepared"  # folder of the store
ROWS = 10  # episodes of a result
NAMES = 30_000  # of one file; ext4 allows 65,000
HANDLE = SimpleNamespace(get_auto_filled_metrics=SimpleNamespace(remote=lambda **_: {}))  # Tune asks at each start
EPISODE = {
    "length": 10,
    "fallbacks": 0,
    "ms_per_step": 1.0,
    "imagined_return": 1.0,
    "adapted_share": 1.0,
    "action_change": 0.1,
}


@dataclass
class Plan:
    """What the stand-ins do, and what they have seen."""

    store: Store
    seconds: Mapping[str, float]  # pack id → how long it takes
    waits: bool = True  # pay for `ray.wait` on as many references as there are actors
    ends: list[float] = field(default_factory=list)  # of packs, by `time.monotonic`
    begins: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)  # from the end of a pack to the begin of its actor's next, seconds
    events: int = 0  # that Tune has handled
    waiting: float = 0.0  # processor seconds in `ray.wait`


@contextmanager
def stand_ins(plan: Plan) -> Iterator[Plan]:
    """Have Tune use stand-ins within the block; Ray has to run, with no matter how few processors."""
    real = tune_controller.RayActorManager
    tune_controller.RayActorManager = lambda resource_manager: StandIns(resource_manager, plan)  # type: ignore[misc]
    try:
        yield plan
    finally:
        tune_controller.RayActorManager = real


class StandIns(RayActorManager):
    """Keeps the time of all actors in one heap."""

    def __init__(self, resource_manager: Any, plan: Plan) -> None:
        super().__init__(resource_manager)
        self._plan, self._due, self._number = plan, list[tuple[float, int, Callable[[], None]]](), itertools.count()
        self._packs: dict[TrackedActor, tuple[Pack, float, float]] = {}  # → pack, its end, its beat
        self._configs: dict[TrackedActor, dict[str, Any]] = {}
        self._never = ray.remote(num_cpus=10**6)(lambda: None)  # a task for which there will be no processors
        self._references: list[Any] = []
        self._ready = ray.put(None)

    # What Tune asks for

    def add_actor(self, cls: Any, kwargs: Any, resource_request: Any, *, on_start=None, on_stop=None, on_error=None):  # type: ignore[no-untyped-def]
        actor = TrackedActor(uuid.uuid4().int, on_start=on_start, on_stop=on_stop, on_error=on_error)
        acquired = SimpleNamespace(resource_request=resource_request)
        self._live_actors_to_ray_actors_resources[actor] = (HANDLE, acquired)
        if self._plan.waits:
            self._references.append(self._never.remote())
        self._later(START, lambda: self._start(actor, kwargs["config"]))
        return actor

    def remove_actor(self, tracked_actor: TrackedActor, kill: bool = False, stop_future: Any = None) -> bool:
        if tracked_actor not in self._live_actors_to_ray_actors_resources:
            return False
        if tracked_actor not in self._packs:  # it has not started, and nobody waits for its end
            del self._live_actors_to_ray_actors_resources[tracked_actor]
            return False

        def stop() -> None:
            self._live_actors_to_ray_actors_resources.pop(tracked_actor, None)
            if tracked_actor._on_stop:
                tracked_actor._on_stop(tracked_actor)

        self._later(0.0, stop)
        return True

    def clear_actor_task_futures(self, tracked_actor: TrackedActor) -> None:
        pass

    def schedule_actor_task(  # type: ignore[no-untyped-def]
        self, tracked_actor, method_name, args=None, kwargs=None, on_result=None, on_error=None, _return_future=False
    ):
        if method_name == "reset":
            self._later(0.0, lambda: self._reset(tracked_actor, args[0], on_result))
        elif method_name == "train":
            pack, end, beat = self._packs[tracked_actor]
            left = max(0.0, end - time.monotonic())
            over = left <= beat
            self._later(min(left, beat), lambda: self._step(tracked_actor, pack, over, on_result))
        return

    def next(self, timeout: float | None = None) -> bool:
        now = time.monotonic()
        first = self._due[0][0] if self._due else now + (timeout or 0.0)
        if first > now:
            time.sleep(min(first - now, timeout or 0.0))
        if not self._due or self._due[0][0] > time.monotonic():
            return False
        self._pay()
        self._plan.events += 1
        heapq.heappop(self._due)[2]()
        return True

    def cleanup(self) -> None:
        self._due.clear()
        self._live_actors_to_ray_actors_resources.clear()

    # What the actors do

    def _start(self, actor: TrackedActor, config: Mapping[str, Any]) -> None:
        if actor in self._live_actors_to_ray_actors_resources:
            self._take(actor, config)
            if actor._on_start:
                actor._on_start(actor)

    def _reset(self, actor: TrackedActor, config: Mapping[str, Any], on_result: Any) -> None:
        self._take(actor, config)
        on_result(actor, True)

    def _take(self, actor: TrackedActor, config: Mapping[str, Any]) -> None:
        pack = pack_from_dict(json.loads(config["pack"]))
        self._plan.begins.append(time.monotonic())
        if actor in self._packs:
            self._plan.gaps.append(time.monotonic() - self._packs[actor][1])
        self._configs[actor] = {**config, "pack": str(config["pack"].encode(), "utf-8")}  # a copy, as through Ray
        self._packs[actor] = (pack, time.monotonic() + self._plan.seconds[pack.id], config.get("beat", 5.0))

    def _step(self, actor: TrackedActor, pack: Pack, over: bool, on_result: Any) -> None:
        if over:
            self._plan.ends.append(self._packs[actor][1])
            publish(self._plan.store, pack)
        report = {"done": over, "fraction": float(over), "note": "", "failure": None, "memory": None}
        report["config"] = self._configs.pop(actor) if over else self._configs[actor]
        on_result(actor, {**report, "training_iteration": 1, "time_total_s": 1.0, "pid": 1, "hostname": "stand-in"})

    def _later(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._number), do))

    def _pay(self) -> None:
        if self._plan.waits:
            began = time.thread_time()
            shuffled = list(self._references)
            random.shuffle(shuffled)
            ray.wait([*shuffled, self._ready], num_returns=1, timeout=1.0)
            self._plan.waiting += time.thread_time() - began


# What they publish


def prepare(store: Store, packs: list[Pack]) -> None:
    """Write the results of packs where `publish` will find them; the rows are one file with many names."""
    facts = provenance()
    folder = store.root / PREPARED
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"episode": n, "env_seed": n, "return": 4.5, "normalized_score": 4.5, **EPISODE} for n in range(ROWS)]
    numbers = {"device": "cpu", "threads": 1, "seconds": 1.0, "env_steps": 100, "dataset_mean_return": 100.0}
    numbers |= {"episodes_mean": {"return": 4.5, "normalized_score": 4.5, "length": 10.0, "ms_per_step": 1.0}}
    template = folder / "template"
    template.mkdir(exist_ok=True)
    write_result(template, rows, {})
    for number, (own_pack, unit) in enumerate((pack, unit) for pack in packs for unit in pack.units):
        if number % NAMES == NAMES - 1:
            shutil.copy(template / "episodes.parquet", folder / "copy")
            (folder / "copy").replace(template / "episodes.parquet")
        (own := folder / unit.key).mkdir()
        (own / "episodes.parquet").hardlink_to(template / "episodes.parquet")
        manifest = {**asdict(unit), "kind": "result", **numbers, "packed_with": list(own_pack.keys), **facts}
        (own / "manifest.json").write_text(json.dumps(manifest))
    (store.root / "results").mkdir(exist_ok=True)


def publish(store: Store, pack: Pack) -> None:
    """Give prepared results their names, as the worker of a pack would."""
    for key in pack.keys:
        (store.root / PREPARED / key).rename(store.root / "results" / key)
