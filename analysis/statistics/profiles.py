"""Comparisons of whole score distributions: performance profiles, and the probability of improvement."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.frames import Runs
from analysis.statistics.bootstrap import RESAMPLES, Resampling, RunScores, generator, percentile_interval
from analysis.statistics.groups import check_options, ends, named, rows_of, samples, select_rows
from analysis.statistics.intervals import LEVEL

__all__ = ["performance_profile", "probability_of_improvement"]

POINTS = 101  # thresholds between the lowest and the highest run


def performance_profile(
    run_or_frame: Runs | pd.DataFrame,
    thresholds: Sequence[float] | None = None,
    by: Sequence[str] | str | None = None,
    *,
    value: str = "score",
    of_tasks: bool = False,
    interval: Resampling | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
    strict: bool = False,
) -> pd.DataFrame:
    """Return a row per group and threshold: the share of runs (training seeds of all tasks) that score more.

    Args:
        run_or_frame: as for `aggregate`.
        thresholds: in the unit of ``value``; None: 101 from the lowest run to the highest.
        by: as for `aggregate`; without "task", a profile is over all tasks.
        value: as for `aggregate`.
        of_tasks: whether to count tasks whose mean over seeds is above, instead of runs.
        interval: "bootstrap" over seeds, stratified by task; "hierarchical" over seeds, then episodes; None: as for
            `aggregate`.
        level: of the interval, which is that of each threshold by itself.
        resamples: how many.
        seed: of its random numbers.
        strict: as for `aggregate`.

    Returns:
        The columns of the groups, "threshold", "estimate" (0 to 1), "low", "high", "tasks", "seeds", "lacking".

    Raises:
        UserError: as of `aggregate`.
    """
    check_options("performance_profile", level, resamples)
    groups = samples(rows_of(run_or_frame), value, by, what="performance_profile", strict=strict)
    if thresholds is None:
        every = np.concatenate([own for sample in groups for own in sample.seed_means])
        thresholds = np.linspace(every.min(), every.max(), POINTS).tolist()
    rows = []
    for sample in groups:
        counts = {name: count for name, count in sample.counts.items() if name != "episodes"}
        rng = generator(seed, "profile")
        draws = sample.draws(interval, rng, resamples) if sample.has_enough_seeds else None
        for threshold in thresholds:
            estimate = float(_share_above(sample.seed_means, threshold, of_tasks)) if sample.is_whole else np.nan
            found = None if draws is None else percentile_interval(_share_above(draws, threshold, of_tasks), level)
            said = {"threshold": threshold, "estimate": estimate, **ends(found)}
            rows.append({**sample.columns, **said, **counts, "lacking": sample.lacking})
    return pd.DataFrame(rows)


def _share_above(runs: RunScores, threshold: float, of_tasks: bool) -> NDArray[np.float64]:
    """Return (…) the share of runs, or of tasks by their means, that score more than a threshold."""
    scores = np.stack([own.mean(-1) for own in runs], axis=-1) if of_tasks else np.concatenate(runs, axis=-1)
    return (scores > threshold).mean(-1)


def probability_of_improvement(
    run_or_frame: Runs | pd.DataFrame,
    vs: str | Mapping[str, object],
    by: Sequence[str] | str | None = None,
    *,
    value: str = "score",
    interval: Resampling | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
    strict: bool = False,
) -> pd.DataFrame:
    """Return a row per group: the chance that a run of it scores more than a run of another method on the same task.

    P(X > Y) + P(X = Y) / 2 over all pairs of runs of a task, averaged over tasks. Both are resampled
    independently, within each task; pairs of the same training seed play no part (see `paired_gain`).

    Args:
        run_or_frame: as for `aggregate`.
        vs: the other method, or {column: value, …} that its rows have, such as {"method": "rebrac", "variant": "a"}.
        by: as for `aggregate`.
        value: as for `aggregate`.
        interval: as for `performance_profile`.
        level: of the interval.
        resamples: how many.
        seed: of its random numbers.
        strict: as for `aggregate`; also of tasks that the other method lacks.

    Returns:
        The columns of the groups, "vs", "estimate" (0 to 1), "low", "high", "tasks", "seeds", "lacking"; no row for
        the other method itself.

    Raises:
        UserError: no row is ``vs``, its rows are of several cells, or as of `aggregate`.
    """
    what = "probability_of_improvement"
    check_options(what, level, resamples)
    frame = rows_of(run_or_frame)
    is_other = select_rows(frame, vs, what=what)
    (other,) = samples(frame[is_other], value, (), what=f"{what}: vs", strict=strict)
    rows = []
    for sample in samples(frame[~is_other], value, by, what=what, strict=strict):
        lacking = [sample.lacking] if sample.lacking else []
        lacking += [f"vs: task {task}" for task in sample.tasks if task not in other.tasks]
        is_whole = sample.is_whole and set(sample.tasks) <= set(other.tasks)
        estimate, found = np.nan, None
        if is_whole:
            theirs = replace(other, tasks={task: other.tasks[task] for task in sample.tasks})
            estimate = float(_improvement(sample.seed_means, theirs.seed_means))
            if sample.has_enough_seeds and theirs.has_enough_seeds:
                rng = generator(seed, what)
                ours = sample.draws(interval, rng, resamples)
                found = percentile_interval(_improvement(ours, theirs.draws(interval, rng, resamples)), level)
        counts = {name: count for name, count in sample.counts.items() if name != "episodes"}
        said = {"vs": named(vs), "estimate": estimate, **ends(found)}
        rows.append({**sample.columns, **said, **counts, "lacking": ", ".join(lacking)})
    return pd.DataFrame(rows)


def _improvement(ours: RunScores, theirs: RunScores) -> NDArray[np.float64]:
    """Return (…) the mean over tasks of P(X > Y) + P(X = Y) / 2."""
    by_task = []
    for x, y in zip(ours, theirs, strict=True):
        difference = x[..., :, None] - y[..., None, :]  # (…, seeds of X, seeds of Y)
        by_task.append(((np.sign(difference) + 1) / 2).mean((-2, -1)))
    return np.mean(by_task, axis=0)
