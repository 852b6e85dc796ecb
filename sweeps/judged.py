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
from mpcwdwm.planning.auto import candidate_labels
from sweeps.plan import Plan

__all__ = ["judged_rows"]

# in which auto and fixed settings may differ
CHOOSING = ("step_size", "reset", "judge", "smallest", "largest", "candidates", "candidate_resets")

Row = dict[str, Any]
Candidate = tuple[float, str | None]  # step size and reset


def judged_rows(plan: Plan, store: Store) -> tuple[list[Row], list[Row]]:
    """Return (truth, judgements): rows of task, seed, candidate and true_score, and of judge and score.

    Raises:
        UserError: no finished cell of the sweep has judgements.
    """
    done = {cell.key: store.manifest("results", cell.key) for cell in plan.cells if store.has("results", cell.key)}
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
        said = done[cell.key]["judgement"]["judges"]
        labels = candidate_labels(said)
        own_reset = (cell.planner or {}).get("reset")  # that of all candidates where the manifest is an older one
        pairs = zip(said["candidates"], said.get("resets", [own_reset] * len(labels)), strict=True)
        label_of: dict[Candidate | None, float | str] = dict(zip(pairs, labels, strict=True))
        label_of |= {NEVER: labels[0]}
        for other in plan.cells:
            candidate = label_of.get(_truth_of(cell, other))
            if candidate is not None and other.key in done:
                truth.append({**where, "candidate": candidate, "true_score": _score(done[other.key])})
        for judge, own in said["scores"].items():
            for candidate, score in zip(labels, own, strict=True):
                score = float("nan") if score is None else score
                words.append({**where, "judge": judge, "candidate": candidate, "score": score})
    return truth, words


def _auto(cell: CellUnit) -> bool:
    return (cell.planner or {}).get("step_size") == "auto"


def _truth_of(cell: CellUnit, other: CellUnit) -> float | None:
    """Return the step size whose truth `other` is for the judged cell; None if it is no truth of it."""
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
        return 0.0
    alike = _fixed(other.planner) == _fixed(cell.planner or {})
    size = other.planner.get("step_size")
    return float(size) if alike and isinstance(size, float) else None


def _fixed(planner: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in planner.items() if name not in CHOOSING}


def _score(manifest: Mapping[str, Any]) -> float:
    mean = manifest["episodes_mean"]
    score = mean["return"] if mean["normalized_score"] is None else mean["normalized_score"]
    return float(score)
