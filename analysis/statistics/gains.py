"""Paired gains: a method minus another on the same training seed and the same environment seeds."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.frames import Runs
from analysis.statistics.corrections import holm_adjusted
from analysis.statistics.groups import DESIGN, Sample, ends, named, rows_of, samples, select_rows
from analysis.statistics.intervals import LEVEL
from mpcwdwm.errors import UserError

__all__ = ["paired_gain", "paired_rows"]

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
    frame = paired_rows(run_or_frame, vs)
    found = samples(frame, "gain", by, what="paired_gain", strict=strict)
    k = sum(sample.is_whole for sample in found)
    if looked_at is not None and looked_at < k:
        raise UserError(f"paired_gain: looked_at={looked_at} is less than the {k} cells of the frame")
    k = max(1, looked_at or k)
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
                "p_corrected": np.nan if adjusted is None else adjusted,
                "is_shown": adjusted is not None and adjusted <= 1 - level,
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


def paired_rows(run_or_frame: Runs | pd.DataFrame, vs: str | Mapping[str, object] | None) -> pd.DataFrame:
    """Return the rows of all methods but the other, with "gain": the score minus the other's in the same episode.

    Raises:
        UserError: the frame has no episodes or no gains, no row is ``vs``, or an episode of it is there twice.
    """
    what = "paired_gain"
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
