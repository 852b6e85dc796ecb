"""How fast this machine is: seconds of a component's update, of a planner's step, of an environment's.

Everything is measured through the same code that will do the work, on random data of the task's dimensions, for about
half a second, and remembered in the user's cache folder. What does not change the speed (step sizes, coefficients,
the number of updates) is left out of what is remembered. The first steps are kept apart: they may compile or capture
graphs, which a long run does once.
"""

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.provenance import host_name
from mpcwdwm.components import component_class, component_config, untrained_bases
from mpcwdwm.components.component import ComponentConfig
from mpcwdwm.data.dataset import Dataset, from_arrays
from mpcwdwm.data.fingerprint import cache_folder, write_json
from mpcwdwm.data.hdf5 import Arrays
from mpcwdwm.envs.factory import make_env, mujoco_version
from mpcwdwm.nn.compute import ComputeConfig, path_of
from mpcwdwm.planning import PlannerConfig, assemble, planner_class, planner_config
from mpcwdwm.training.evaluators import heldout_evaluator
from mpcwdwm.training.loop import Trained, Training
from sweeps.plan.code import code_hash, digest
from sweeps.plan.keys import cell_code, component_code

__all__ = [
    "Cost",
    "Place",
    "act_cost",
    "endless",
    "env_cost",
    "path_on",
    "random_dataset",
    "steady",
    "time_acts",
    "time_env",
    "time_updates",
    "update_cost",
    "weight_bytes",
    "work_shape",
]

MEASURE_SECONDS = 0.4  # of updates: long enough for a median that is stable to a few percent
ACT_SECONDS = 0.2  # of acting: a plan may have many cells, each of other work
PORTIONS = 8  # of that time: slices of which the median is taken
LEAST_SLICES = 3
ENDLESS = 10**9  # steps of a training that is only timed
RANDOM_EPISODES, RANDOM_LENGTH = 100, 500  # of the random data set: more than a processor's inner caches hold
# Rows · H · K · M · E that one timed planning step may have: about half a second. Larger plans are timed
# with fewer rollouts, updates or steps and extrapolated.
MOST_WORK = {"cpu": 4_000, "cuda": 1_000_000}
COMPILE_SECONDS = 30.0  # of a training that is compiled, once: 10 to 60 measured
COMPILED_SHARE = 0.9  # of an eager update's time (tests/benchmarks/pretraining.py)
AS_DEFAULT = ComputeConfig()
ENV_STEPS = 200  # environment steps timed at least


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
    """Return what of a config decides how much work a step is: no real numbers, no lengths of training."""
    lengths = ("steps", "evaluations", "eval_episodes")
    return {k: v for k, v in config.items() if not isinstance(v, float) and k not in lengths}


def path_on(
    place: Place, compute: ComputeConfig, component: str | None = None, config: ComponentConfig | None = None
) -> str:
    """Return how a component's training, or a planner (None), is run there: see `mpcwdwm.nn.compute.path_of`.

    A plan for GPUs may be made on a machine without: then it is measured eagerly.
    """
    if place.device == "cpu" and compute.capture == "graph":
        return "eager"
    if component is None or config is None:
        return path_of(compute, place.device)
    pays = component_class(component, config).compile_pays
    return path_of(compute, place.device, updates=config.steps, compile_pays=pays)


def update_cost(
    component: str,
    config: ComponentConfig,
    dims: tuple[int, int],
    seeds: int,
    place: Place,
    compute: ComputeConfig = AS_DEFAULT,
    *,
    anew: bool = False,
) -> Cost:
    """Return the cost of a stacked update; `dims` are (obs_dim, act_dim).

    What will be compiled is measured eagerly, and less expected of it: measuring must not take a minute.
    """
    path = path_on(place, compute, component, config)
    way = compute.model_copy(update={"capture": "eager" if path == "compile" else path})
    what = {"component": component, "config": work_shape(config.to_dict()), "dims": dims, "seeds": seeds}
    what |= {"compute": way.to_dict(), "code": component_code(component, config)}
    work = (component, config, dims, seeds, place, way)
    cost = _remember(what, place, lambda: time_updates(*work), anew=anew)
    if path != "compile":
        return cost
    return Cost(COMPILED_SHARE * cost.step, cost.first + COMPILE_SECONDS, cost.point)


def act_cost(
    planner: PlannerConfig | None,
    parts: Mapping[str, ComponentConfig],
    base: str,
    dims: tuple[int, int],
    seeds: int,
    episodes: int,
    place: Place,
    compute: ComputeConfig = AS_DEFAULT,
    *,
    anew: bool = False,
) -> Cost:
    """Return the cost of acting once for all seeds × episodes, with a planner or (None) with the policy of `base`."""
    shapes = {name: work_shape(config.to_dict()) for name, config in parts.items()}
    shape = planner and work_shape(planner.to_dict())
    way = compute.model_copy(update={"capture": path_on(place, compute)})
    what = {"planner": shape, "base": base, "parts": shapes, "dims": dims, "rows": [seeds, episodes]}
    what |= {"compute": way.to_dict(), "code": cell_code(planner, parts)}
    work = (planner, parts, base, dims, seeds, episodes, place, way)
    return _remember(what, place, lambda: time_acts(*work), anew=anew)


