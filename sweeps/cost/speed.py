"""How fast this machine is: seconds of a component's update, of a planner's step, of an environment's step.

Measured by running the same code on random data of the task's dimensions, about half a second each, and stored in the
user's cache folder. Settings that do not change the speed (step sizes, coefficients, the number of updates) do not
count. The first steps are counted apart: they may compile or capture graphs, which happens once in a long run.
"""

import contextlib
import json
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue

from cluster.provenance import host_name
from mpcwdwm.components import component_class, untrained_bases
from mpcwdwm.components.component import ModelConfig
from mpcwdwm.data.dataset import Dataset, from_arrays
from mpcwdwm.data.fingerprint import cache_folder, write_json
from mpcwdwm.data.hdf5 import Arrays
from mpcwdwm.envs.factory import make_env, mujoco_version
from mpcwdwm.errors import UserError
from mpcwdwm.nn.compute import uncompiled_on
from mpcwdwm.planning import assemble, planner_class
from mpcwdwm.training.evaluators import heldout_evaluator
from mpcwdwm.training.loop import Training
from sweeps.cost.works import ONE_CORE, Acts, Cost, Place, Updates, path_on, work_shape
from sweeps.plan.code import code_hash, digest
from sweeps.plan.keys import cell_code, component_code

__all__ = [
    "act_cost",
    "cache_entry",
    "endless",
    "env_cost",
    "random_dataset",
    "time_acts",
    "time_env",
    "time_updates",
    "update_cost",
]

MEASURE_SECONDS = 0.15  # of updates: long enough for a median that is stable to a few percent
ACT_SECONDS = 0.08  # of acting
PORTIONS = 8  # of that time: slices of which the median is taken
LEAST_SLICES = 3
ENDLESS = 10**9  # steps of a training that is only timed
RANDOM_EPISODES, RANDOM_LENGTH = 100, 500  # of the random data set: more than a processor's inner caches hold
COMPILE_SECONDS = 30.0  # of a training that is compiled, once: 10 to 60 measured
COMPILED_SHARE = {"cpu": 0.9, "cuda": 0.77}  # of an uncompiled update's time (tests/benchmarks/pretraining.py, gpu.py)
ENV_STEPS = 200  # environment steps timed at least


def update_cost(work: Updates, place: Place, *, anew: bool = False) -> Cost:
    """Return the cost of a stacked update.

    What will be compiled is measured without and scaled by `COMPILED_SHARE`: compiling takes up to a minute.
    """
    path = work.path(place)
    capture = uncompiled_on(place.device) if path == "compile" else path
    compute = work.compute.model_copy(update={"capture": capture})
    work = replace(work, compute=compute)
    what: dict[str, Any] = {**work.shape, "dims": work.dims, "seeds": work.seeds, "compute": compute.to_dict()}
    what["code"] = component_code(work.component, work.config)
    cost = _remember(what, place, lambda: time_updates(work, place), anew=anew, name=f"component '{work.component}'")
    if path != "compile":
        return cost
    return Cost(COMPILED_SHARE[torch.device(place.device).type] * cost.step, cost.first + COMPILE_SECONDS, cost.point)


def act_cost(work: Acts, place: Place, *, anew: bool = False) -> Cost:
    """Return the cost of acting once."""
    compute = work.compute.model_copy(update={"capture": path_on(place, work.compute)})
    work = replace(work, compute=compute)
    shapes = {name: work_shape(config.to_dict()) for name, config in work.parts.items()}
    what: dict[str, Any] = {"base": work.base, "parts": shapes}
    what |= {"planner": work.planner and work_shape(work.planner.to_dict())}
    what |= {"dims": work.dims, "rows": [work.seeds, work.episodes], "compute": compute.to_dict()}
    what["code"] = cell_code(work.planner, work.parts)
    name = f"planner kind '{work.planner.kind}'" if work.planner else work.base
    return _remember(what, place, lambda: time_acts(work, place), anew=anew, name=name)


