"""Score against tuning effort: what a method reaches if n evaluations may be spent on choosing its step size.

The question and the bandit are those of Jackson et al. (2025), "A clean slate for offline reinforcement learning"
(arXiv 2504.11453). An evaluation is one episode in the environment, played by one candidate. Candidates are tried as a
rule says; after n evaluations the one with the best mean so far is taken, and counts with its mean over all episodes of
the reporting seeds. In the paper candidates are the policies of all hyper-parameters and seeds, reported on the
episodes they are chosen on; here a candidate is a setting, and tuning can be kept to seeds that are not reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.frames import Runs
from analysis.rendering import seeds_text
from analysis.statistics.bootstrap import generator
from analysis.statistics.evidence import Evidence
from analysis.statistics.groups import DESIGN, Sample, as_list, check_options, ends, rows_of, samples
from analysis.statistics.intervals import LEVEL, MIN_SEEDS
from mpcwdwm.errors import UserError

__all__ = ["EVALUATIONS", "Rule", "recommended", "tuning_effort"]

Rule = Literal["ucb", "uniform"]
EVALUATIONS = (0, 1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200)
ALPHA = 2.0  # of the bandit, as in the paper, for scores between 0 and 100
TRIALS = 1000  # of a choice, as in the paper
WHAT = "tuning_effort"  # in messages


def tuning_effort(
    run_or_frame: Runs | pd.DataFrame,
    of: Sequence[str] | str = "step_size",
    by: Sequence[str] | str | None = None,
    *,
    evaluations: Sequence[int] = EVALUATIONS,
    rule: Rule = "ucb",
    tuning_seeds: Sequence[int] | None = None,
    value: str = "score",
    alpha: float = ALPHA,
    trials: int = TRIALS,
    level: float = LEVEL,
    seed: int = 0,
) -> pd.DataFrame:
    """Return a row per group and number of evaluations: the expected score of the candidate that is chosen.

    Each task of a group is tuned by itself, with as many evaluations. Of a sweep with `evaluation.select` its own
    choice is a further row, with the rule "select": so many episodes were played on the selecting seeds, and the chosen
    cell is reported on the others.

    Args:
        run_or_frame: of `analysis.load`, or a frame with a row per episode.
        of: the columns whose values are the candidates.
        by: columns to group by; None: all that was chosen (as for `aggregate`), but for ``of``, the role and the label
            "method", in which settings are written.
        evaluations: numbers of episodes; with 0 a candidate is drawn.
        rule: "ucb": the candidate of the largest mean + √(α ln t / tries); "uniform": each in turn.
        tuning_seeds: training seeds that are evaluated to choose; the others are reported. None: all seeds do both, so
            that scores of a choice among many candidates with few episodes are too high.
        value: the column that is tuned and reported.
        alpha: α, in squares of the unit of ``value``.
        trials: simulated choices.
        level: of the intervals.
        seed: of the random numbers.

    Returns:
        The columns of the groups, "rule", "evaluations", "estimate" (mean over choices), "low" and "high" (over new
        reporting seeds, given the chances of each choice), "choice_low" and "choice_high" (what that share of the
        choices reach), "candidates", "tuned_on", "tasks", "seeds" (reported), "lacking".

    Raises:
        UserError: a column is missing, no seed is left to report, or the numbers make no sense.
    """
    _check(evaluations, rule)
    check_options(WHAT, level, trials)
    of = as_list(of)
    frame = rows_of(run_or_frame)
    hidden = {*of, "role", *(["method"] if "name" in frame else [])}
    columns = [name for name in DESIGN if name in frame and name not in hidden] if by is None else as_list(by)
    rows: list[dict[str, object]] = []
    for labels, group in _groups(frame, columns, of, value).items():
        candidates = _Candidates(group.candidates, of, tuning_seeds)
        said = {**dict(zip(columns, labels, strict=True)), "rule": rule}
        rng = generator(seed, WHAT)
        rows += [{**said, **row} for row in candidates.reached(evaluations, rule, alpha, trials, level, rng)]
        if group.reported is not None:
            rows.append({**said, "rule": "select", **_selected(group.candidates, group.reported, level)})
    if not rows:
        raise UserError(f"{WHAT}: no row has a value in {' and '.join(of)}: nothing was tuned")
    return pd.DataFrame(rows)


def _check(evaluations: Sequence[int], rule: str) -> None:
    if rule not in get_args(Rule):
        raise UserError(f"{WHAT}: no rule '{rule}'; there are {', '.join(get_args(Rule))}")
    if not evaluations or min(evaluations) < 0:
        raise UserError(f"{WHAT}: evaluations must be numbers of episodes from 0")


# ---- the bandit ---------------------------------------------------------------------------------


def recommended(
    pools: Sequence[NDArray[np.float64]],
    evaluations: int,
    rule: Rule,
    alpha: float,
    trials: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return (trials, evaluations): which candidate is taken after each evaluation.

    Args:
        pools: (episodes,) scores of each candidate; an evaluation is a draw from them with replacement.
        evaluations: how many.
        rule: which candidate is tried next; equal ones are told apart by chance.
        alpha: of "ucb".
        trials: how many choices are simulated.
        rng: the generator.
    """
    sizes = np.array([len(pool) for pool in pools])
    table = np.array([np.resize(pool, sizes.max()) for pool in pools])  # (candidates, episodes), beyond the size unused
    tries, sums = np.zeros((trials, len(pools))), np.zeros((trials, len(pools)))
    every = np.arange(trials)
    best = np.empty((trials, evaluations), dtype=np.int64)
    for t in range(1, evaluations + 1):
        worth = -tries
        if rule == "ucb":
            width = np.sqrt(alpha * np.log(t) / np.maximum(tries, 1))
            worth = np.where(tries > 0, sums / np.maximum(tries, 1) + width, np.inf)
        tried = _argmax(worth, rng)
        sums[every, tried] += table[tried, rng.integers(sizes[tried])]
        tries[every, tried] += 1
        best[:, t - 1] = _argmax(np.where(tries > 0, sums / np.maximum(tries, 1), -np.inf), rng)
    return best


