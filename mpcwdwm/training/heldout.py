"""Models judged on episodes they never saw: one point of the learning curve.

Every component with something to say about held-out rows is asked for it (`heldout`). A world model
is also rolled along recorded actions without being shown the states on the way (`open_loop`): what
compounds over a planner's horizon does not show in one step.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mpcwdwm.components.component import Batch, Component
from mpcwdwm.data import Dataset
from mpcwdwm.random import Normal, generator
from mpcwdwm.training.buffer import usable_rows

if TYPE_CHECKING:
    from mpcwdwm.training.loop import Training

__all__ = ["OPEN_LOOP_STEPS", "heldout_evaluator", "window_starts"]

HELDOUT_ROWS = 4096  # held-out rows judged at a point of the curve, drawn once
OPEN_LOOP_STEPS = 5  # H of the open-loop error, the planners' default horizon
OPEN_LOOP_WINDOWS = 1024  # stretches of H rows judged at a point of the curve, drawn once

Evaluator = Callable[[Component], list[dict[str, float]]]


def heldout_evaluator(training: "Training", *, horizon: int = OPEN_LOOP_STEPS) -> Evaluator:
    """Return a function that judges a model on held-out rows: one point of the curve per member.

    Args:
        training: whose data, seeds and device are used.
        horizon: H, steps of a world model's open-loop error; left out where no held-out episode is that long.

    Raises:
        UserError: a dataset has no held-out rows that the model can use.
    """
    one_step = _one_step(training)
    open_loop = _open_loop(training, horizon) if hasattr(training.part, "open_loop") else None

    def evaluate(part: Component) -> list[dict[str, float]]:
        found = {**one_step(part), **(open_loop(part) if open_loop else {})}
        metrics = {key: value.tolist() for key, value in found.items()}
        return [{key: values[m] for key, values in metrics.items()} for m in range(len(training.seeds))]

    return evaluate


def _one_step(training: "Training") -> Callable[[Component], dict[str, Tensor]]:
    rows = [usable_rows(dataset, training.part.rows, heldout=True) for dataset in training.datasets]
    picked = _picked(training, rows, HELDOUT_ROWS, "heldout")
    batch = _batch(training, picked)
    recipes = training.part.heldout_noise(len(picked[0]))
    noise = {name: _drawn(training, recipe, "heldout", name)[0] for name, recipe in recipes.items()}
    return lambda part: dict(part.heldout(batch, noise))


def _open_loop(training: "Training", horizon: int) -> Callable[[Component], dict[str, Tensor]] | None:
    starts = [window_starts(dataset, horizon) for dataset in training.datasets]
    if not all(len(own) for own in starts):
        return None
    picked = _picked(training, starts, OPEN_LOOP_WINDOWS, "heldout/windows")
    steps = [_batch(training, [own + j for own in picked]) for j in range(horizon)]
    part: Any = training.part
    noise = _drawn(training, Normal((len(picked[0]), *part.noise_shape)), "heldout", "windows", steps=horizon)
    action = torch.stack([step.action for step in steps])  # (H, S, B, act_dim)
    return lambda part: dict(part.open_loop(steps[0].obs, action, steps[-1].next_obs, noise))  # type: ignore[operator]


def window_starts(dataset: Dataset, horizon: int) -> Tensor:
    """Return the held-out rows that begin `horizon` transitions of one episode, the last with a next observation."""
    last = horizon - 1
    if len(dataset.reward) <= last:
        return torch.zeros(0, dtype=torch.int64)
    end = len(dataset.reward) - last
    whole = dataset.episode[:end] == dataset.episode[last:]
    return torch.from_numpy((whole & dataset.heldout[:end] & dataset.has_next_obs[last:]).nonzero()[0])


def _picked(training: "Training", rows: Sequence[Tensor], most: int, purpose: str) -> list[Tensor]:
    """Return as many row numbers for every member, at most `most`, drawn from its own."""
    count = min(most, *(len(own) for own in rows))
    seeded = zip(training.seeds, rows, strict=True)
    return [own[torch.randperm(len(own), generator=generator(seed, purpose))[:count]] for seed, own in seeded]


def _batch(training: "Training", rows: Sequence[Tensor]) -> Batch:
    """Return these rows of every member's dataset, on the device."""

    def gathered(name: str) -> Tensor:
        members = zip(training.datasets, rows, strict=True)
        own = [torch.from_numpy(getattr(dataset, name))[picked] for dataset, picked in members]
        return torch.stack(own).to(training.device, training.dtype)

    names = ("obs", "action", "reward", "next_obs", "next_action")
    return Batch(**{name: gathered(name) for name in names}, mask=1 - gathered("terminal"))


def _drawn(training: "Training", recipe: Normal, *purpose: str, steps: int = 1) -> Tensor:
    """Return the recipe's numbers for so many steps, each member's from its own stream: (steps, S, *shape)."""
    own = [recipe.sample(steps, generator(seed, *purpose), training.dtype) for seed in training.seeds]
    return torch.stack(own, 1).to(training.device)
