"""Evaluation: seeds × episodes in lockstep in the real environment, adapted or frozen."""

from collections.abc import Callable, Sequence
from typing import TypedDict

import torch
from torch import Tensor

from mpcwdwm.data.scores import normalized_score
from mpcwdwm.evaluation.rollout import episode_seeds, rollout
from mpcwdwm.evaluation.trace import Steps, Trace
from mpcwdwm.nn.compute_config import ComputeConfig
from mpcwdwm.planning.frozen import FrozenConfig
from mpcwdwm.planning.parts import Parts
from mpcwdwm.planning.planner import Planner, PlannerConfig
from mpcwdwm.planning.registry import planner_class

__all__ = ["Episode", "evaluate"]


Episode = TypedDict(
    "Episode",
    {
        "seed": int,  # of the member's training
        "episode": int,
        "env_seed": int,
        "return": float,  # undiscounted, in the environment's unit
        "normalized_score": float | None,  # None without reference scores
        "length": int,  # steps
        "ms_per_step": float,  # wall milliseconds to act, of the lockstep batch over its size
        "evaluations_per_step": float,  # of networks to act, forward and back (`mpcwdwm.planning.evaluations`)
        "imagined_return": float | None,  # mean of Ĵ over the steps where it is finite, critic's unit; None: none is
        "fallbacks": int,  # steps on which the plan was not finite and the pretrained policy acted
        "adapted_share": float,  # of the steps, on which another action than the pretrained policy's was executed
        "action_change": float,  # mean distance of the executed action from the pretrained policy's
    },
)
"""One evaluation episode: a row of `episodes.parquet`, and the seed of its policy."""


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
    traced_episodes: int = 0,
    on_trace: Callable[[list[Steps]], None] | None = None,
) -> list[Episode]:
    """Play `episodes` episodes for every member and return a record of each, member by member.

    The starting states follow from `env_seed` alone, so that members and methods can be compared episode by episode.

    Args:
        parts: the loaded parts; their members are the seeds.
        planner: a planner's config, or None to act with the frozen policy, which is never captured.
        seeds: the training seeds of the members.
        episodes: per member.
        env_seed: of the starting states.
        on_progress: called with (steps done, the most steps there can be).
        compute: how a planner's steps are run.
        on_end: called with the planner after the last step.
        traced_episodes: of how many episodes of every member all steps are recorded.
        on_trace: called with these, one for every member, if there are any.
    """
    rows = len(seeds) * episodes
    value_sum = torch.zeros(rows, dtype=torch.float64)
    steps, fallbacks = torch.zeros(rows), torch.zeros(rows, dtype=torch.int64)
    adapted, change_sum = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.float64)

    if planner is None:
        planner = FrozenConfig.model_validate({"base": parts.base} if parts.base else {})
        compute = ComputeConfig(capture="eager")
    trace = Trace(min(traced_episodes, episodes), episodes) if traced_episodes else None
    planning = planner_class(planner)(parts, planner, seeds=seeds, episodes=episodes, compute=compute)

    def act(obs: Tensor, alive: Tensor) -> Tensor:
        action, value, fallen = planning.act(obs)
        if trace is not None:
            trace.add(value, planning.change, fallen)
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
        env_kwargs=parts.env_kwargs,
        device=parts.device,
        on_step=on_step,
    )
    if on_end is not None:
        on_end(planning)
    if trace is not None and on_trace is not None:
        on_trace([trace.of(member, played, parts) for member in range(len(seeds))])
    return [
        {
            "seed": seeds[row // episodes],
            "episode": row % episodes,
            "env_seed": one.env_seed,
            "return": one.return_,
            "normalized_score": normalized_score(one.return_, parts.reference),
            "length": one.length,
            "ms_per_step": one.ms_per_step,
            "evaluations_per_step": planning.evaluations,
            "imagined_return": float(value_sum[row] / steps[row]) if steps[row] else None,
            "fallbacks": int(fallbacks[row]),
            "adapted_share": float(adapted[row]) / one.length,
            "action_change": float(change_sum[row]) / one.length,
        }
        for row, one in enumerate(played)
    ]
