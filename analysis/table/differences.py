"""The difference of two methods' scores over new training seeds, and which methods may be the best.

Where both methods were run for the same training seeds from the same starting states, the difference is that of their
episodes (*paired*): what seeds and starting states have in common cancels. Otherwise it is the difference of their
means, and the variances add.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.statistics import LEVEL, MIN_SEEDS, Evidence, Spread, are_successes, least_p, paired_differences

__all__ = ["Difference", "Scores", "difference", "perhaps_best"]

TRIED = 8  # methods with which each one is compared
Scores = Mapping[int, Mapping[int, float]]  # of one task: training seed → environment seed → score of the episode


@dataclass(frozen=True)
class Difference:
    """One method's score minus another's, every task weighing the same.

    Attributes:
        mean: the estimate.
        spread: its uncertainty over new training seeds and starting states; None where seeds are too few to tell.
        bears_verdict: whether there is a spread, and some seed has two episodes.
        paired: whether it is of the same training seeds and environment seeds.
        n_seeds: training seeds it is of: those in common if paired, else the fewer of both.
        n_episodes: pairs of episodes if paired, else the episodes of the method that has fewer.
    """

    mean: float
    spread: Spread | None
    bears_verdict: bool
    paired: bool
    n_seeds: int
    n_episodes: int

    @property
    def p(self) -> float | None:
        """Return the two-sided p-value of a difference of 0, not below `least_p`; None if it bears no verdict."""
        if self.spread is None or not self.bears_verdict:
            return None
        return max(self.spread.p_value(self.mean), least_p(self.n_seeds, self.n_episodes))


def difference(method: Sequence[Scores], other: Sequence[Scores]) -> Difference:
    """Return method minus other over the same tasks.

    It is paired if there are at least three training seeds, the same for every task, of which both have episodes with
    the same environment seeds; other episodes are then left out.

    Args:
        method: for each task its scores, with at least one episode.
        other: the same of the method compared with, in the same order of tasks.
    """
    common = [_common(own, others) for own, others in zip(method, other, strict=True)]
    seeds = [set(task) for task in common]
    if len(seeds[0]) >= MIN_SEEDS and all(own == seeds[0] for own in seeds):
        pairs = list(zip(common, (_common(b, a) for a, b in zip(method, other, strict=True)), strict=True))
        both = all(are_successes(own) and are_successes(others) for own, others in pairs)
        differences = tuple(paired_differences(own, others) for own, others in pairs)
        evidence = Evidence(differences, "differences" if both else "scores", starts_shared=_starts_shared(common))
        spread, several = evidence.over_new_seeds(), _has_several(common)
        return Difference(evidence.mean(), spread, several, True, len(seeds[0]), _episodes(common))
    own, others = _evidence(method), _evidence(other)
    mean, spreads = own.mean() - others.mean(), (own.over_new_seeds(), others.over_new_seeds())
    spread = _sum(spreads[0], spreads[1]) if spreads[0] and spreads[1] else None
    several = spread is not None and _has_several(method) and _has_several(other)
    n_seeds = min(len(task) for task in (*method, *other))
    return Difference(mean, spread, several, False, n_seeds, min(_episodes(method), _episodes(other)))


def perhaps_best(methods: Sequence[Sequence[Scores] | None]) -> list[bool | None]:
    """Return for each method whether it may be the best: no other one is shown to score more.

    One of k methods is shown to score more than another if the one-sided interval of their `difference`, at the level
    1 − 0.05 / (k − 1), lies above 0. The truly best method has k − 1 others, so with a chance of 95 % none of them is
    shown to be better than it: the comparisons with the best of Hsu (1981, Annals of Statistics 9), with Bonferroni's
    bound in place of Dunnett's quantile. Each is compared with the methods of the `TRIED` highest means, which does not
    lower that chance and spares a grid of a thousand cells half a million comparisons.

    Args:
        methods: of each its scores by task; None where there are none.

    Returns:
        None for a method of fewer than three training seeds, and for one that stands alone.
    """
    evidence = {index: _evidence(scores) for index, scores in enumerate(methods) if scores}
    there = [index for index, own in evidence.items() if own.over_new_seeds() is not None]
    found: list[bool | None] = [None] * len(methods)
    if len(there) < 2:
        return found
    level = 1 - 2 * (1 - LEVEL) / (len(there) - 1)  # of the two-sided interval with the same lower end
    order = sorted(there, key=lambda index: -evidence[index].mean())
    for place, index in enumerate(order):
        beyond = (difference(methods[better] or (), methods[index] or ()) for better in order[: min(place, TRIED)])
        found[index] = not any(one.spread and one.spread.interval(one.mean, level).low > 0 for one in beyond)
    return found


def _sum(one: Spread, other: Spread) -> Spread:
    """Return the uncertainty of a difference of two independent means: their variances add."""
    return Spread((*one.parts, *other.parts), least=(*one.least, *other.least))


def _common(method: Scores, other: Scores) -> dict[int, dict[int, float]]:
    """Return a method's episodes that the other has, too; training seeds without any are left out."""
    pairs = {
        seed: {start: score for start, score in own.items() if start in other.get(seed, {})}
        for seed, own in method.items()
    }
    return {seed: own for seed, own in pairs.items() if own}


def _evidence(tasks: Sequence[Scores]) -> Evidence:
    values = tuple({seed: np.array([own[e] for e in sorted(own)]) for seed, own in task.items()} for task in tasks)
    successes = all(map(are_successes, tasks))
    return Evidence(values, "successes" if successes else "scores", starts_shared=_starts_shared(tasks))


def _starts_shared(tasks: Sequence[Scores]) -> bool:
    """Return whether within each task all training seeds have the same environment seeds."""
    return all(len({tuple(sorted(own)) for own in task.values()}) == 1 for task in tasks)


def _episodes(tasks: Sequence[Scores]) -> int:
    return sum(len(own) for task in tasks for own in task.values())


def _has_several(tasks: Sequence[Scores]) -> bool:
    """Return whether some training seed has two episodes of a task: one alone does not show how episodes vary."""
    return any(len(own) > 1 for task in tasks for own in task.values())
