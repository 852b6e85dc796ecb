"""Scores that papers report for the D4RL tasks, shown beside our own.

`published/scores.csv` holds one row per (task, method): mean and standard deviation over training
seeds as printed, the source, and whether the number reached us second-hand (quoted by others, not
read in the paper itself). Rows whose task starts with ``average:`` are the papers' own averages.
Nothing here applies to bundled or local data: a dataset of the same robot is another dataset.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import pandas as pd

__all__ = ["PUBLISHED_METHODS", "PublishedScore", "published_average", "published_scores"]

PUBLISHED_METHODS = ("ReBRAC", "IQL", "MPCwDWM")
_AVERAGE = "average:"
# A paper's average is over its whole suite; it is shown only if our tasks are that suite.
_SUITES = {"gym-mujoco-v2": ("halfcheetah-", "hopper-", "walker2d-"), "antmaze-v2": ("antmaze-",)}


@dataclass(frozen=True)
class PublishedScore:
    """One number from a paper: normalized score, D4RL's scale (0 random, 100 expert)."""

    task: str
    method: str
    mean: float
    std: float | None  # over training seeds; None where the source gives none
    second_hand: bool
    source: str


@cache
def _all_scores() -> tuple[PublishedScore, ...]:
    with (files("analysis.table") / "published" / "scores.csv").open(encoding="utf-8") as file:
        rows = pd.read_csv(file).astype({"std": object})
    rows["std"] = rows["std"].where(rows["std"].notna(), None)
    return tuple(PublishedScore(*row) for row in rows.itertuples(index=False))  # its columns are the fields


def published_scores(task: str) -> list[PublishedScore]:
    """Return what papers report for one D4RL task, in the order of `PUBLISHED_METHODS`."""
    found = [score for score in _all_scores() if score.task == task]
    return sorted(found, key=lambda score: PUBLISHED_METHODS.index(score.method))


def published_average(tasks: Collection[str]) -> list[PublishedScore]:
    """Return the papers' own averages if ``tasks`` is exactly one of their suites, else nothing."""
    for suite, prefixes in _SUITES.items():
        members = {score.task for score in _all_scores() if score.task.startswith(prefixes)}
        if set(tasks) == members:
            return published_scores(_AVERAGE + suite)
    return []
