"""Paired gains: a method minus another on the same training seed and the same environment seeds; a test of signs."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy import stats

from analysis.frames import Runs
from analysis.statistics.bootstrap import generator
from analysis.statistics.corrections import holm_adjusted
from analysis.statistics.groups import DESIGN, Sample, check_options, ends, named, rows_of, samples, select_rows
from analysis.statistics.intervals import LEVEL
from mpcwdwm.errors import UserError

__all__ = ["paired_gain", "paired_rows", "permutation_test"]

PERMUTATIONS = 20_000  # sign patterns: all of 14 differences, a draw of more; p-values are then uncertain by 0.0015
SignsOf = Literal["seeds", "episodes"]
PAIR = ["task", "seed", "env_seed"]


def paired_gain(
    run_or_frame: Runs | pd.DataFrame,
    vs: str | Mapping[str, object] | None = None,
    by: Sequence[str] | str | None = None,
    *,
    looked_at: int | None = None,
    level: float = LEVEL,
    strict: bool = False,
) -> pd.DataFrame:
    """Return a row per group: its mean gain over another method, with both intervals, corrected, and a p-value.

    Both intervals are those of the table at the level 1 − (1 − level) / k, where k cells are looked at (Bonferroni):
    with a chance of ``level`` all hold their true means. The p-values are of the interval over new training seeds, and
    Holm's procedure corrects them; so ``is_shown`` may hold for a cell of which the wider interval still contains 0.

    Args:
        run_or_frame: of `analysis.load`, or a frame with a row per episode and "env_seed".
        vs: the other method, or {column: value, …} that its rows have. None: each cell's own base policy, of the
            column "gain".
        by: as for `aggregate`.
        looked_at: k, if more cells were looked at than the frame holds; None: as many as have a gain here.
        level: of all intervals together.
        strict: as for `aggregate`; also of episodes without a counterpart.

    Returns:
        The columns of the groups, "vs", "estimate", "low" and "high" (over new training seeds), "episodes_low" and
        "episodes_high" (over episodes of these policies), "p", "p_corrected", "is_shown", "looked_at", "tasks",
        "seeds", "episodes", "lacking". With fewer than three seeds, or one episode of each, there is no p-value.

    Raises:
        UserError: a column is missing, ``looked_at`` is too small, or as of `aggregate`.
    """
    check_options("paired_gain", level)
    found = samples(paired_rows(run_or_frame, vs, "paired_gain"), "gain", by, what="paired_gain", strict=strict)
    k = _looked_at(found, looked_at, "paired_gain")
    p_values = [sample.evidence.p_value() if sample.is_whole else None for sample in found]
    corrected = holm_adjusted(p_values, hypotheses=k)
    rows = []
    for sample, p, adjusted in zip(found, p_values, corrected, strict=True):
        rows.append(
            {
                **sample.columns,
                "vs": named(vs),
                "estimate": sample.evidence.mean() if sample.is_whole else np.nan,
                **_both_ends(sample, 1 - (1 - level) / k),
                "p": np.nan if p is None else p,
                **_corrected(adjusted, level),
                "looked_at": k,
                **sample.counts,
                "lacking": sample.lacking,
            }
        )
    return pd.DataFrame(rows)


def _both_ends(sample: Sample, level: float) -> dict[str, float]:
    new_seeds = sample.evidence.for_new_seeds(level) if sample.has_enough_seeds else None
    episodes = sample.evidence.for_these_policies(level) if sample.is_whole else None
    return {**ends(new_seeds), **ends(episodes, "episodes_")}


def _looked_at(found: Sequence[Sample], given: int | None, what: str) -> int:
    """Return the number of cells for which is corrected."""
    k = sum(sample.is_whole for sample in found)
    if given is not None and given < k:
        raise UserError(f"{what}: looked_at={given} is less than the {k} cells of the frame")
    return max(1, given or k)


def _corrected(adjusted: float | None, level: float) -> dict[str, float | bool]:
    is_shown = adjusted is not None and adjusted <= 1 - level
    return {"p_corrected": np.nan if adjusted is None else adjusted, "is_shown": is_shown}


def permutation_test(
    run_or_frame: Runs | pd.DataFrame,
    vs: str | Mapping[str, object] | None = None,
    by: Sequence[str] | str | None = None,
    *,
    of: SignsOf = "seeds",
    looked_at: int | None = None,
    level: float = LEVEL,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    strict: bool = False,
) -> pd.DataFrame:
    """Return a row per group: its mean paired gain and the p-value of a permutation test, without normality.

    If the methods are exchangeable, so are the signs of their differences. The p-value is the share of sign patterns
    with a mean as far from 0: exact where there are no more than ``permutations``, else estimated.

    Args:
        run_or_frame: as for `paired_gain`.
        vs: as for `paired_gain`.
        by: as for `aggregate`.
        of: what changes sign. "seeds": the mean of a training seed on a task, for new seeds; with n of them no p-value
            is below 2 / 2ⁿ, which "least_p" says (three seeds: 0.25). "episodes": the mean over seeds of a starting
            state, for these policies; each episode by itself where seeds do not share their starting states.
        looked_at: as for `paired_gain`.
        level: a gain is shown if the corrected p-value is at most 1 − level.
        permutations: most sign patterns.
        seed: of their random numbers.
        strict: as for `paired_gain`.

    Returns:
        The columns of the groups, "vs", "estimate", "p", "p_corrected" (Holm), "is_shown", "least_p", "looked_at",
        "tasks", "seeds", "episodes", "lacking".

    Raises:
        UserError: as of `paired_gain`.
    """
    check_options("permutation_test", level, permutations)
    if of not in get_args(SignsOf):
        raise UserError(f"permutation_test: no of='{of}'; there are {', '.join(get_args(SignsOf))}")
    found = samples(
        paired_rows(run_or_frame, vs, "permutation_test"), "gain", by, what="permutation_test", strict=strict
    )
    k = _looked_at(found, looked_at, "permutation_test")
    tests = [_signs(sample, of, permutations, seed) if sample.is_whole else (np.nan, np.nan) for sample in found]
    p_values = [None if np.isnan(p) else p for p, _ in tests]
    rows = []
    for sample, (p, least), adjusted in zip(found, tests, holm_adjusted(p_values, hypotheses=k), strict=True):
        said = {"p": p, **_corrected(adjusted, level), "least_p": least, "looked_at": k}
        estimate = sample.evidence.mean() if sample.is_whole else np.nan
        rows.append(
            {
                **sample.columns,
                "vs": named(vs),
                "estimate": estimate,
                **said,
                **sample.counts,
                "lacking": sample.lacking,
            }
        )
    return pd.DataFrame(rows)


def _signs(sample: Sample, of: SignsOf, permutations: int, seed: int) -> tuple[float, float]:
    """Return the p-value of the permutation test of one group, and the least that so many signs can give."""
    parts = []  # the mean is their sum
    for task in sample.tasks.values():
        weight = 1 / (len(sample.tasks) * len(task))
        if of == "seeds":
            parts += [weight * values.mean() for values in task.values()]
        elif sample.starts_shared:
            table = np.stack(list(task.values()))
            parts += list(weight * len(task) * table.mean(0) / table.shape[1])
        else:
            parts += [weight * value / len(values) for values in task.values() for value in values]
    if len(parts) == 1:  # either sign is as far from 0
        return 1.0, 1.0
    found = stats.permutation_test(
        (np.array(parts),),
        lambda x, axis: x.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=permutations,
        rng=generator(seed, "signs"),
    )
    return float(found.pvalue), max(2.0 ** (1 - len(parts)), 1 / permutations)


def paired_rows(run_or_frame: Runs | pd.DataFrame, vs: str | Mapping[str, object] | None, what: str) -> pd.DataFrame:
    """Return the rows of all methods but the other, with "gain": the score minus the other's in the same episode.

    Raises:
        UserError: the frame has no episodes or no gains, no row is ``vs``, or an episode of it is there twice.
    """
    frame = rows_of(run_or_frame)
    if missing := [name for name in ("seed", "env_seed", "score") if name not in frame]:
        raise UserError(f"{what}: pairs need the frame of episodes; this one has no column '{missing[0]}'")
    if vs is None:
        if "gain" not in frame:
            raise UserError(f"{what}: the frame has no column 'gain'; name what to compare with, as in vs='rebrac'")
        has_base = frame["kind"] != "none" if "kind" in frame else frame["gain"].notna() | frame["score"].isna()
        return _only_whole(frame[has_base])
    is_other = select_rows(frame, vs, what=what)
    pair = [name for name in PAIR if name in frame]
    other = frame.loc[is_other & frame["score"].notna(), [*pair, "score"]]
    if other.duplicated(pair).any():
        raise UserError(
            f"{what}: vs={vs!r} is several cells of one seed; name more columns, as in {{'method': 'a', 'H': 3}}"
        )
    rest = frame[~is_other].drop(columns="gain", errors="ignore")
    paired = rest.merge(other.rename(columns={"score": "score_vs"}), on=pair, how="left")
    return _only_whole(paired.assign(gain=paired["score"] - paired["score_vs"]))


def _only_whole(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without the gains of a cell that lacks a counterpart for one of its episodes."""
    cell = [name for name in ("key", *DESIGN, "seed") if name in rows]
    unpaired = (rows["score"].notna() & rows["gain"].isna()).rename("unpaired")
    lacks = rows[cell].assign(unpaired=unpaired).groupby(cell, dropna=False)["unpaired"].transform("any")
    return rows.assign(gain=rows["gain"].mask(lacks))
