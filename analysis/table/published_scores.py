"""Scores that papers report for the D4RL tasks, shown beside our own.

`published/scores.csv` holds one row per (task, method): mean and standard deviation over training
seeds as printed, the source, and whether the number reached us second-hand (quoted by others, not
read in the paper itself). Rows whose task starts with ``average:`` are the papers' own averages.
Nothing here applies to bundled or local data: a dataset of the same robot is another dataset.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import pandas as pd

from mpcwdwm.errors import UserError, did_you_mean

__all__ = [
    "PAPERS",
    "PUBLISHED_METHODS",
    "PublishedScore",
    "methods_named",
    "published_average",
    "published_scores",
]

PUBLISHED_METHODS = ("ReBRAC", "IQL", "MPCwDWM")  # shown unless others are asked for
PAPERS = ("TD3+BC", "IQL", "CQL", "SAC-RND", "ReBRAC", "DT", "TT", "MOPO", "MOReL", "MBOP", "Diffuser", "MPCwDWM")
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


def published_scores(task: str, methods: Sequence[str] = PUBLISHED_METHODS) -> list[PublishedScore]:
    """Return what papers report for one D4RL task, in the order of ``methods``."""
    found = [score for score in _all_scores() if score.task == task and score.method in methods]
    return sorted(found, key=lambda score: methods.index(score.method))


def published_average(tasks: Collection[str]) -> list[PublishedScore]:
    """Return the papers' own averages if ``tasks`` is exactly one of their suites, else nothing."""
    for suite, prefixes in _SUITES.items():
        members = {score.task for score in _all_scores() if score.task.startswith(prefixes)}
        if set(tasks) == members:
            return published_scores(_AVERAGE + suite, PAPERS)
    return []


def methods_named(text: str) -> tuple[str, ...]:
    """Return the methods that "all", "none" or a list with commas names, in any case.

    Raises:
        UserError: one of them is none of `PAPERS`.
    """
    known = {method.lower(): method for method in PAPERS}
    names = [name.strip() for name in text.split(",") if name.strip()]
    if [name.lower() for name in names] in (["all"], ["none"]):
        return PAPERS if names[0].lower() == "all" else ()
    for name in names:
        if name.lower() not in known:
            raise UserError(
                f"--published: there are no scores of '{name}'{did_you_mean(name, PAPERS)}; "
                f"known are {', '.join(PAPERS)}, all and none"
            )
    return tuple(known[name.lower()] for name in names)