def env_cost(env_id: str, env_kwargs: Mapping[str, JsonValue] | None = None, *, anew: bool = False) -> Cost:
    """Return the cost of a step of one environment under random actions; `first` is making and resetting it."""
    made = {"env_kwargs": dict(env_kwargs)} if env_kwargs else {}
    what = {"env": env_id, **made, "mujoco": mujoco_version(), "code": code_hash("mpcwdwm.envs.factory")}
    return _remember(what, ONE_CORE, lambda: time_env(env_id, env_kwargs), anew=anew, name=f"environment '{env_id}'")


# Measuring


def cache_entry(what: Mapping[str, Any], place: Place) -> tuple[Path, dict[str, Any]]:
    """Return where the user's cache holds what was measured on this machine, and by what it is found."""
    what = {**what, "host": host_name(), "torch": torch.__version__, **asdict(place)}
    return cache_folder() / "speed" / f"{digest(what)[:32]}.json", what


def _remember(what: dict[str, Any], place: Place, measure: Callable[[], Cost], *, anew: bool, name: str) -> Cost:
    """Return a measurement, from the cache folder if this machine has made it before and not asked to make it anew.

    Raises:
        UserError: what is measured, called `name`, may be a user's own, and failed.
    """
    entry, what = cache_entry(what, place)
    if not anew:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent or damaged: measure
            return Cost(
                **{
                    name: float(value)
                    for name, value in json.loads(entry.read_text(encoding="utf-8"))["seconds"].items()
                }
            )
    try:
        with place.taken():
            cost = measure()
    except UserError:
        raise
    except Exception as error:  # whatever a user's own code raises
        raise UserError(f"{name} failed when it was timed: {type(error).__name__}: {error}") from error
    with contextlib.suppress(OSError):  # only costs measuring again
        write_json(entry, {"seconds": asdict(cost), **what})
    return cost


def steady(
    work: Callable[[int], Any], clock: Callable[[], float], *, together: int = 1, seconds: float = MEASURE_SECONDS
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

    steps, done, spent, before = together, 0, 0.0, math.inf
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


def endless(work: Updates, device: str) -> Training:
    """Return a training on random data that does not end by itself."""
    config = work.config.brief().model_copy(update={"steps": ENDLESS})
    seeds, data = range(work.seeds), random_dataset(*work.dims)
    bases = untrained_bases(config, work.dims, seeds, work.bases)
    return Training(work.component, config, data, seeds, bases=bases, device=device, compute=work.compute)


def time_updates(work: Updates, place: Place) -> Cost:
    """Measure what `update_cost` remembers."""
    training = endless(work, place.device)
    together = training.part.period  # not all steps are alike
    cost = steady(lambda steps: training.run(until=training.step + steps), place.clock, together=together)
    if not isinstance(work.config, ModelConfig) or work.seeds > 1:
        return cost  # a policy's curve is played in the environment; a point of several seeds takes in proportion
    evaluate = heldout_evaluator(training.part, training.datasets)
    started = place.clock()
    evaluate(training.part)
    return replace(cost, point=place.clock() - started)


def time_acts(work: Acts, place: Place) -> Cost:
    """Measure what `act_cost` remembers."""
    seeds, planner = range(work.seeds), work.planner
    untrained = {name: component_class(name, part)(part, *work.dims, seeds) for name, part in work.parts.items()}
    parts = assemble(untrained, work.base, device=place.device)
    obs = torch.randn(work.seeds * work.episodes, work.dims[0], device=place.device)
    if planner is None:
        psi = parts.policy.initial(work.episodes)
        with torch.no_grad():
            return _repeated(lambda: parts.policy(psi, obs.unsqueeze(1)), place)
    config = planner.unmeasured()
    planning = planner_class(config)(parts, config, seeds=seeds, episodes=work.episodes, compute=work.compute)
    return _repeated(partial(planning.act, obs), place)


def _repeated(act: Callable[[], object], place: Place) -> Cost:
    def work(times: int) -> None:
        for _ in range(times):
            act()

    return steady(work, place.clock, seconds=ACT_SECONDS)


def time_env(env_id: str, env_kwargs: Mapping[str, JsonValue] | None = None) -> Cost:
    """Measure what `env_cost` remembers."""
    make_env(env_id, env_kwargs).close()  # the first one loads the simulator
    started = ONE_CORE.clock()
    env = make_env(env_id, env_kwargs)
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


@cache
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