def env_cost(env_id: str, *, anew: bool = False) -> Cost:
    """Return the cost of a step of one environment under random actions; `first` is making and resetting it."""
    what = {"env": env_id, "mujoco": mujoco_version(), "code": code_hash("mpcwdwm.envs.factory")}
    return _remember(what, ONE_CORE, lambda: time_env(env_id), anew=anew)


def weight_bytes(component: str, config: ComponentConfig, dims: tuple[int, int]) -> int:
    """Return the size of one member's parameters and buffers."""
    part = component_class(component, config)(config, *dims, (0,))
    return sum(tensor.numel() * tensor.element_size() for tensor in part.state_dict().values())


# Measuring


def _remember(what: dict[str, Any], place: Place, measure: Callable[[], Cost], *, anew: bool = False) -> Cost:
    """Return a measurement, from the cache folder if this machine has made it before and not asked to make it anew."""
    what = {**what, "host": host_name(), "torch": torch.__version__, **asdict(place)}
    entry = cache_folder() / "speed" / f"{digest(what)[:32]}.json"
    if not anew:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent or damaged: measure
            return Cost(**{name: float(value) for name, value in json.loads(entry.read_text())["seconds"].items()})
    with place.taken():
        cost = measure()
    with contextlib.suppress(OSError):  # only costs measuring again
        write_json(entry, {"seconds": asdict(cost), **what})
    return cost


def steady(
    work: Callable[[int], Any],
    clock: Callable[[], float],
    *,
    together: int = 1,
    seconds: float = MEASURE_SECONDS,
) -> Cost:
    """Time steps until their cost has settled; the median of several slices is the cost of one.

    Args:
        work: does so many steps.
        clock: seconds; waits for the device.
        together: steps come in multiples of this, where they are not all alike.
        seconds: to measure for, once it has settled.
    """

    def timed(steps: int) -> float:
        started = clock()
        work(steps)
        return clock() - started

    steps = done = together
    spent = timed(steps)
    before = spent / steps
    while True:  # until a slice is long enough, and its steps no longer much cheaper than those before
        latest = timed(steps)
        settled = latest / steps > before / 2
        spent, done, before = spent + latest, done + steps, latest / steps
        if latest < seconds / PORTIONS:
            steps *= 2
        elif settled:
            break
    slices, elapsed = [before], latest
    while elapsed < seconds or len(slices) < LEAST_SLICES:
        if latest < seconds / PORTIONS:  # a capture had made the slice before look long
            steps, slices, elapsed = 2 * steps, [], 0.0
        latest = timed(steps)
        slices.append(latest / steps)
        elapsed += latest
    step = statistics.median(slices)
    return Cost(step, max(0.0, spent - step * done))


def endless(
    component: str, config: ComponentConfig, dims: tuple[int, int], seeds: int, device: str, compute: ComputeConfig
) -> Training:
    """Return a training on random data that does not end by itself."""
    config = config.brief().model_copy(update={"steps": ENDLESS})
    bases, data = untrained_bases(config, dims, range(seeds)), random_dataset(*dims)
    return Training(component, config, data, range(seeds), bases=bases, device=device, compute=compute)


def time_updates(
    component: str, config: ComponentConfig, dims: tuple[int, int], seeds: int, place: Place, compute: ComputeConfig
) -> Cost:
    """Measure what `update_cost` remembers."""
    training = endless(component, config, dims, seeds, place.device, compute)
    together = training.part.period  # not all steps are alike
    cost = steady(lambda steps: training.run(until=training.step + steps), place.clock, together=together)
    if hasattr(training.part, "actor"):
        return cost  # its curve is played in the environment
    evaluate = heldout_evaluator(training.part, training.datasets)
    evaluate(training.part)
    started = place.clock()
    evaluate(training.part)
    return Cost(cost.step, cost.first, place.clock() - started)


