"""How far judges of a step size can be trusted: their rank agreement with what the environment says.

The truth are cells with a fixed step size, one per candidate, task and training seed; a judge's word are its scores
of the same candidates (`mpcwdwm.planning.step_size.choice.Judgement`). Three references stand beside the judges:
`oracle` takes the truly best candidate of every task and seed (its gain is optimistic: the best of several noisy
scores), `never` never adapts, and `best fixed` takes everywhere the one candidate that is truly best on average.
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text
from scipy import stats

from analysis.statistics import Evidence
from analysis.table.averages import AVERAGE
from analysis.table.verdicts import interval_text, signed
from mpcwdwm.errors import UserError
from mpcwdwm.planning.step_size.choice import candidate_labels, chosen_index

__all__ = ["Agreement", "agreement", "judgement_rows", "rank_agreement", "to_frame", "to_text"]

ORACLE, NEVER, FIXED = "oracle", "never", "best fixed"
NOISE = 2.0  # standard errors of a difference that chance explains
LEGEND = (
    "ranks: Spearman correlation over candidates between a judge's scores and the true ones, mean over training "
    "seeds, with the 95 % interval over new training seeds (Student's t; – below three seeds)",
    "best, near best: share of tasks × seeds in which the judge's choice is the truly best candidate, or no more than "
    f"{NOISE:g} standard errors below it",
    "regret: true score of the best candidate minus that of the judge's choice",
    "gain: true score of the judge's choice minus that of not adapting, with the interval over new training seeds",
)
Pair = tuple[str, int]  # task, training seed


@dataclass(frozen=True)
class Agreement:
    """One judge on one task, or on the average of tasks; None where there is nothing to say."""

    task: str
    judge: str
    n: int  # tasks × training seeds
    spearman: float | None
    spearman_low: float | None
    spearman_high: float | None
    best: float  # share
    near_best: float | None  # share; None where the truth comes without standard errors
    regret: float  # points
    gain: float  # points
    gain_low: float | None
    gain_high: float | None


def judgement_rows(task: str, seeds: Sequence[int], judgement: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a recorded judgement as rows (task, seed, judge, candidate, score); null becomes nan.

    Args:
        task: its task.
        seeds: training seeds of its members.
        judgement: as `Judgement.to_dict` gives it.
    """
    labels = candidate_labels(judgement)
    return [
        {"task": task, "seed": seed, "judge": judge, "candidate": label, "score": np.nan if s is None else s}
        for judge, members in judgement["scores"].items()
        for seed, scores in zip(seeds, members, strict=True)
        for label, s in zip(labels, scores, strict=True)
    ]


def rank_agreement(scores: Iterable[float], truth: Iterable[float]) -> float:
    """Return Spearman's correlation; 0 where one of them says nothing, all its values being equal.

    What is not finite among the scores ranks lowest.
    """
    values = [np.array(list(one), dtype=float) for one in (scores, truth)]
    ranked = [stats.rankdata(np.where(np.isfinite(one), one, -np.inf)) for one in values]
    if any(np.ptp(ranks) == 0 for ranks in ranked):
        return 0.0
    return float(np.corrcoef(*ranked)[0, 1])


def agreement(truth: pd.DataFrame, judgements: pd.DataFrame) -> list[Agreement]:
    """Compare every judge with the truth, task by task and then, if there are several, on their average.

    Args:
        truth: task, seed, candidate, true_score, and if known stderr (of the true score); candidate 0 is not to
            adapt, the others are step sizes or other labels.
        judgements: task, seed, judge, candidate, score; of tasks and seeds that are in the truth, candidates in the
            order in which the first of equals is chosen, 0 first.

    Raises:
        UserError: a judged candidate has no true score, or there is none for not adapting.
    """
    true = {pair: rows.set_index("candidate") for pair, rows in _pairs(truth)}
    words: dict[str, dict[Pair, list[float]]] = {}
    judged: dict[Pair, pd.DataFrame] = {}
    for pair, rows in _pairs(judgements):
        candidates = list(rows["candidate"].unique())
        judged[pair] = _of_candidates(true.get(pair), candidates, pair)
        for judge, own in rows.groupby("judge", sort=False):
            scores = own.set_index("candidate")["score"].reindex(candidates)
            words.setdefault(str(judge), {})[pair] = [float(score) for score in scores]
    choices = {
        judge: {pair: chosen_index(scores) for pair, scores in by_pair.items()} for judge, by_pair in words.items()
    }
    ranks = {
        judge: {pair: rank_agreement(scores, judged[pair]["true_score"]) for pair, scores in by_pair.items()}
        for judge, by_pair in words.items()
    }
    choices |= _references(judged)
    tasks = list(dict.fromkeys(task for task, _ in judged))
    found = [_of_task(task, judge, choices[judge], ranks.get(judge), judged) for task in tasks for judge in choices]
    if len(tasks) > 1:
        found += [_of_task(None, judge, choices[judge], ranks.get(judge), judged) for judge in choices]
    return [one for one in found if one is not None]


def to_frame(rows: Sequence[Agreement]) -> pd.DataFrame:
    """Return the rows as a frame whose columns are the fields."""
    names = [one.name for one in fields(Agreement)]
    return pd.DataFrame([[getattr(row, name) for name in names] for row in rows], columns=names)


