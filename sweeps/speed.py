"""How fast this machine is: seconds per update of a component, seconds per step of a planner.

Both are measured through the same code that will do the work, on random data of the task's
dimensions, for well under a second, and remembered in the user's cache folder. What does not change
the speed (step sizes, coefficients, the number of updates) is left out of what is remembered.
"""

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.provenance import host_name
from mpcwdwm.artifact import write_artifact
from mpcwdwm.components import component_class, component_config
from mpcwdwm.config import Config
from mpcwdwm.data.dataset import Dataset, from_arrays
from mpcwdwm.data.fingerprint import cache_folder, write_json
from mpcwdwm.data.hdf5 import Arrays
from mpcwdwm.planning import load_parts, planner_config
from mpcwdwm.planning.registry import PLANNER_CLASSES
from mpcwdwm.random import BLOCK_STEPS
from mpcwdwm.training import Training, train
from sweeps.keys import cell_code, component_code, digest

__all__ = ["Place", "act_seconds", "update_seconds", "weight_bytes", "work_shape"]

WARM_UP = 3  # updates before the clock starts: allocations, kernels chosen
MEASURE_SECONDS = 0.4  # long enough for a mean that is stable to a few percent
ENDLESS = 10**9  # steps of a training that is only timed
RANDOM_EPISODES, RANDOM_LENGTH = 40, 50  # of the random data set
# Rows · H · K that one timed planning step may have: about a second. Larger plans are timed with fewer
# rollouts or steps and scaled, which is right once the processor is busy.
MOST_WORK = {"cpu": 10_000, "cuda": 1_000_000}


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


def work_shape(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a config decides how much work a step is: no real numbers, no lengths of training."""
    lengths = ("steps", "evaluations", "eval_episodes")
    return {k: v for k, v in config.items() if not isinstance(v, float) and k not in lengths}


def update_seconds(component: str, config: Config, dims: tuple[int, int], seeds: int, place: Place) -> float:
    """Return the seconds of one stacked update; `dims` are (obs_dim, act_dim)."""
    what = {"component": component, "config": work_shape(config.to_dict()), "dims": dims, "seeds": seeds}
    code = component_code(component, config)
    return _remembered({**what, "code": code}, place, lambda: _time_update(component, config, dims, seeds, place))


def act_seconds(
    planner: Config, parts: Mapping[str, Config], dims: tuple[int, int], seeds: int, episodes: int, place: Place
) -> float:
    """Return the seconds in which a planner acts once for all seeds × episodes."""
    shapes = {name: work_shape(config.to_dict()) for name, config in parts.items()}
    what = {"planner": work_shape(planner.to_dict()), "parts": shapes, "dims": dims, "rows": [seeds, episodes]}
    code = cell_code(planner, parts)
    return _remembered({**what, "code": code}, place, lambda: _time_act(planner, parts, dims, seeds, episodes, place))


def weight_bytes(component: str, config: Config, dims: tuple[int, int]) -> int:
    """Return the size of one member's parameters and buffers."""
    part = component_class(component, config)(config, *dims, (0,))
    return sum(tensor.numel() * tensor.element_size() for tensor in part.state_dict().values())


# Measuring


def _remembered(what: dict[str, Any], place: Place, measure: Callable[[], float]) -> float:
    """Return a measurement, from the cache folder if this machine has made it before."""
    what = {**what, "host": host_name(), "torch": torch.__version__, "device": place.device}
    entry = cache_folder() / "speed" / f"{digest({**what, 'threads': place.threads})[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent or damaged: measure
        return float(json.loads(entry.read_text())["seconds"])
    with place.taken():
        seconds = measure()
    with contextlib.suppress(OSError):  # only costs measuring again
        write_json(entry, {"seconds": seconds, **what})
    return seconds


def _wait(device: str) -> float:
    """Return the time once the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _time_update(component: str, config: Config, dims: tuple[int, int], seeds: int, place: Place) -> float:
    endless = config.model_copy(update={"steps": ENDLESS})
    training = Training(component, endless, random_dataset(*dims), range(seeds), device=place.device)
    training.run(until=WARM_UP)
    started = _wait(place.device)
    while training.step < BLOCK_STEPS and _wait(place.device) - started < MEASURE_SECONDS:
        training.run(until=training.step + 1)
    update = (_wait(place.device) - started) / (training.step - WARM_UP)
    started = _wait(place.device)
    training.draws.at(BLOCK_STEPS)  # random numbers are drawn for a block of steps at a time
    return update + (_wait(place.device) - started) / BLOCK_STEPS


def _time_act(
    planner: Config, parts: Mapping[str, Config], dims: tuple[int, int], seeds: int, episodes: int, place: Place
) -> float:
    fields = planner.to_dict()
    denoising = getattr(parts.get("world_model"), "denoising_steps", 1)
    timed, scale = smaller_plan(fields, rows=seeds * episodes, depth=denoising, most=MOST_WORK[place.device])
    with tempfile.TemporaryDirectory() as folder:
        folders = {name: _untrained(Path(folder), name, part, dims, seeds) for name, part in parts.items()}
        loaded = load_parts(folders, fields["base"], device=place.device)
    acting = PLANNER_CLASSES[fields["kind"]](
        loaded,
        planner_config(timed),  # type: ignore[arg-type]
        seeds=range(seeds),
        episodes=episodes,
    )
    obs = torch.randn(seeds * episodes, dims[0], device=place.device)
    acting.act(obs)
    started, times = _wait(place.device), 0
    while times == 0 or _wait(place.device) - started < MEASURE_SECONDS / 2:
        acting.act(obs)
        times += 1
    return scale * (_wait(place.device) - started) / times


def smaller_plan(planner: Mapping[str, Any], *, rows: int, depth: int, most: int) -> tuple[dict[str, Any], float]:
    """Return a plan small enough to be timed, and by how much the whole one is more work.

    Args:
        planner: config of the whole plan.
        rows: episodes planned for at a time.
        depth: denoising steps.
        most: rows · rollouts · horizon · depth that may be timed.
    """
    updates, horizon, rollouts = (planner.get(name, 1) for name in ("updates", "horizon", "rollouts"))
    fewer = max(1, min(rollouts, most // max(1, rows * horizon * depth)))
    shorter = max(1, min(horizon, most // max(1, rows * fewer * depth))) if horizon else 0
    small = {"updates": min(updates, 1), "horizon": shorter, "rollouts": fewer}
    scale = max(updates, 1) * max(horizon, 1) / max(shorter, 1) * rollouts / fewer
    return {**planner, **{name: value for name, value in small.items() if name in planner}}, scale


def _untrained(folder: Path, name: str, config: Config, dims: tuple[int, int], seeds: int) -> list[Path]:
    """Return artifact folders of a component after a single update."""
    once = component_config(name, {}, {**config.to_dict(), "steps": 1, "evaluations": 1})
    folders: list[Path] = []
    for trained in train(name, once, random_dataset(*dims), range(seeds)):
        folders.append(folder / f"{name}-{len(folders)}")
        folders[-1].mkdir()
        write_artifact(folders[-1], trained.tensors, trained.facts, trained.curve)
    return folders


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
