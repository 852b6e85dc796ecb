"""World models compared: held-out error of every kind on given datasets, and what a sample of each costs.

    python tests/benchmarks/world_models.py data/*.hdf5 [--steps 3000]

Errors are root mean squares in standard deviations of the observation, of one step and of five steps without
looking. Costs are CPU time, forward and backward, as shares of the diffusion model's with ten steps: medians over
rounds in which every kind takes its turn. `docs/results.md` keeps the results.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from mpcwdwm.components import component_class, component_config
from mpcwdwm.data import read_dataset
from mpcwdwm.heldout import OPEN_LOOP_STEPS
from mpcwdwm.training import train

KINDS: dict[str, dict[str, Any]] = {
    "diffusion, K = 10": {"kind": "diffusion", "denoising_steps": 10},
    "diffusion, K = 5": {"kind": "diffusion"},
    "flow, K = 5": {"kind": "flow"},
    "meanflow": {"kind": "meanflow"},
    "mlp, 5 Gaussian": {"kind": "mlp"},
    "mlp, 1 deterministic": {"kind": "mlp", "ensemble": 1, "probabilistic": False},
}
SMALL = {"hidden_dim": 128, "batch_size": 256, "lr": 1e-3, "ema": 0.99, "evaluations": 3}
OBS, ACT, ROWS = 11, 3, 1000  # of the timed samples: Hopper, 10 episodes of 100 rollouts
ROUNDS = 12


def errors(path: Path, steps: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Train every kind on a dataset and yield its name with the last point of its curve."""
    dataset = read_dataset(path)
    for name, fields in KINDS.items():
        config = component_config("world_model", {}, {**SMALL, "steps": steps, **fields})
        (trained,) = train("world_model", config, dataset, [0])
        yield name, trained.curve[-1]


def sample_costs() -> dict[str, float]:
    """Return the cost of a sample and its gradient as a share of the first kind's."""
    models = {}
    for name, fields in KINDS.items():
        config = component_config("world_model", {}, fields)
        models[name] = component_class("world_model", config)(config, OBS, ACT, [0]).requires_grad_(False)
    shares: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        spent = {name: _seconds(model) for name, model in models.items()}
        first = next(iter(spent.values()))
        for name, seconds in spent.items():
            shares[name].append(seconds / first)
    return {name: statistics.median(own) for name, own in shares.items()}


def _seconds(model: Any) -> float:
    obs, action = torch.randn(1, ROWS, OBS, requires_grad=True), torch.randn(1, ROWS, ACT, requires_grad=True)
    noise = torch.randn(1, ROWS, *model.noise_shape)
    started = time.process_time()
    torch.autograd.grad(model.sample(obs, action, noise).sum(), (obs, action))
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
            print(f"  {name:22} {point['heldout/rmse']:.3f} / {point[long]:.3f}", flush=True)
        print(f"  {'no change':22} {point['heldout/rmse_no_change']:.3f} / {point[f'{long}_no_change']:.3f}")
    print(f"\na sample with its gradient, {ROWS} rows, width 256, as a share of {next(iter(KINDS))}")
    for name, share in sample_costs().items():
        print(f"  {name:22} {share:.2f}")


if __name__ == "__main__":
    main()