def _argmax(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return (n,) the place of the largest of each row of (n, k), among equal ones by chance."""
    is_largest = values == values.max(1, keepdims=True)
    return np.where(is_largest, rng.random(values.shape), -1.0).argmax(1)


# ---- candidates and what they reach -------------------------------------------------------------


class _Candidates:
    """The settings of a group, on the seeds that are tuned on and on those that are reported.

    Args:
        settings: one sample of each.
        of: columns in which they differ.
        tuning_seeds: as for `tuning_effort`.

    Raises:
        UserError: a tuning seed was not evaluated, or none is left to report.
    """

    def __init__(self, settings: Sequence[Sample], of: Sequence[str], tuning_seeds: Sequence[int] | None) -> None:
        self._count = len(settings)
        self._starts_shared = all(each.starts_shared for each in settings)
        self._tuned_on = "the reported seeds" if tuning_seeds is None else seeds_text(list(tuning_seeds))
        self._lacking = ", ".join(
            f"{' '.join(f'{name} {each.columns[name]}' for name in of)}: {each.lacking}"
            for each in settings
            if each.lacking
        )
        self._pools: list[list[NDArray[np.float64]]] = []  # of each task, of each candidate
        self._reported: list[dict[int, NDArray[np.float64]]] = []  # of each task, seed → (candidates, episodes)
        for task in dict.fromkeys(task for each in settings for task in each.tasks):
            own = [each.tasks[task] for each in settings if task in each.tasks]
            common = set.intersection(*(set(seeds) for seeds in own))
            tuning = common if tuning_seeds is None else set(tuning_seeds)
            if absent := sorted(tuning - common):
                raise UserError(
                    f"{WHAT}: {seeds_text(absent)} of tuning_seeds is not there for all candidates on '{task}'"
                )
            reported = sorted(common if tuning_seeds is None else common - tuning)
            if not reported:
                raise UserError(f"{WHAT}: no seed is left to report on '{task}': all candidates must share another one")
            self._pools.append([np.concatenate([seeds[seed] for seed in sorted(tuning)]) for seeds in own])
            self._reported.append({seed: _stacked([seeds[seed] for seeds in own]) for seed in reported})

    def reached(
        self,
        evaluations: Sequence[int],
        rule: Rule,
        alpha: float,
        trials: int,
        level: float,
        rng: np.random.Generator,
    ) -> list[dict[str, object]]:
        """Return a row for each number of evaluations."""
        most = max(evaluations)
        chosen = []  # (trials, 1 + evaluations) of each task; without an evaluation, any
        for pools in self._pools:
            first = rng.integers(len(pools), size=(trials, 1))
            chosen.append(np.concatenate([first, recommended(pools, most, rule, alpha, trials, rng)], axis=1))
        rows: list[dict[str, object]] = []
        for n in sorted(evaluations):
            mixed, reached = [], []
            for own, seeds in zip(chosen, self._reported, strict=True):
                count = len(next(iter(seeds.values())))
                chances = np.full(count, 1 / count) if n == 0 else np.bincount(own[:, n], minlength=count) / trials
                mixed.append({seed: chances @ scores for seed, scores in seeds.items()})
                reached.append(np.mean([scores.mean(1) for scores in seeds.values()], axis=0)[own[:, n]])
            low, high = np.quantile(np.mean(reached, axis=0), [(1 - level) / 2, (1 + level) / 2])
            evidence = Evidence(tuple(mixed), starts_shared=self._starts_shared)
            rows.append(
                {
                    "evaluations": n,
                    **_estimated(evidence, level),
                    "choice_low": float(low),
                    "choice_high": float(high),
                    "candidates": self._count,
                    "tuned_on": self._tuned_on,
                    "tasks": len(mixed),
                    "seeds": min(map(len, mixed)),
                    "lacking": self._lacking,
                }
            )
        return rows


def _stacked(scores: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return (candidates, episodes) the scores of one seed; their means if candidates differ in their number."""
    if len({len(own) for own in scores}) > 1:
        return np.array([[own.mean()] for own in scores])
    return np.stack(scores)


def _estimated(evidence: Evidence, level: float) -> dict[str, float]:
    interval = evidence.for_new_seeds(level) if min(map(len, evidence.tasks)) >= MIN_SEEDS else None
    return {"estimate": evidence.mean(), **ends(interval)}


def _selected(candidates: Sequence[Sample], reported: Sample, level: float) -> dict[str, object]:
    """Return the row of a sweep's own selection: the episodes of all candidates, and the chosen cells' score."""
    episodes = sum(each.counts["episodes"] for each in candidates)
    seeds = sorted({seed for each in candidates for task in each.tasks.values() for seed in task})
    return {
        "evaluations": round(episodes / max(1, reported.counts["tasks"])),
        **_estimated(reported.evidence, level),
        "choice_low": np.nan,
        "choice_high": np.nan,
        "candidates": len(candidates),
        "tuned_on": seeds_text(seeds),
        "tasks": reported.counts["tasks"],
        "seeds": reported.counts["seeds"],
        "lacking": reported.lacking,
    }


# ---- groups -------------------------------------------------------------------------------------


@dataclass
class _Group:
    candidates: list[Sample]
    reported: Sample | None = None  # the chosen cells, where a sweep has selected


def _groups(frame: pd.DataFrame, by: list[str], of: list[str], value: str) -> dict[tuple[object, ...], _Group]:
    """Return group → its candidates: the cells a sweep selected among, or where it has not, all that are reported."""
    is_select = frame["role"] == "select" if "role" in frame else pd.Series(False, index=frame.index)
    groups: dict[tuple[object, ...], _Group] = {}
    keys: dict[tuple[str, ...], tuple[object, ...]] = {}  # nan is not equal to itself

    def key_of(sample: Sample) -> tuple[object, ...]:
        labels = tuple(sample.columns[name] for name in by)
        return keys.setdefault(tuple(map(str, labels)), labels)

    if is_select.any():
        for sample in samples(frame[is_select], value, [*by, *of], what=WHAT):
            groups.setdefault(key_of(sample), _Group([])).candidates.append(sample)
    selected = set(groups)
    rest = frame[~is_select]
    if selected:
        there = rest[by].astype(str).apply(tuple, axis=1).isin({tuple(map(str, labels)) for labels in selected})
        for sample in samples(rest[there], value, by, what=WHAT) if there.any() else []:
            groups[key_of(sample)].reported = sample
        rest = rest[~there]
    if len(rest):
        for sample in samples(rest, value, [*by, *of], what=WHAT):
            groups.setdefault(key_of(sample), _Group([])).candidates.append(sample)
    return groups
