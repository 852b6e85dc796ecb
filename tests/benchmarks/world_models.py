"""World models compared: held-out error of every kind on given datasets, what a sample and a real step of each cost.

    python tests/benchmarks/world_models.py data/*.hdf5 [--steps 3000]

Errors are root mean squares in standard deviations of the observation, of one step and of five steps without
looking. Costs are CPU time as shares of the diffusion model's with ten steps, medians over rounds in which every kind
takes its turn: of a sample with its gradient, and of a whole real step of Algorithm 1 at equal H, M and E.
`docs/results.md` keeps the results.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from mpcwdwm.components import component_class, component_config
from mpcwdwm.data import read_dataset
from mpcwdwm.planning import AdaptiveMpc, MpcConfig, Parts
from mpcwdwm.planning.parts import SharedCritic, SharedReward, SharedWorldModel, StackedPolicy
from mpcwdwm.training.evaluators import OPEN_LOOP_STEPS
from mpcwdwm.training.loop import train

KINDS: dict[str, dict[str, Any]] = {
    "diffusion, K = 10": {"kind": "diffusion", "denoising_steps": 10},
    "diffusion, K = 5": {"kind": "diffusion"},
    "diffusion, K = 10, β": {"kind": "diffusion", "denoising_steps": 10, "variance": "beta"},
    "diffusion, K = 5, β": {"kind": "diffusion", "variance": "beta"},
    "diffusion, K = 10, posterior": {"kind": "diffusion", "denoising_steps": 10, "variance": "posterior"},
    "diffusion, K = 5, posterior": {"kind": "diffusion", "variance": "posterior"},
    "flow, K = 5": {"kind": "flow"},
    "meanflow": {"kind": "meanflow"},
    "mlp, 5 Gaussian": {"kind": "mlp"},
    "mlp, 1 deterministic": {"kind": "mlp", "ensemble": 1, "probabilistic": False},
}
SMALL = {"hidden_dim": 128, "batch_size": 256, "lr": 1e-3, "ema": 0.99, "evaluations": 3}
OBS, ACT, ROWS = 11, 3, 1000  # of the timed samples: Hopper, 10 episodes of 100 rollouts
EPISODES = 10  # of the timed real steps
STEP = {"H": 5, "E": 1, "reset": "step"}
ROLLOUTS = (8, 64)  # M
ROUNDS = 12


def errors(path: Path, steps: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Train every kind on a dataset and yield its name with the last point of its curve."""
    dataset = read_dataset(path)
    for name, fields in KINDS.items():
        config = component_config("world_model", {}, {**SMALL, "steps": steps, **fields})
        (trained,) = train("world_model", config, dataset, [0])
        yield name, trained.curve[-1]


def untrained(component: str, **fields: Any) -> Any:
    """Return a component as it is initialised, frozen."""
    config = component_config(component, {}, fields)
    return component_class(component, config)(config, OBS, ACT, [0]).requires_grad_(False)


def costs(prepared: Callable[[Any], Callable[[], Any]]) -> dict[str, float]:
    """Return the cost of some work with a world model of every kind, as a share of the first kind's."""
    works = {name: prepared(untrained("world_model", **fields)) for name, fields in KINDS.items()}
    shares: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        spent = {name: _seconds(work) for name, work in works.items()}
        first = next(iter(spent.values()))
        for name, seconds in spent.items():
            shares[name].append(seconds / first)
    return {name: statistics.median(own) for name, own in shares.items()}


def sampling(model: Any) -> Callable[[], Any]:
    """Return what draws a sample of many rows and differentiates it."""
    obs, action = torch.randn(1, ROWS, OBS, requires_grad=True), torch.randn(1, ROWS, ACT, requires_grad=True)
    noise = torch.randn(1, ROWS, *model.noise_shape)
    return lambda: torch.autograd.grad(model.sample(obs, action, noise).sum(), (obs, action))


def planning(model: Any, rollouts: int) -> Callable[[], Any]:
    """Return what plans at one real step of some episodes."""
    rebrac, reward = untrained("rebrac"), untrained("reward", hidden_dim=256)
    parts = Parts(StackedPolicy(rebrac.actor), SharedCritic(rebrac.critic, 1), SharedWorldModel(model, 1))
    parts.reward = SharedReward(reward, 1, torch.tensor([[1.0, 0.0]]))
    planner, obs = AdaptiveMpc(parts, MpcConfig(M=rollouts, **STEP), episodes=EPISODES), torch.randn(EPISODES, OBS)
    planner.act(obs)  # the first one measures and allocates
    return lambda: planner.act(obs)


def _seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("datasets", nargs="*", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    long = f"heldout/rmse_{OPEN_LOOP_STEPS}_steps"
    for path in arguments.datasets:
        print(f"\n{path.name}, {arguments.steps} updates: one step / {OPEN_LOOP_STEPS} steps")
        for name, point in errors(path, arguments.steps):
            print(f"  {name:28} {point['heldout/rmse']:.3f} / {point[long]:.3f}", flush=True)
        print(f"  {'no change':28} {point['heldout/rmse_no_change']:.3f} / {point[f'{long}_no_change']:.3f}")
    print(f"\na sample with its gradient, {ROWS} rows, width 256, as a share of {next(iter(KINDS))}")
    for name, share in costs(sampling).items():
        print(f"  {name:28} {share:.2f}")
    for rollouts in ROLLOUTS:
        print(f"\na real step, {STEP}, M {rollouts}, {EPISODES} episodes, alike")
        for name, share in costs(partial(planning, rollouts=rollouts)).items():
            print(f"  {name:28} {share:.2f}")


if __name__ == "__main__":
    main()
