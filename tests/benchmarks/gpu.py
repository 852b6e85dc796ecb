"""On a GPU: pretraining, planning, and from both the hours of the paper's Tables 1 and 3.

    python tests/benchmarks/gpu.py

Needs a GPU and says so where there is none. Every figure is the median of several slices, the sides of a
comparison interleaved. The last lines are ``RATIO name value``. ``--device cpu --updates 4`` runs the same
code small on a processor: for checking it, not for its figures. ``--only rebrac planning`` measures a part; the hours
need all of it.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from planning import ACT, OBS, STEP_SIZE, Built, Plain, products, products_only

from mpcwdwm.components import component_config
from mpcwdwm.nn.compute_config import ComputeConfig
from mpcwdwm.planning import AdaptiveMpc, MpcConfig
from mpcwdwm.random import generator
from mpcwdwm.training.loop import Training
from sweeps.cost.speed import random_dataset

SEEDS = 5
SLICES = 5  # of every measurement
PLANS = [  # (H, E, M, K): the readings of v2 with one network evaluation a transition, and of v1
    (5, 1, 4096, 1),
    (5, 5, 10, 10),
]
EPISODES = (50, 500)
LOOP_EPISODES = 50  # the straightforward loop is timed with so many
PLAN_MEMORY = {"cuda": 12.0, "cpu": 1.0}  # GB for each side's gradients; the limit's matrices lie beside them
EPISODE_STEPS = 1000  # the longest episode decides how long a lockstep batch lasts
MUJOCO_SETS, MAZE_SETS = 18, 6  # of Tables 1 and 3
MAZE_BATCH = 256  # ReBRAC's published batch on AntMaze
UPDATES = {"rebrac": 1_000_000, "iql": 1_000_000, "world_model": 200_000, "reward": 200_000, "bc": 100_000}


@dataclass(frozen=True)
class Machine:
    device: str
    updates: int  # a slice

    def wait(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def seconds(self, work: Callable[[], object]) -> float:
        started = self.wait()
        work()
        return self.wait() - started


# ---------------------------------------------------------------------------------------- pretraining


def ways(device: str) -> dict[str, ComputeConfig]:
    if device != "cuda":
        return {"eager": ComputeConfig(capture="eager")}
    return {
        "eager": ComputeConfig(capture="eager"),
        "graph": ComputeConfig(capture="graph"),
        "graph, TF32": ComputeConfig(capture="graph", tf32=True),
        "compiled graph": ComputeConfig(capture="compile"),
        "compiled graph, TF32": ComputeConfig(capture="compile", tf32=True),
    }


def update_seconds(machine: Machine, name: str, batch_size: int | None = None) -> dict[str, list[float]]:
    """Return way → seconds per stacked update of each slice."""
    given = {"steps": 10**9, **({"batch_size": batch_size} if batch_size else {})}
    config, data = component_config(name, {}, given), random_dataset(OBS, ACT)
    runs = {
        way: Training(name, config, data, range(SEEDS), device=machine.device, compute=compute)
        for way, compute in ways(machine.device).items()
    }
    for training in runs.values():
        training.run(until=10)  # compiled, captured, and once replayed
    found: dict[str, list[float]] = {way: [] for way in runs}
    for _ in range(SLICES):
        for way, training in runs.items():
            until = training.step + machine.updates
            found[way].append(machine.seconds(lambda t=training, u=until: t.run(until=u)) / machine.updates)
    return found


# ------------------------------------------------------------------------------------------- planning


def plan_seconds(machine: Machine, plan: tuple[int, int, int, int], episodes: int) -> dict[str, list[float]]:
    """Return side → seconds per real step of each slice: captured, eager, and the loop where it is timed."""
    h, e, m, k = plan
    config = MpcConfig(H=h, M=m, E=e, step_size=STEP_SIZE, memory_gb=PLAN_MEMORY[machine.device])
    built = Built(k, 256)
    for part in (built.policy, built.model, built.reward):
        part.to(machine.device)
    parts = built.parts()
    parts.device = torch.device(machine.device)
    obs = torch.randn(episodes, OBS, generator=generator(1, "benchmark")).to(machine.device) * 0.1
    sides: dict[str, Callable[[], object]] = {}
    for side, capture in (("captured", "auto"), ("eager", "eager")):
        planner = AdaptiveMpc(parts, config, episodes=episodes, compute=ComputeConfig(capture=capture))
        sides[side] = lambda planner=planner: planner.act(obs)
        for _ in range(5):
            planner.act(obs)
    limit = products_only(products(built, config, k, episodes), e, machine.device)
    sides["limit"] = limit
    if episodes == LOOP_EPISODES:
        plain = Plain(built, config)
        policies = plain.policies(episodes)
        noise = torch.randn(episodes, h, m, *built.model.noise_shape, device=machine.device)
        sides["loop"] = lambda: plain.step(policies, obs, noise)
    found: dict[str, list[float]] = {side: [] for side in sides}
    for work in sides.values():
        work()
    for _ in range(SLICES):
        for side, work in sides.items():
            found[side].append(machine.seconds(work))
    return found


def table_hours(updates: dict[str, float], maze_update: float, step: float) -> dict[str, float]:
    """Return GPU-hours of Tables 1 and 3 with five seeds: part → hours.

    Args:
        updates: component → seconds of a stacked update.
        maze_update: of ReBRAC's with AntMaze's batch.
        step: seconds of a real step for all seeds × 10 episodes.
    """
    sets = MUJOCO_SETS + MAZE_SETS
    hours = {name: sets * UPDATES[name] * updates[name] / 3600 for name in UPDATES if name != "rebrac"}
    rebrac = UPDATES["rebrac"] * (MUJOCO_SETS * updates["rebrac"] + MAZE_SETS * maze_update) / 3600
    return {"rebrac": rebrac, **hours, "planning": sets * EPISODE_STEPS * step / 3600}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--updates", type=int, default=500, help="updates per slice")
    parser.add_argument("--only", nargs="+", choices=[*UPDATES, "planning"], default=[*UPDATES, "planning"])
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing measured")
        return
    machine = Machine(arguments.device, arguments.updates)
    where = torch.cuda.get_device_name() if machine.device == "cuda" else "a processor"
    print(f"torch {torch.__version__} on {where}; {SEEDS} seeds stacked; medians of {SLICES} [min, max]")
    ratios: list[tuple[str, float]] = []
    best: dict[str, float] = {}
    for name, batch in [(name, None) for name in UPDATES] + [("rebrac", MAZE_BATCH)]:
        if name not in arguments.only:
            continue
        found = update_seconds(machine, name, batch)
        label = name if batch is None else f"{name} batch {batch}"
        for way, values in found.items():
            median = statistics.median(values)
            print(
                f"{label:18s} {way:22s} {1e3 * median:8.3f} ms an update"
                f" [{1e3 * min(values):.3f}, {1e3 * max(values):.3f}], {UPDATES[name] * median / 60:7.1f} min in all"
            )
            if way != "eager":
                ratio = statistics.median(found["eager"]) / median
                ratios.append((f"{label}_{way}_vs_eager".replace(", ", "_").replace(" ", "_").lower(), ratio))
        exact = [way for way in found if "TF32" not in way]
        best[label] = min(statistics.median(found[way]) for way in exact)
    steps: dict[tuple[int, ...], float] = {}
    plans = PLANS if machine.device == "cuda" else [(1, 1, 2, 1)]
    for plan in plans if "planning" in arguments.only else []:
        for episodes in EPISODES if machine.device == "cuda" else (LOOP_EPISODES,):
            found = plan_seconds(machine, plan, episodes)
            median = {side: statistics.median(values) for side, values in found.items()}
            steps[(*plan, episodes)] = median["captured"]
            name = "h{}_e{}_m{}_k{}_n{}".format(*plan, episodes)
            text = ", ".join(f"{side} {1e3 * value:.2f}" for side, value in median.items())
            print(f"planning H={plan[0]} E={plan[1]} M={plan[2]} K={plan[3]}, {episodes} episodes, ms a step: {text}")
            ratios.append((f"planning_of_limit_{name}", median["limit"] / median["captured"]))
            ratios.append((f"planning_captured_vs_eager_{name}", median["eager"] / median["captured"]))
            if "loop" in median:
                ratios.append((f"planning_vs_loop_{name}", median["loop"] / median["captured"]))
    if set(arguments.only) == {*UPDATES, "planning"}:
        longest = max(steps[key] for key in steps if key[-1] == 50)
        hours = table_hours(best, best[f"rebrac batch {MAZE_BATCH}"], longest)
        print("GPU-hours of Tables 1 and 3, 5 seeds, without TF32: ", end="")
        print(", ".join(f"{name} {value:.2f}" for name, value in hours.items()), f"; in all {sum(hours.values()):.1f}")
        ratios.append(("hours_tables_1_and_3", sum(hours.values())))
    for name, value in ratios:
        print(f"RATIO {name} {value:.2f}")


if __name__ == "__main__":
    main()
