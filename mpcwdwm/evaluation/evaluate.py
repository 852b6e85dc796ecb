"""Evaluation: seeds × episodes in lockstep in the real environment, adapted or frozen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mpcwdwm.evaluation.rollout import episode_seeds, normalized_score, rollout
from mpcwdwm.nn.compute import ComputeConfig
from mpcwdwm.planning.parts import Parts
from mpcwdwm.planning.planner import Planner, PlannerConfig
from mpcwdwm.planning.registry import planner_class

__all__ = ["Episode", "evaluate"]


@dataclass(frozen=True)
class Episode:
    """One evaluation episode: a row of `episodes.parquet`."""

    episode: int
    env_seed: int
    return_: float  # undiscounted, in the environment's unit
    normalized_score: float | None  # None without reference scores
    length: int  # steps
    ms_per_step: float  # wall milliseconds to act, of the lockstep batch over its size
    imagined_return: float | None  # mean of Ĵ over the steps where it is finite, critic's unit; None: there is none
    fallbacks: int  # steps on which the plan was not finite and the pretrained policy acted
    adapted_share: float  # of the steps, on which another action than the pretrained policy's was executed
    action_change: float  # mean distance of the executed action from the pretrained policy's


def evaluate(
    parts: Parts,
    planner: PlannerConfig | None,
    *,
    seeds: Sequence[int],
    episodes: int,
    env_seed: int,
    on_progress: Callable[[int, int], None] | None = None,
    compute: ComputeConfig | None = None,
    on_end: Callable[[Planner], None] | None = None,
) -> list[list[Episode]]:
    """Play `episodes` episodes for every member and return them as [member][episode].

    Every member and every method meets the same `episodes` starting states, derived from
    `env_seed`, so that differences can be taken episode by episode.

    Args:
        parts: the loaded parts; their members are the seeds.
        planner: a planner's config, or None to act with the frozen policy.
        seeds: the training seeds of the members.
        episodes: per member.
        env_seed: of the starting states.
        on_progress: called with (steps done, the most steps there can be).
        compute: how a planner's steps are run.
        on_end: given the planner after the last step, for what it found out.
    """
    rows = len(seeds) * episodes
    value_sum = torch.zeros(rows, dtype=torch.float64)
    steps, fallbacks = torch.zeros(rows), torch.zeros(rows, dtype=torch.int64)
    adapted, change_sum = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.float64)

    if planner is None:
        psi0 = parts.policy.initial(episodes)

        @torch.no_grad()
        def act(obs: Tensor, alive: Tensor) -> Tensor:
            return parts.policy(psi0, obs.unsqueeze(1)).squeeze(1)
    else:
        planning: Planner = planner_class(planner)(parts, planner, seeds=seeds, episodes=episodes, compute=compute)

        def act(obs: Tensor, alive: Tensor) -> Tensor:
            action, value, fallen = planning.act(obs)
            running, value = alive.cpu(), value.cpu().double()
            counted = running & value.isfinite()
            value_sum.add_(torch.where(counted, value, 0.0))
            steps.add_(counted)
            fallbacks.add_(running & fallen.cpu())
            change = torch.where(running, planning.change.cpu().double(), 0.0)
            adapted.add_(change > 0)
            change_sum.add_(change)
            return action

    def on_step(step: int, alive: Tensor) -> None:
        if on_progress is not None:
            on_progress(step if alive.any() else parts.max_episode_steps, parts.max_episode_steps)

    played = rollout(
        parts.env_id,
        act,
        episode_seeds(env_seed, episodes) * len(seeds),
        max_steps=parts.max_episode_steps,
        device=parts.device,
        on_step=on_step,
    )
    if planner is not None and on_end is not None:
        on_end(planning)
    table = [
        Episode(
            episode=row % episodes,
            env_seed=one.env_seed,
            return_=one.return_,
            normalized_score=normalized_score(one.return_, parts.reference),
            length=one.length,
            ms_per_step=one.ms_per_step,
            imagined_return=float(value_sum[row] / steps[row]) if steps[row] else None,
            fallbacks=int(fallbacks[row]),
            adapted_share=float(adapted[row]) / one.length,
            action_change=float(change_sum[row]) / one.length,
        )
        for row, one in enumerate(played)
    ]
    return [table[m * episodes : (m + 1) * episodes] for m in range(len(seeds))]
