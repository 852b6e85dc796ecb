"""Cells whose step size was chosen by off-policy evaluation: every estimate beside the true score.

A cell with `step_size: auto` holds each estimator's scores of the candidates in its manifest. A candidate's true score
is that of the sweep's cell with the same planner settings and the candidate as fixed step size and reset; that of not
adapting is the score of the pretrained policy, evaluated as a baseline.
"""

from typing import Any

from cluster.store import Store
from cluster.units import CellUnit
from mpcwdwm.errors import UserError
from mpcwdwm.planning.step_size.choice import candidate_labels
from sweeps.plan.plan import Plan, score_of

__all__ = ["true_and_estimated"]

# fields of a planner in which a chosen and a fixed step size may differ
CHOOSING = ("step_size", "reset", "judge", "smallest", "largest", "candidates", "candidate_resets")

Candidate = tuple[float, str | None]
"""Step size and reset; not adapting, step size 0, has none."""


def true_and_estimated(plan: Plan, store: Store) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return (true, estimated): rows of task, seed, candidate and true_score, and of judge and score.

    Raises:
        UserError: no finished cell of the sweep has estimates.
    """
    done = {cell.key: store.manifest("cell", cell.key) for cell in plan.cells if store.has("cell", cell.key)}
    chosen = [cell for cell in plan.cells if "judgement" in done.get(cell.key, {}) and _is_auto(cell)]
    if not chosen:
        raise UserError(
            f"sweep {plan.spec.name}: no finished cell has 'step_size: auto', so there are no estimates; "
            "add such a planner and run the sweep"
        )
    true: list[dict[str, Any]] = []
    estimated: list[dict[str, Any]] = []
    for cell in chosen:
        where = {"task": f"{cell.task.name}, {cell.method}", "seed": cell.seed}
        estimates = done[cell.key]["judgement"]["judges"]
        labels = candidate_labels(estimates)
        sizes = estimates["candidates"]
        resets = estimates.get("resets") or [_planner(cell).get("reset")] * len(sizes)  # absent: all have the cell's
        label_of = dict(zip(map(_candidate, sizes, resets), labels, strict=True))
        scores: dict[float | str, float] = {}
        for other in plan.cells:
            candidate = _tried_by(other, cell)
            if candidate in label_of and other.key in done:
                scores.setdefault(label_of[candidate], score_of(done[other.key]))
        true += [{**where, "candidate": label, "true_score": score} for label, score in scores.items()]
        for judge, own in estimates["scores"].items():
            for label, score in zip(labels, own, strict=True):
                found = float("nan") if score is None else score
                estimated.append({**where, "judge": judge, "candidate": label, "score": found})
    return true, estimated


def _is_auto(cell: CellUnit) -> bool:
    return _planner(cell).get("step_size") == "auto"


def _planner(cell: CellUnit) -> dict[str, Any]:
    return cell.planner or {}


def _candidate(size: float, reset: str | None) -> Candidate:
    return size, reset if size else None


def _tried_by(other: CellUnit, cell: CellUnit) -> Candidate | None:
    """Return the candidate of `cell` that `other` evaluates under otherwise equal settings; None if it does not."""
    if _played(other) != _played(cell):
        return None
    if other.planner is None:
        return 0.0, None
    size = other.planner.get("step_size")
    if not isinstance(size, float) or _not_choosing(other) != _not_choosing(cell):
        return None
    return _candidate(size, other.planner.get("reset"))


def _played(cell: CellUnit) -> tuple[Any, ...]:
    return cell.task, cell.seed, cell.base, cell.parts[cell.base], cell.episodes, cell.env_seed


def _not_choosing(cell: CellUnit) -> dict[str, Any]:
    return {name: value for name, value in _planner(cell).items() if name not in CHOOSING}
