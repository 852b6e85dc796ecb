"""What judges of a step size said in a sweep, beside what the environment says: the rows that are compared.

A cell with `step_size: auto` holds every judge's scores of the candidates in its manifest. The truth are the
sweep's other cells of the same planner settings with a candidate as their fixed step size and reset; the pretrained
policy, evaluated as a baseline, is the truth of not adapting.
"""

from collections.abc import Mapping
from typing import Any

from cluster.store import Store
from cluster.units import CellUnit
from mpcwdwm.errors import UserError
from mpcwdwm.planning.step_size.choice import candidate_labels
from sweeps.plan.plan import Plan

__all__ = ["judged_rows"]

# in which auto and fixed settings may differ
CHOOSING = ("step_size", "reset", "judge", "smallest", "largest", "candidates", "candidate_resets")

Row = dict[str, Any]
Candidate = tuple[float, str | None]
"""Step size and reset."""


def judged_rows(plan: Plan, store: Store) -> tuple[list[Row], list[Row]]:
    """Return (truth, judgements): rows of task, seed, candidate and true_score, and of judge and score.

    Raises:
        UserError: no finished cell of the sweep has judgements.
    """
    done = {cell.key: store.manifest("cell", cell.key) for cell in plan.cells if store.has("cell", cell.key)}
    judged = [cell for cell in plan.cells if "judgement" in done.get(cell.key, {}) and _auto(cell)]
    if not judged:
        raise UserError(
            f"sweep {plan.spec.name}: no finished cell has 'step_size: auto', so no judge has spoken; "
            "add such a planner and run the sweep"
        )
    truth: list[Row] = []
    words: list[Row] = []
    for cell in judged:
        where = {"task": f"{cell.task.name}, {cell.method}", "seed": cell.seed}
        judges = done[cell.key]["judgement"]["judges"]
        labels = candidate_labels(judges)
        resets = judges.get("resets") or [(cell.planner or {}).get("reset")] * len(labels)  # older ones tell no resets
        label_of = dict(zip(map(_candidate, judges["candidates"], resets), labels, strict=True))
        scores: dict[float | str, float] = {}
        for other in plan.cells:
            candidate = _truth_of(cell, other)
            if candidate in label_of and other.key in done:
                scores.setdefault(label_of[candidate], _score(done[other.key]))
        truth += [{**where, "candidate": label, "true_score": score} for label, score in scores.items()]
        for judge, own in judges["scores"].items():
            for label, score in zip(labels, own, strict=True):
                said = float("nan") if score is None else score
                words.append({**where, "judge": judge, "candidate": label, "score": said})
    return truth, words


def _auto(cell: CellUnit) -> bool:
    return (cell.planner or {}).get("step_size") == "auto"


def _candidate(size: float, reset: str | None) -> Candidate:
    """Return a step size with its reset; not adapting has none."""
    return size, reset if size else None


def _truth_of(cell: CellUnit, other: CellUnit) -> Candidate | None:
    """Return the candidate whose truth `other` is for the judged cell; None if it is no truth of it."""
    same = (other.task, other.seed, other.base, other.episodes, other.env_seed) == (
        cell.task,
        cell.seed,
        cell.base,
        cell.episodes,
        cell.env_seed,
    )
    if not same or other.parts.get(cell.base) != cell.parts[cell.base]:
        return None
    if other.planner is None:
        return _candidate(0.0, None)
    alike = _fixed(other.planner) == _fixed(cell.planner or {})
    size = other.planner.get("step_size")
    return _candidate(size, other.planner.get("reset")) if alike and isinstance(size, float) else None


def _fixed(planner: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in planner.items() if name not in CHOOSING}


def _score(manifest: Mapping[str, Any]) -> float:
    mean = manifest["episodes_mean"]
    score = mean["return"] if mean["normalized_score"] is None else mean["normalized_score"]
    return float(score)
