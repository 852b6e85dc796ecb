"""`step_size: auto`: candidates are judged on held-out episodes, and every member takes the best for it.

A candidate is a step size with a reset: when ψ returns to the pretrained one. The first, size 0, is not to adapt: it
needs no planner, and every judge scores it 0. What a judge cannot show to be better than that is not done.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mpcwdwm.errors import UserError
from mpcwdwm.planning.parts import Parts, SharedValue
from mpcwdwm.planning.step_size.off_policy import NEEDS, Judge, imagination
from mpcwdwm.planning.step_size.windows import (
    LENGTH,
    WINDOWS,
    Acting,
    actions_along,
    heldout_windows,
    pretrained_actions,
)
from mpcwdwm.registry import Registry, is_function

__all__ = [
    "JUDGES",
    "JUDGE_NAMES",
    "Judgement",
    "candidate_labels",
    "check_judge",
    "choose",
    "chosen_index",
    "judge_candidates",
]

JUDGE_NAMES = tuple(NEEDS)


JUDGES: Registry[Judge] = Registry(
    "judge",
    "mpcwdwm.judges",
    is_function,
    "a function: parts, windows, the pretrained policy's actions, a candidate's → scores (members,)",
    {name: f"mpcwdwm.planning.step_size.off_policy:{name}" for name in NEEDS},
)


def check_judge(name: str) -> str:
    """Return the name of a judge.

    Raises:
        UserError: there is none of this name.
    """
    JUDGES[name]
    return name


PROVIDED_BY = {
    "critic": "base or critic_from: rebrac or iql",
    "world_model": "the component world_model",
    "reward": "the component reward",
}


@dataclass(frozen=True)
class Judgement:
    """What every judge said, and what was chosen; part of a cell's manifest.

    Attributes:
        judge: the one that chose.
        candidates: step sizes, ascending, 0 first; every other once with each reset.
        resets: the reset of each of them; with 0, which never leaves ψ₀, it makes no difference.
        scores: judge → [member][candidate], in the judge's unit; what is not finite was never chosen.
        chosen: step size of each member.
        chosen_resets: reset of each member.
    """

    judge: str
    candidates: list[float]
    resets: list[str]
    scores: dict[str, list[list[float]]]
    chosen: list[float]
    chosen_resets: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; a score that is not finite is null."""
        scores = {
            judge: [[score if math.isfinite(score) else None for score in member] for member in members]
            for judge, members in self.scores.items()
        }
        return {
            "judge": self.judge,
            "candidates": self.candidates,
            "resets": self.resets,
            "chosen": self.chosen,
            "chosen_resets": self.chosen_resets,
            "scores": scores,
        }

    def by_member(self) -> list[dict[str, Any]]:
        """Return what concerns each member alone, for its own manifest."""
        whole = self.to_dict()
        return [
            {
                "judge": self.judge,
                "candidates": self.candidates,
                "resets": self.resets,
                "chosen": size,
                "chosen_reset": reset,
                "scores": {judge: members[m] for judge, members in whole["scores"].items()},
            }
            for m, (size, reset) in enumerate(zip(self.chosen, self.chosen_resets, strict=True))
        ]


def candidate_labels(judgement: Mapping[str, Any]) -> list[float | str]:
    """Return a recorded judgement's candidates as they are told apart: step sizes, with their reset if there are two.

    Args:
        judgement: as `Judgement.to_dict` or `Judgement.by_member` gave it; older ones say nothing of resets.
    """
    sizes = [float(size) for size in judgement["candidates"]]
    resets = judgement.get("resets", [])
    if len(set(resets)) < 2:
        return list(sizes)
    return [f"{size:g} (reset: {reset})" if size else size for size, reset in zip(sizes, resets, strict=True)]


def chosen_index(scores: Sequence[float]) -> int:
    """Return the place of the highest finite score, the first of equals; 0, not to adapt, if there is none."""
    ranked = [score if math.isfinite(score) else -math.inf for score in scores]
    return ranked.index(max(ranked))


def choose(scores: Mapping[str, Tensor], judge: str) -> list[int]:
    """Return every member's chosen candidate.

    Args:
        scores: judge → (candidates, members), candidates ascending, the first being not to adapt.
        judge: whose word counts.
    """
    return [chosen_index(member) for member in scores[judge].T.tolist()]


def judge_candidates(
    parts: Parts,
    candidates: Sequence[float],
    planner_factory: Callable[[float, int, str], Acting],
    *,
    judge: str,
    seeds: Sequence[int],
    resets: Sequence[str] = ("episode",),
    others: Sequence[str] = JUDGE_NAMES,
    count: int = WINDOWS,
    length: int = LENGTH,
) -> Judgement:
    """Judge step sizes on held-out episodes and choose one for every member, and its reset.

    Args:
        parts: with their dataset.
        candidates: step sizes, ascending, 0 first.
        planner_factory: (step size, rows per member, reset) → the planner.
        judge: who chooses.
        seeds: one per member.
        resets: with each of them every step size but 0 is tried; of equal scores the first is taken.
        others: judges that are heard, too, where the parts suffice; their scores are recorded.
        count: stretches per member.
        length: steps of each.

    Raises:
        UserError: no such judge, it lacks a part, no held-out episode, or the candidates are not as they should be.
    """
    check_judge(judge)
    if list(candidates) != sorted(set(candidates)) or not candidates or candidates[0] != 0:
        raise UserError(f"candidates of step_size: auto: give distinct step sizes, rising from 0, not {candidates}")
    lacking = _lacking(parts, judge)
    if lacking:
        ways = "; ".join(f"{name} comes from {PROVIDED_BY[name]}" for name in lacking)
        raise UserError(f"judge: {judge} needs {' and '.join(lacking)}: {ways}; or choose another judge")
    heard = [
        name
        for name in dict.fromkeys((*NEEDS, judge))
        if name == judge or (name in others and not _lacking(parts, name))
    ]
    windows = heldout_windows(parts, seeds, count=count, length=length)
    base = pretrained_actions(parts, windows)
    table: dict[str, list[Tensor]] = {name: [torch.zeros(len(seeds), dtype=torch.float64)] for name in heard}
    pairs = [(0.0, resets[0]), *((float(size), reset) for size in candidates[1:] for reset in resets)]
    for size, reset in pairs[1:]:
        planner = planner_factory(size, windows.per_member, reset)
        actions = actions_along(lambda _, planner=planner: planner, windows)  # type: ignore[misc]
        for name in heard:
            if name == "imagination":  # judges the planner itself, not its actions
                score = imagination(parts, windows, planner, seeds)
            else:
                score = JUDGES[name](parts, windows, base, actions)
            table[name].append(score.cpu())
    scores = {name: torch.stack(rows) for name, rows in table.items()}  # (candidates, members)
    chosen = [pairs[index] for index in choose(scores, judge)]
    return Judgement(
        judge=judge,
        candidates=[size for size, _ in pairs],
        resets=[reset for _, reset in pairs],
        scores={name: own.T.tolist() for name, own in scores.items()},
        chosen=[size for size, _ in chosen],
        chosen_resets=[reset for _, reset in chosen],
    )


def _lacking(parts: Parts, judge: str) -> list[str]:
    if judge == "critic" and isinstance(parts.critic, SharedValue):  # it knows states only
        return ["critic"]
    return [name for name in NEEDS.get(judge, ()) if getattr(parts, name) is None]
