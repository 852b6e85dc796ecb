"""What a point of the learning curve measures: a policy in the environment, a model on held-out episodes.

`heldout` of a component gives its metrics on held-out rows. A world model is also rolled along recorded actions
from its own predictions (`open_loop`), because errors that compound over a planner's horizon do not show in one step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import JsonValue
from torch import Tensor

from mpcwdwm.components.component import ActorComponent, Batch, Component, DynamicsComponent
from mpcwdwm.data import Dataset
from mpcwdwm.data.scores import normalized_score
from mpcwdwm.evaluation.rollout import episode_seeds, rollout
from mpcwdwm.random import Normal, generator
from mpcwdwm.training.buffer import usable_rows

__all__ = ["OPEN_LOOP_STEPS", "heldout_evaluator", "policy_evaluator"]

CURVE_ENV_SEED = 7_919  # curves use other episodes than the evaluation
HELDOUT_ROWS = 4096  # held-out rows at a point of the curve, drawn once
OPEN_LOOP_STEPS = 5  # H of the open-loop error, the planners' default horizon
OPEN_LOOP_WINDOWS = 1024  # stretches of H rows at a point of the curve, drawn once

Evaluator = Callable[[Component], list[dict[str, float]]]
"""A component → its metrics, one point of the learning curve per member."""


# ----------------------------------------------------------------------------------------- policies


def policy_evaluator(
    env_id: str,
    seeds: Sequence[int],
    episodes: int,
    max_steps: int,
    reference: tuple[float, float] | None,
    env_kwargs: Mapping[str, JsonValue] | None = None,
) -> Evaluator:
    """Return a function that plays a component's policy in the environment.

    Args:
        env_id: Gymnasium id.
        seeds: one per member.
        episodes: per member.
        max_steps: episodes are cut here.
        reference: D4RL's (min, max) return, for normalized scores; None: none.
        env_kwargs: what the environment is made with.
    """
    env_seeds = episode_seeds(CURVE_ENV_SEED, episodes, "curve")

    def evaluate(part: Component) -> list[dict[str, float]]:
        assert isinstance(part, ActorComponent)
        device, dtype, actor = next(part.parameters()).device, next(part.parameters()).dtype, part.actor

        @torch.no_grad()
        def act(obs: Tensor, alive: Tensor) -> Tensor:  # (S · episodes, obs_dim)
            action: Tensor = actor(obs.unflatten(0, (len(seeds), episodes)))
            return action.flatten(0, 1)

        played = rollout(
            env_id,
            act,
            env_seeds * len(seeds),
            max_steps=max_steps,
            env_kwargs=env_kwargs,
            device=device,
            dtype=dtype,
        )
        points = []
        for member in range(len(seeds)):
            own = played[member * episodes : (member + 1) * episodes]
            mean = sum(episode.return_ for episode in own) / episodes
            point = {"eval/return": mean, "eval/length": sum(episode.length for episode in own) / episodes}
            score = normalized_score(mean, reference)
            points.append(point if score is None else {**point, "eval/normalized_score": score})
        return points

    return evaluate


# ------------------------------------------------------------------------------------------- models


def heldout_evaluator(part: Component, datasets: Sequence[Dataset]) -> Evaluator:
    """Return a function that measures a component of this kind and these seeds on held-out rows, whatever its step.

    A world model's open-loop error is left out where no held-out episode is long enough.

    Args:
        part: such a component.
        datasets: one per member.

    Raises:
        UserError: a dataset has no held-out rows that the component can use.
    """
    like = next(part.parameters())
    sample = _Sample(part.seeds, datasets, like.device, like.dtype)
    measures = [_one_step(part, sample)]
    if isinstance(part, DynamicsComponent) and (open_loop := _open_loop(part, sample)):
        measures.append(open_loop)

    def evaluate(part: Component) -> list[dict[str, float]]:
        metrics = {key: value.tolist() for measure in measures for key, value in measure(part).items()}
        return [{key: values[m] for key, values in metrics.items()} for m in range(len(part.seeds))]

    return evaluate


@dataclass(frozen=True)
class _Sample:
    """Rows and noise drawn once, every member's from its own dataset and seed."""

    seeds: Sequence[int]
    datasets: Sequence[Dataset]
    device: torch.device
    dtype: torch.dtype

    def rows(self, choices: Sequence[Tensor], most: int, purpose: str) -> list[Tensor]:
        """Return as many of its choices for every member, at most `most`."""
        count = min(most, *(len(own) for own in choices))
        seeded = zip(self.seeds, choices, strict=True)
        return [own[torch.randperm(len(own), generator=generator(seed, purpose))[:count]] for seed, own in seeded]

    def batch(self, rows: Sequence[Tensor]) -> Batch:
        """Return these rows of every member's dataset, on the device."""

        def gathered(name: str) -> Tensor:
            members = zip(self.datasets, rows, strict=True)
            own = [torch.from_numpy(dataset.arrays[name])[picked] for dataset, picked in members]
            return torch.stack(own).to(self.device, self.dtype)

        names = ("obs", "action", "reward", "next_obs", "next_action")
        return Batch(**{name: gathered(name) for name in names}, mask=1 - gathered("terminal"))

    def noise(self, recipe: Normal, *purpose: str, steps: int = 1) -> Tensor:
        """Return the recipe's numbers for so many steps: (steps, S, *shape)."""
        own = [recipe.sample(steps, generator(seed, *purpose), self.dtype) for seed in self.seeds]
        return torch.stack(own, 1).to(self.device)


def _one_step(part: Component, sample: _Sample) -> Callable[[Component], dict[str, Tensor]]:
    rows = [usable_rows(dataset, part.rows, heldout=True) for dataset in sample.datasets]
    picked = sample.rows(rows, HELDOUT_ROWS, "heldout")
    batch, recipes = sample.batch(picked), part.heldout_noise(len(picked[0]))
    noise = {name: sample.noise(recipe, "heldout", name)[0] for name, recipe in recipes.items()}
    return lambda part: part.heldout(batch, noise)


def _open_loop(part: DynamicsComponent, sample: _Sample) -> Callable[[Component], dict[str, Tensor]] | None:
    horizon = OPEN_LOOP_STEPS
    starts = [torch.from_numpy(dataset.heldout_starts(horizon)) for dataset in sample.datasets]
    if not all(len(own) for own in starts):
        return None
    picked = sample.rows(starts, OPEN_LOOP_WINDOWS, "heldout/windows")
    steps = [sample.batch([own + j for own in picked]) for j in range(horizon)]
    noise = sample.noise(Normal((len(picked[0]), *part.noise_shape)), "heldout", "windows", steps=horizon)
    action = torch.stack([step.action for step in steps])  # (H, S, B, act_dim)

    def measure(part: Component) -> dict[str, Tensor]:
        assert isinstance(part, DynamicsComponent)
        return part.open_loop(steps[0].obs, action, steps[-1].next_obs, noise)

    return measure