def to_text(rows: Sequence[Agreement], width: int = 100) -> str:
    """Return the rows for a terminal of ``width`` columns, without colours, a table for each task."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False, color_system=None, highlight=False)
    for task in dict.fromkeys(row.task for row in rows):
        grid = Grid(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
        own = [row for row in rows if row.task == task]
        for name in _shown(own[0]):
            grid.add_column(name, justify="left" if name == "judge" else "right", overflow="fold")
        for row in own:
            grid.add_row(*(Text(cell) for cell in _shown(row).values()))
        console.print(Text(task, style="bold"))
        console.print(grid)
    for note in LEGEND:
        console.print(Text(f"· {note}"))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


# ---- one judge ----------------------------------------------------------------------------------


def _of_task(
    task: str | None,
    judge: str,
    choices: Mapping[Pair, int],
    ranks: Mapping[Pair, float] | None,
    judged: Mapping[Pair, pd.DataFrame],
) -> Agreement | None:
    """Return what a judge is worth on a task, on all if None; nothing if it was not heard everywhere there."""
    pairs = [pair for pair in judged if task is None or pair[0] == task]
    if any(pair not in choices for pair in pairs):
        return None
    scores = {pair: judged[pair]["true_score"].to_numpy(float) for pair in pairs}
    chosen = {pair: scores[pair][choices[pair]] for pair in pairs}
    regret = {pair: float(scores[pair].max() - chosen[pair]) for pair in pairs}
    gain = _evidence(pairs, lambda pair: float(chosen[pair] - scores[pair][0]))
    gain_low, gain_high = _interval(gain)
    agreed = None if ranks is None else _evidence(pairs, lambda pair: ranks[pair])
    low, high = (None, None) if agreed is None else _interval(agreed)
    near = None
    if all("stderr" in judged[pair] for pair in pairs):
        near = _evidence(pairs, lambda pair: float(regret[pair] <= NOISE * _stderr(judged[pair], choices[pair]))).mean()
    return Agreement(
        task=AVERAGE if task is None else task,
        judge=judge,
        n=len(pairs),
        spearman=None if agreed is None else agreed.mean(),
        spearman_low=low,
        spearman_high=high,
        best=_evidence(pairs, lambda pair: float(regret[pair] == 0)).mean(),
        near_best=near,
        regret=_evidence(pairs, regret.__getitem__).mean(),
        gain=gain.mean(),
        gain_low=gain_low,
        gain_high=gain_high,
    )


def _evidence(pairs: Iterable[Pair], value: Callable[[Pair], float]) -> Evidence:
    """Return one number per task and seed as evidence: every task weighs the same."""
    tasks: dict[str, dict[int, Any]] = {}
    for pair in pairs:
        tasks.setdefault(pair[0], {})[pair[1]] = np.array([value(pair)])
    return Evidence(tuple(tasks.values()))


def _interval(evidence: Evidence) -> tuple[float | None, float | None]:
    interval = evidence.for_new_seeds()
    return (None, None) if interval is None else (interval.low, interval.high)


def _stderr(true: pd.DataFrame, choice: int) -> float:
    """Return the standard error of the difference between the best candidate and the chosen one."""
    errors, best = true["stderr"].to_numpy(float), int(true["true_score"].to_numpy(float).argmax())
    return float(np.hypot(errors[best], errors[choice]))


def _references(judged: Mapping[Pair, pd.DataFrame]) -> dict[str, dict[Pair, int]]:
    """Return the choices of the references: reference → task, seed → place among the candidates."""
    found = {
        ORACLE: {pair: chosen_index(list(true["true_score"])) for pair, true in judged.items()},
        NEVER: dict.fromkeys(judged, 0),
    }
    every = [list(true.index) for true in judged.values()]
    common = [c for c in every[0] if all(c in own for own in every)] if judged else []
    if common:
        means = [
            _evidence(judged, lambda pair, c=c: float(judged[pair]["true_score"][c])).mean()  # type: ignore[misc]
            for c in common
        ]
        fixed = common[chosen_index(means)]
        found[FIXED] = {pair: list(true.index).index(fixed) for pair, true in judged.items()}
    return found


# ---- rows in, rows out --------------------------------------------------------------------------


def _pairs(rows: pd.DataFrame) -> list[tuple[Pair, pd.DataFrame]]:
    return [((str(task), int(seed)), own) for (task, seed), own in rows.groupby(["task", "seed"], sort=False)]  # type: ignore[call-overload]


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


def _shown(row: Agreement) -> dict[str, str]:
    """Return a row as text, by header."""

    def ranks(value: float) -> str:
        return f"{value:+.2f}".replace("-", "−")

    spearman = "–" if row.spearman is None else ranks(row.spearman)
    if row.spearman_low is not None and row.spearman_high is not None:
        spearman += f" [{ranks(row.spearman_low)}, {ranks(row.spearman_high)}]"
    gain = signed(row.gain)
    if row.gain_low is not None:
        gain += f" {interval_text(row.gain_low, row.gain_high, sign=True)}"
    return {
        "judge": row.judge,
        "ranks [95 %]": spearman,
        "best": f"{100 * row.best:.0f} %",
        "near best": "–" if row.near_best is None else f"{100 * row.near_best:.0f} %",
        "regret": f"{row.regret:.1f}",
        "gain [95 %]": gain,
        "tasks × seeds": str(row.n),
    }