def time_acts(
    planner: PlannerConfig | None,
    parts: Mapping[str, ComponentConfig],
    base: str,
    dims: tuple[int, int],
    seeds: int,
    episodes: int,
    place: Place,
    compute: ComputeConfig,
) -> Cost:
    """Measure what `act_cost` remembers."""
    loaded = assemble(
        {name: _untrained(name, part, dims, seeds) for name, part in parts.items()}, base, device=place.device
    )
    rows = seeds * episodes
    obs = torch.randn(rows, dims[0], device=place.device)
    if planner is None:
        psi = loaded.policy.initial(episodes)

        @torch.no_grad()
        def frozen(steps: int) -> None:
            for _ in range(steps):
                loaded.policy(psi, obs.unsqueeze(1))

        return steady(frozen, place.clock, seconds=ACT_SECONDS)
    fields = planner.unmeasured().to_dict()
    depth = getattr(parts.get("world_model"), "denoising_steps", 1)
    timed = list[tuple[float, Cost]]()
    for smaller, size in smaller_plans(fields, rows=rows, depth=depth, most=MOST_WORK[place.device]):
        config = planner_config(smaller)
        planning = planner_class(config)(loaded, config, seeds=range(seeds), episodes=episodes, compute=compute)

        def plan(steps: int, planning: Any = planning) -> None:
            for _ in range(steps):
                planning.act(obs)

        timed.append((size, steady(plan, place.clock, seconds=ACT_SECONDS)))
    return Cost(extrapolated([(size, cost.step) for size, cost in timed]), timed[0][1].first)


def smaller_plans(
    planner: Mapping[str, Any], *, rows: int, depth: int, most: int
) -> list[tuple[dict[str, Any], float]]:
    """Return plans small enough to be timed, largest first, each with its share of the whole one's work.

    The whole plan alone, if it is small enough; else two, so that what does not grow with the work shows.

    Args:
        planner: config of the whole plan.
        rows: episodes planned for at a time.
        depth: denoising steps.
        most: rows · rollouts · horizon · depth · updates that may be timed.
    """
    whole = {name: planner.get(name, 1) for name in ("updates", "rollouts", "horizon")}
    rows *= planner.get("samples", 1)  # candidate sequences widen the batch like rows do
    left = rows * depth * whole["updates"] * whole["rollouts"] * max(1, whole["horizon"])
    if left <= most:
        return [(dict(planner), 1.0)]

    def cut(most: float) -> tuple[dict[str, Any], float]:
        small, share, work = dict(whole), 1.0, float(left)
        for name, value in whole.items():  # updates first: they are repeated exactly
            if value > 1:
                small[name] = max(1, min(value, int(value * most / work)))
                share, work = share * small[name] / value, work * small[name] / value
        return {**planner, **{name: value for name, value in small.items() if name in planner}}, share

    sizes = [cut(most), cut(most / 2)]
    return sizes if sizes[0][1] > sizes[1][1] else sizes[:1]


def extrapolated(timed: list[tuple[float, float]]) -> float:
    """Return the seconds of the whole (size 1) from those of one or two parts: a straight line, never falling."""
    (size, seconds), *others = timed
    if not others:
        return seconds / size
    (smaller, fewer) = others[0]
    slope = max(0.0, seconds - fewer) / (size - smaller)
    return min(seconds / size, seconds + slope * (1 - size))


def time_env(env_id: str) -> Cost:
    """Measure what `env_cost` remembers."""
    make_env(env_id).close()  # the first one loads the simulator
    started = ONE_CORE.clock()
    env = make_env(env_id)
    env.reset(seed=0)
    first = ONE_CORE.clock() - started
    actions = np.random.default_rng(0).uniform(-1, 1, (ENV_STEPS, *env.action_space.shape)).astype(np.float32)
    seconds, steps = 0.0, 0
    while seconds < ACT_SECONDS:
        env.reset(seed=steps)
        started = ONE_CORE.clock()
        for action in actions:
            steps += 1
            if any(env.step(action)[2:4]):
                break
        seconds += ONE_CORE.clock() - started
    env.close()
    return Cost(seconds / steps, first)


def _untrained(name: str, config: ComponentConfig, dims: tuple[int, int], seeds: int) -> list[Trained]:
    """Return a component as it is initialised."""
    once = component_config(name, {}, {**config.brief().to_dict(), "steps": 1, "evaluations": 1})
    bases = untrained_bases(once, dims, range(seeds))
    return Training(name, once, random_dataset(*dims), range(seeds), bases=bases).trained()


def random_dataset(obs_dim: int, act_dim: int) -> Dataset:
    """Return noise in the form of a dataset; its hash tells it from every real one."""
    rows, noise = RANDOM_EPISODES * RANDOM_LENGTH, np.random.default_rng(0)
    arrays = Arrays(
        obs=noise.standard_normal((rows, obs_dim), dtype=np.float32),
        action=noise.uniform(-1, 1, (rows, act_dim)).astype(np.float32),
        reward=noise.standard_normal(rows, dtype=np.float32),
        terminal=np.zeros(rows, dtype=bool),
        timeout=np.arange(1, rows + 1) % RANDOM_LENGTH == 0,
        next_obs=None,
    )
    return from_arrays(arrays, digest(["random", obs_dim, act_dim]), Path("random"))
