"""`step_size: auto`: candidates are judged on held-out episodes, and every member takes the best for it.

The first candidate, 0, is not to adapt: it needs no planner, and every judge scores it 0. What a judge cannot show
to be better than that is not done.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mpcwdwm.errors import UserError, did_you_mean
from mpcwdwm.planning.evidence import LENGTH, WINDOWS, Acting, actions_along, heldout_windows, pretrained_actions
from mpcwdwm.planning.judges import JUDGES, NEEDS, imagination
from mpcwdwm.planning.parts import Parts, SharedValue

__all__ = ["JUDGE_NAMES", "Judgement", "choose", "chosen_index", "judge_candidates"]

JUDGE_NAMES = tuple(NEEDS)
PROVIDED_BY = {
    "critic": "base or critic_from: rebrac or iql",
    "behavior": "the component bc",
    "world_model": "the component world_model",
    "reward": "the component reward",
}


@dataclass(frozen=True)
class Judgement:
    """What every judge said, and what was chosen; part of a cell's manifest.

    Attributes:
        judge: the one that chose.
        candidates: step sizes, ascending, 0 first.
        scores: judge → [member][candidate], in the judge's unit; what is not finite was never chosen.
        chosen: step size of each member.
    """

    judge: str
    candidates: list[float]
    scores: dict[str, list[list[float]]]
    chosen: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; a score that is not finite is null."""
        scores = {
            judge: [[score if math.isfinite(score) else None for score in member] for member in members]
            for judge, members in self.scores.items()
        }
        return {"judge": self.judge, "candidates": self.candidates, "chosen": self.chosen, "scores": scores}

    def by_member(self) -> list[dict[str, Any]]:
        """Return what concerns each member alone, for its own manifest."""
        whole = self.to_dict()
        return [
            {
                "judge": self.judge,
                "candidates": self.candidates,
                "chosen": chosen,
                "scores": {judge: members[m] for judge, members in whole["scores"].items()},
            }
            for m, chosen in enumerate(self.chosen)
        ]


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
    planner_factory: Callable[[float, int], Acting],
    *,
    judge: str,
    seeds: Sequence[int],
    others: Sequence[str] = JUDGE_NAMES,
    count: int = WINDOWS,
    length: int = LENGTH,
) -> Judgement:
    """Judge step sizes on held-out episodes and choose one for every member.

    Args:
        parts: with their dataset.
        candidates: step sizes, ascending, 0 first.
        planner_factory: (step size, rows per member) → the planner.
        judge: who chooses.
        seeds: one per member.
        others: judges that are heard, too, where the parts suffice; their scores are recorded.
        count: stretches per member.
        length: steps of each.

    Raises:
        UserError: no such judge, it lacks a part, no held-out episode, or the candidates are not as they should be.
    """
    if judge not in NEEDS:
        raise UserError(f"unknown judge '{judge}'{did_you_mean(judge, NEEDS)}; known: {', '.join(NEEDS)}")
    if list(candidates) != sorted(set(candidates)) or not candidates or candidates[0] != 0:
        raise UserError(f"candidates of step_size: auto: give distinct step sizes, rising from 0, not {candidates}")
    lacking = _lacking(parts, judge)
    if lacking:
        ways = "; ".join(f"{name} comes from {PROVIDED_BY[name]}" for name in lacking)
        raise UserError(f"judge: {judge} needs {' and '.join(lacking)}: {ways}; or choose another judge")
    heard = [name for name in NEEDS if name == judge or (name in others and not _lacking(parts, name))]
    windows = heldout_windows(parts, seeds, count=count, length=length)
    base = pretrained_actions(parts, windows)
    table: dict[str, list[Tensor]] = {name: [torch.zeros(len(seeds), dtype=torch.float64)] for name in heard}
    for candidate in candidates[1:]:
        planner = planner_factory(candidate, windows.per_member)
        actions = actions_along(lambda _, planner=planner: planner, windows)  # type: ignore[misc]
        for name in heard:
            if name == "imagination":
                score = imagination(parts, windows, planner, seeds)
            else:
                score = JUDGES[name](parts, windows, base, actions)
            table[name].append(score.cpu())
    scores = {name: torch.stack(rows) for name, rows in table.items()}  # (candidates, members)
    return Judgement(
        judge=judge,
        candidates=[float(candidate) for candidate in candidates],
        scores={name: own.T.tolist() for name, own in scores.items()},
        chosen=[float(candidates[index]) for index in choose(scores, judge)],
    )


def _lacking(parts: Parts, judge: str) -> list[str]:
    if judge == "critic" and isinstance(parts.critic, SharedValue):  # it knows states only
        return ["critic"]
    return [name for name in NEEDS[judge] if getattr(parts, name) is None]
