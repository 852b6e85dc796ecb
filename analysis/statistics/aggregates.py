"""Aggregates of scores: mean, median, interquartile mean, optimality gap; per group, or at each step of a curve."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd

from analysis.frames import Runs
from analysis.statistics.bootstrap import (
    RESAMPLES,
    aggregator,
    generator,
    percentile_interval,
)
from analysis.statistics.groups import as_list, check_options, ends, require, rows_of, samples
from analysis.statistics.intervals import LEVEL
from mpcwdwm.errors import UserError, did_you_mean

__all__ = ["IntervalKind", "Statistic", "aggregate", "sample_efficiency"]

Statistic = Literal["mean", "median", "iqm", "optimality_gap"]
IntervalKind = Literal["new_seeds", "episodes", "bootstrap", "hierarchical"]
EXPERT = 100.0  # D4RL's normalized score of an expert


def aggregate(
    run_or_frame: Runs | pd.DataFrame,
    statistic: Statistic = "mean",
    by: Sequence[str] | str | None = None,
    *,
    value: str = "score",
    over: Sequence[str] | str = (),
    interval: IntervalKind | None = None,
    threshold: float = EXPERT,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
    strict: bool = False,
) -> pd.DataFrame:
    """Return a row per group: the statistic over its tasks and training seeds, with an interval.

    Args:
        run_or_frame: of `analysis.load`, or a frame with a row per episode (or cell) such as `Runs.episodes`.
        statistic: "mean" over tasks of the mean over seeds; "median" over tasks of that; "iqm", the interquartile
            mean of all runs; "optimality_gap", by how much runs fall short of ``threshold``.
        by: columns to group by; None: all that was chosen (task, method, H, M, …), so everything but the seed. Tasks
            of one group weigh the same.
        value: the column that is aggregated.
        over: columns over whose values is averaged first, within each seed.
        interval: "new_seeds" and "episodes" of the mean, as in the table; "bootstrap" over seeds, stratified by task;
            "hierarchical" over seeds, then episodes. None: "new_seeds" of the mean, else "hierarchical" where a seed
            has several episodes in the frame, or "bootstrap".
        threshold: of the optimality gap, in the unit of ``value``.
        level: of the interval.
        resamples: of a bootstrap.
        seed: of a bootstrap's random numbers.
        strict: whether a group that lacks tasks or seeds is refused; otherwise the column "lacking" names them, and
            without a whole task there is no estimate.

    Returns:
        The columns of the groups, "statistic", "estimate", "low", "high", "interval" (its kind), "tasks", "seeds" (of
        the task with the fewest), "episodes" (of all seeds) and "lacking". Below three seeds there is no interval but
        over episodes.

    Raises:
        UserError: a column is missing, a group mixes cells, or an interval is asked for that does not exist.
    """
    if interval in ("new_seeds", "episodes") and statistic != "mean":
        raise UserError(f"aggregate: the interval '{interval}' is one of the mean; for '{statistic}' use 'bootstrap'")
    if interval not in (None, *get_args(IntervalKind)):
        raise UserError(f"aggregate: no interval '{interval}'; there are {', '.join(get_args(IntervalKind))}")
    check_options("aggregate", level, resamples)
    function = aggregator(statistic, threshold)
    rows = []
    for sample in samples(rows_of(run_or_frame), value, by, over, what="aggregate", strict=strict):
        estimate = float(function(sample.seed_means)) if sample.is_whole else np.nan
        kind = interval or ("new_seeds" if statistic == "mean" else sample.resampling)
        found = None
        if kind == "episodes" and sample.is_whole:
            found = sample.evidence.for_these_policies(level)
        elif kind == "new_seeds" and sample.has_enough_seeds:
            found = sample.evidence.for_new_seeds(level)
        elif (kind == "bootstrap" or kind == "hierarchical") and sample.has_enough_seeds:
            found = percentile_interval(function(sample.draws(kind, generator(seed, kind), resamples)), level)
        said = {"statistic": statistic, "estimate": estimate, **ends(found), "interval": kind}
        rows.append({**sample.columns, **said, **sample.counts, "lacking": sample.lacking})
    return pd.DataFrame(rows)


def sample_efficiency(
    curves: Runs | pd.DataFrame,
    metric: str = "eval/normalized_score",
    statistic: Statistic = "iqm",
    by: Sequence[str] | str = ("component",),
    *,
    interval: IntervalKind = "bootstrap",
    threshold: float = EXPERT,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Return a row per group and step of training: the statistic over tasks and seeds of a learning curve's value.

    Intervals are of each step by itself. At every step the same seeds are drawn, so that bands are smooth.

    Args:
        curves: of `analysis.load`, or a frame such as `Runs.curves`.
        metric: which curve.
        statistic: as for `aggregate`.
        by: columns to group by; "step" is added, "task" is not.
        interval: as for `aggregate`.
        threshold: as for `aggregate`.
        level: as for `aggregate`.
        resamples: as for `aggregate`.
        seed: as for `aggregate`.

    Returns:
        As of `aggregate`, with "step" (gradient updates done); a step that a whole task lacks has no estimate.

    Raises:
        UserError: no curve has the metric, or as of `aggregate`.
    """
    frame = curves.curves if isinstance(curves, Runs) else curves
    require(frame, ["metric", "step", "value"], "sample_efficiency")
    chosen = frame[frame["metric"] == metric]
    if not len(chosen):
        known = sorted(map(str, frame["metric"].unique()))
        raise UserError(f"sample_efficiency: no curve of '{metric}'{did_you_mean(metric, known)}; {', '.join(known)}")
    columns = [*as_list(by), "step"]
    found = aggregate(
        chosen,
        statistic,
        columns,
        value="value",
        interval=interval,
        threshold=threshold,
        level=level,
        resamples=resamples,
        seed=seed,
    )
    return found.sort_values(columns, kind="stable", ignore_index=True).drop(columns="episodes")
