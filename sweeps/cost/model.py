"""A cost model: the seconds of any work of a kind, from a few small probes.

The seconds of a step are a non-negative combination of terms in the sizes of the work (`Updates.terms`, `Acts.terms`),
fitted to probes of the first work by least squares on relative errors. Works that differ in more than those sizes form
groups. Each group has two factors, one of the overhead and one of what grows with the rows, from two probes of its own;
beyond a number of groups they are those of the group nearest in size.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.optimize import nnls

from sweeps.cost.speed import act_cost, update_cost
from sweeps.cost.works import Cost, Place, Updates, Work

__all__ = ["MOST_SCALED", "CostModel", "fit", "predicted"]

MOST_SCALED = 12  # groups of a plan that are probed beside the first of each kind of work
TO_ONE = 0.05  # weight of a factor being 1, beside a probe's 1: two probes do not always tell both factors


def fit(terms: Sequence[Sequence[float]], seconds: Sequence[float], toward: float = 0.0) -> np.ndarray:
    """Return the non-negative coefficients (n,) of the terms (probes, n) that fit the seconds (probes,) best.

    Least squares on relative errors; `toward` is the weight of every coefficient being 1.
    """
    relative = np.asarray(terms, dtype=np.float64) / np.asarray(seconds, dtype=np.float64)[:, None]
    scale = np.maximum(relative.max(0), np.finfo(np.float64).tiny) if not toward else np.ones(relative.shape[1])
    prior = toward * np.eye(relative.shape[1])
    wanted = np.concatenate([np.ones(len(relative)), np.full(len(prior), toward)])
    found, _ = nnls(np.concatenate([relative / scale, prior]), wanted)
    return np.asarray(found / scale)


class CostModel:
    """Predicts works of one kind.

    Args:
        works: of which the costs will be asked.
        place: where they run.
        scaled: how many groups beside the first are probed.
    """

    def __init__(self, works: Iterable[Work], place: Place, scaled: int) -> None:
        groups: dict[str, Work] = {}
        for work in works:
            groups.setdefault(work.group, work)
        first, *others = groups
        others.sort(key=lambda name: groups[name].size)
        spread = np.linspace(0, len(others) - 1, min(scaled, len(others))).round().astype(int)
        probed = {first: groups[first].probes(place)}
        probed |= {others[i]: groups[others[i]].probes(place)[:2] for i in spread}
        self._timed = {name: [(work, _measured(work, place)) for work in own] for name, own in probed.items()}
        terms = [[*overhead, *growing] for overhead, growing in (work.terms for work, _ in self._timed[first])]
        self._coefficients = fit(terms, [cost.step for _, cost in self._timed[first]])
        self._factors = {
            name: fit([self._parts(work) for work, _ in own], [cost.step for _, cost in own], TO_ONE)
            for name, own in self._timed.items()
        }
        self._nearest = {
            name: name if name in probed else min(probed, key=lambda other: _distance(work, groups[other]))
            for name, work in groups.items()
        }

    def cost(self, work: Work) -> Cost:
        """Return the predicted cost of one of the works."""
        group = self._nearest[work.group]
        step = float(np.dot(self._parts(work), self._factors[group]))
        timed = self._timed[group]
        point = max(cost.point * work.seeds / probe.seeds for probe, cost in timed)
        return Cost(step, max(cost.first for _, cost in timed), point)

    def _parts(self, work: Work) -> tuple[float, float]:
        """Return the seconds of the overhead and of what grows with the rows, before the group's factors."""
        overhead, growing = work.terms
        split = len(overhead)
        return float(np.dot(overhead, self._coefficients[:split])), float(np.dot(growing, self._coefficients[split:]))


def predicted(works: Sequence[tuple[Work, Place]]) -> list[Cost]:
    """Return the cost of each work, in order; every kind of work has a model of its own."""
    kinds = dict[tuple[str, Place], list[Work]]()
    for work, place in works:
        kinds.setdefault((work.kind, place), []).append(work)
    models = {(kind, place): CostModel(own, place, MOST_SCALED // len(kinds)) for (kind, place), own in kinds.items()}
    return [models[work.kind, place].cost(work) for work, place in works]


def _measured(work: Work, place: Place) -> Cost:
    return update_cost(work, place) if isinstance(work, Updates) else act_cost(work, place)


def _distance(one: Work, other: Work) -> float:
    """Return by how much two groups of a kind differ in size."""
    return abs(math.log(one.size / other.size))
