"""How well off-policy estimates of step sizes agree with returns in the environment.

An estimator (a "judge") scores candidate step sizes without the environment. The truth are the scores of cells with
a fixed step size, one per candidate, task and training seed. Three references are compared in the same way: `oracle`
chooses the truly best candidate for every task and seed (its gain is optimistic: the best of several noisy scores),
`never` does not adapt, and `best fixed` chooses everywhere the one candidate that is truly best on average.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis import rendering
from analysis.rendering import DASH, TableSection, interval_text, number, signed, with_interval
from analysis.statistics import Evidence
from analysis.table.averages import AVERAGE
from mpcwdwm.errors import UserError
from mpcwdwm.planning.step_size.choice import chosen_index

__all__ = ["agreement", "rank_agreement", "to_text"]

ORACLE, NEVER, FIXED = "oracle", "never", "best fixed"
PAIR = ["task", "seed"]
Pair = tuple[Hashable, ...]
NOISE = 2.0  # standard errors of a difference that chance explains
LEGEND = (
    "ranks: Spearman correlation over candidates between a judge's scores and the true ones, mean over training "
    "seeds, with the 95 % interval over new training seeds (Student's t; – below three seeds)",
    "best, near best: share of tasks × seeds in which the judge's choice is the truly best candidate, or no more than "
    f"{NOISE:g} standard errors below it",
    "regret: true score of the best candidate minus that of the judge's choice",
    "gain: true score of the judge's choice minus that of not adapting, with the interval over new training seeds",
)


def rank_agreement(scores: Iterable[float], truth: Iterable[float]) -> float:
    """Return Spearman's correlation; 0 where all values of one argument are equal.

    Values that are not finite rank lowest.
    """
    values = [np.array(list(one), dtype=float) for one in (scores, truth)]
    ranked = [stats.rankdata(np.where(np.isfinite(one), one, -np.inf)) for one in values]
    if any(np.ptp(ranks) == 0 for ranks in ranked):
        return 0.0
    return float(np.corrcoef(*ranked)[0, 1])


def agreement(truth: pd.DataFrame, estimates: pd.DataFrame) -> pd.DataFrame:
    """Compare every estimator with the truth, task by task and then, if there are several, on their average.

    Args:
        truth: columns task, seed, candidate, true_score and, if known, stderr (of the true score); candidate 0 is
            not to adapt, the others are step sizes or other labels.
        estimates: columns task, seed, judge, candidate, score; candidate 0 first, and of equal scores the first
            candidate is chosen.

    Returns:
        One row per task and estimator that scored all its seeds: task, judge, n (tasks × seeds), and means over
        seeds: spearman (nan for references), best and near_best (shares; near_best is nan without standard errors),
        regret and gain (points of score); spearman and gain with the ends of their intervals, nan below three seeds.

    Raises:
        UserError: a candidate has no true score, or there is none for not adapting.
    """
    choices = _choices(truth, estimates)
    tasks = list(choices["task"].unique())
    rows = []
    for task in [*tasks, AVERAGE] if len(tasks) > 1 else tasks:
        here = choices if task == AVERAGE else choices[choices["task"] == task]
        everywhere = int((here["judge"] == NEVER).sum())
        for judge in choices["judge"].unique():
            own = here[here["judge"] == judge]
            if len(own) == everywhere:
                rows.append({"task": task, "judge": judge, "n": len(own), **_means(own)})
    return pd.DataFrame(rows)


def to_text(rows: pd.DataFrame) -> str:
    """Return the rows of `agreement` for a terminal, a table for each task."""
    tasks = rows.groupby("task", sort=False)
    return rendering.to_text(
        [TableSection(str(task), [list(map(_shown, own.itertuples()))]) for task, own in tasks], LEGEND
    )


# ---- choices ------------------------------------------------------------------------------------


def _choices(truth: pd.DataFrame, estimates: pd.DataFrame) -> pd.DataFrame:
    """Return the choice of every estimator and reference: one row per task, seed and judge."""
    known = {pair: own.set_index("candidate") for pair, own in truth.groupby(PAIR)}
    true: dict[Pair, pd.DataFrame] = {}
    rows = []
    for pair, own in estimates.groupby(PAIR, sort=False):
        candidates = list(own["candidate"].unique())
        true[pair] = _of_candidates(known.get(pair), candidates, pair)
        for judge, said in own.groupby("judge", sort=False):
            scores = said.set_index("candidate")["score"].reindex(candidates)
            ranks = rank_agreement(scores, true[pair]["true_score"])
            rows.append(_choice(pair, judge, true[pair], chosen_index(list(scores)), ranks))
    for pair, own in true.items():
        rows.append(_choice(pair, ORACLE, own, chosen_index(list(own["true_score"]))))
        rows.append(_choice(pair, NEVER, own, 0))
    first = next(iter(true.values()))
    common = [candidate for candidate in first.index if all(candidate in own.index for own in true.values())]
    table = pd.DataFrame({pair: own["true_score"][common] for pair, own in true.items()}).T
    means = table.groupby(level=0).mean().to_numpy(float).mean(axis=0)  # every task weighs the same
    fixed = common[chosen_index(list(means))]
    rows += [_choice(pair, FIXED, own, list(own.index).index(fixed)) for pair, own in true.items()]
    return pd.DataFrame(rows)


def _choice(pair: Pair, judge: Any, true: pd.DataFrame, chosen: int, ranks: float = np.nan) -> dict[str, Any]:
    scores = true["true_score"].to_numpy(float)
    best = int(scores.argmax())
    regret, near = scores[best] - scores[chosen], np.nan
    if "stderr" in true:
        errors = true["stderr"].to_numpy(float)
        near = float(regret <= NOISE * np.hypot(errors[best], errors[chosen]))
    return {
        **dict(zip([*PAIR, "judge"], [*pair, judge], strict=True)),
        "spearman": ranks,
        "best": float(regret == 0),
        "near_best": near,
        "regret": regret,
        "gain": scores[chosen] - scores[0],
    }


def _of_candidates(true: pd.DataFrame | None, candidates: Sequence[float | str], pair: Pair) -> pd.DataFrame:
    """Return the truth about these candidates, in their order."""
    known = [] if true is None else list(true.index)
    lacking = [value for value in dict.fromkeys((0, *candidates)) if value not in known]
    if true is None or lacking:
        values = ", ".join(value if isinstance(value, str) else f"{value:g}" for value in lacking)
        raise UserError(
            f"task {pair[0]}, seed {pair[1]}: no true score for step size {values}: "
            "evaluate a planner with that step size there, too"
        )
    if candidates[0] != 0:
        raise UserError(f"task {pair[0]}, seed {pair[1]}: candidate 0, not to adapt, was not judged: judge it, too")
    return true.loc[list(candidates)]


def _means(choices: pd.DataFrame) -> dict[str, float]:
    """Return the mean of every measure, every task weighing the same, and the intervals over new training seeds."""
    tasks = [own for _, own in choices.groupby("task", sort=False)]
    found: dict[str, float] = {}
    for name in ("spearman", "best", "near_best", "regret", "gain"):
        evidence = Evidence(tuple(dict(zip(own["seed"], own[[name]].to_numpy(float), strict=True)) for own in tasks))
        found[name] = evidence.mean()
        if name in ("spearman", "gain"):
            interval = evidence.for_new_seeds()
            ends = (interval.low, interval.high) if interval else (np.nan, np.nan)
            found |= dict(zip((f"{name}_low", f"{name}_high"), ends, strict=True))
    return found


def _shown(row: Any) -> dict[str, str]:
    """Return a row as text, by header."""
    spearman = DASH if np.isnan(row.spearman) else number(row.spearman, "+.2f")
    if not np.isnan(row.spearman_low):
        spearman += f" {interval_text(row.spearman_low, row.spearman_high, '+.2f')}"
    gain = signed(row.gain)
    if not np.isnan(row.gain_low):
        gain = with_interval(row.gain, row.gain_low, row.gain_high, sign=True)
    return {
        "judge": row.judge,
        "ranks [95 %]": spearman,
        "best": f"{100 * row.best:.0f} %",
        "near best": DASH if np.isnan(row.near_best) else f"{100 * row.near_best:.0f} %",
        "regret": f"{row.regret:.1f}",
        "gain [95 %]": gain,
        "tasks × seeds": str(row.n),
    }
