"""`step_size: auto`: step sizes are compared by off-policy evaluation, and every member takes the best for it.

A candidate is a step size with a reset: when ψ returns to the pretrained one. The first candidate, size 0, is the
pretrained policy itself, and every estimator scores it 0: only what is estimated to be better is chosen.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mpcwdwm.errors import UserError
from mpcwdwm.planning.parts import Parts, SharedValue
from mpcwdwm.planning.planner import Planner
from mpcwdwm.planning.step_size.off_policy import NEEDS, Estimator, imagination
from mpcwdwm.planning.step_size.windows import Windows, actions_along, pretrained_actions
from mpcwdwm.registry import Registry, is_function

__all__ = ["ESTIMATORS", "StepSizeChoice", "candidate_labels", "check_judge", "choose_step_sizes", "chosen_index"]

ESTIMATORS: Registry[Estimator] = Registry(
    "judge",
    "mpcwdwm.judges",
    is_function,
    "a function: parts, windows, the pretrained policy's actions, a candidate's → scores (members,)",
    {name: f"mpcwdwm.planning.step_size.off_policy:{name}" for name in NEEDS},
)
PROVIDED_BY = {
    "critic": "base or critic_from: rebrac or iql",
    "world_model": "the component world_model",
    "reward": "the component reward",
}


def check_judge(name: str) -> str:
    """Return the name of an estimator.

    Raises:
        UserError: there is none of this name.
    """
    ESTIMATORS[name]
    return name


@dataclass(frozen=True)
class StepSizeChoice:
    """Every estimator's scores, and what was chosen."""

    judge: str  # the estimator that chose
    candidates: list[float]  # step sizes, ascending, 0 first; every other once with each reset
    resets: list[str]  # of each candidate; with 0, which never leaves ψ₀, it makes no difference
    scores: dict[str, list[list[float]]]  # estimator → [member][candidate]; what is not finite was never chosen
    chosen: list[float]  # step size of each member
    chosen_resets: list[str]

    def by_member(self) -> list[dict[str, Any]]:
        """Return each member's share for its manifest, in plain JSON; a score that is not finite is null."""
        return [
            {
                "judge": self.judge,
                "candidates": self.candidates,
                "resets": self.resets,
                "chosen": size,
                "chosen_reset": reset,
                "scores": {
                    name: [score if math.isfinite(score) else None for score in members[m]]
                    for name, members in self.scores.items()
                },
            }
            for m, (size, reset) in enumerate(zip(self.chosen, self.chosen_resets, strict=True))
        ]


def candidate_labels(choice: Mapping[str, Any]) -> list[float | str]:
    """Return the names of a recorded choice's candidates: step sizes, with their reset if there are two.

    Args:
        choice: as `StepSizeChoice.by_member` gave it; older ones have no resets.
    """
    sizes = [float(size) for size in choice["candidates"]]
    resets = choice.get("resets", [])
    if len(set(resets)) < 2:
        return list(sizes)
    return [f"{size:g} (reset: {reset})" if size else size for size, reset in zip(sizes, resets, strict=True)]


def chosen_index(scores: Sequence[float]) -> int:
    """Return the place of the highest finite score, the first of equals; 0, not to adapt, if there is none."""
    ranked = [score if math.isfinite(score) else -math.inf for score in scores]
    return ranked.index(max(ranked))


def choose_step_sizes(
    parts: Parts,
    windows: Windows,
    candidates: Sequence[float],
    planner_of: Callable[[float, str], Planner],
    *,
    judge: str,
    seeds: Sequence[int],
    resets: Sequence[str],
) -> StepSizeChoice:
    """Score step sizes on held-out episodes and choose one for every member, and its reset.

    All estimators for which the parts suffice are recorded; one of them chooses.

    Args:
        parts: what the estimators use.
        windows: recorded steps.
        candidates: step sizes, ascending, 0 first.
        planner_of: (step size, reset) → the planner, with one row for each window.
        judge: the estimator that chooses.
        seeds: one per member.
        resets: each is tried with every step size but 0; of equal scores the first is taken.

    Raises:
        UserError: the parts lack something that the estimator needs.
    """
    lacking = _lacking(parts, judge)
    if lacking:
        ways = "; ".join(f"{name} comes from {PROVIDED_BY[name]}" for name in lacking)
        raise UserError(f"judge: {judge} needs {' and '.join(lacking)}: {ways}; or choose another judge")
    names = [name for name in dict.fromkeys((*NEEDS, judge)) if not _lacking(parts, name)]
    base = pretrained_actions(parts, windows)
    table: dict[str, list[Tensor]] = {name: [torch.zeros(len(seeds), dtype=torch.float64)] for name in names}
    pairs = [(0.0, resets[0]), *((float(size), reset) for size in candidates[1:] for reset in resets)]
    for size, reset in pairs[1:]:
        planner = planner_of(size, reset)
        actions = actions_along(planner, windows)
        for name in names:
            if name == "imagination":  # runs the planner itself, away from the recorded states
                score = imagination(parts, windows, planner, seeds)
            else:
                score = ESTIMATORS[name](parts, windows, base, actions)
            table[name].append(score.cpu())
    scores = {name: torch.stack(rows).T.tolist() for name, rows in table.items()}  # [member][candidate]
    chosen = [pairs[chosen_index(member)] for member in scores[judge]]
    return StepSizeChoice(
        judge=judge,
        candidates=[size for size, _ in pairs],
        resets=[reset for _, reset in pairs],
        scores=scores,
        chosen=[size for size, _ in chosen],
        chosen_resets=[reset for _, reset in chosen],
    )


def _lacking(parts: Parts, name: str) -> list[str]:
    """Return the parts that an estimator needs and that are not there."""
    critic = None if name == "critic" and isinstance(parts.critic, SharedValue) else parts.critic  # of states alone
    have = {"critic": critic, "world_model": parts.world_model, "reward": parts.reward}
    return [part for part in NEEDS.get(name, ()) if have[part] is None]
