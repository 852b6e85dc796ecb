"""From a long frame to groups: the values of each task and training seed, and what is missing there.

Every statistic groups by everything but the training seed (and episode), unless told otherwise. A task is a stratum: of
a group that holds several, each weighs the same. What still differs within a task and seed is refused, not pooled.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.frames import GROUPING, IDENTITY, SETTINGS, Runs
from analysis.rendering import seeds_text
from analysis.statistics.bootstrap import Resampling, resampled, resampled_with_episodes
from analysis.statistics.evidence import OUTCOMES, Evidence
from analysis.statistics.intervals import MIN_SEEDS, Interval
from mpcwdwm.errors import UserError, did_you_mean

__all__ = [
    "DESIGN",
    "Sample",
    "as_list",
    "check_options",
    "ends",
    "named",
    "require",
    "rows_of",
    "samples",
    "select_rows",
]

# What is chosen before an evaluation; the columns by which statistics group, where a frame has them.
DESIGN = tuple(name for name in dict.fromkeys((*IDENTITY, *GROUPING, *SETTINGS)) if name not in ("key", "seed"))
SCOPE = ("sweep", "role")  # a sweep or role need not have the tasks and seeds of another
EPISODE = ("env_seed", "episode")  # columns that tell the episodes of a cell apart, the better one first

Values = NDArray[np.float64]
Of = Literal["scores", "successes", "differences"]


@dataclass(frozen=True)
class Sample:
    """The values of one group.

    Attributes:
        columns: by which was grouped → the group's value.
        tasks: task → training seed → (episodes,) values in rising order of the environment seed; one value of a cell.
        of: what the values are, as in `Evidence`.
        starts_shared: whether the seeds of each task play from the same starting states.
        lacking: the tasks and seeds that other groups of the frame have and this one has not; empty if there are none.
        is_whole: whether every task is there, so that an estimate is of what it is called.
    """

    columns: Mapping[str, object]
    tasks: Mapping[str, Mapping[int, Values]]
    of: Of
    starts_shared: bool
    lacking: str
    is_whole: bool

    @property
    def evidence(self) -> Evidence:
        """The values as evidence of a mean."""
        return Evidence(tuple(self.tasks.values()), self.of, self.starts_shared)

    @property
    def seed_means(self) -> list[Values]:
        """The means over episodes, (seeds,) of each task."""
        return [np.array([values.mean() for values in task.values()]) for task in self.tasks.values()]

    @property
    def has_enough_seeds(self) -> bool:
        """Whether every task has the three seeds that an interval over new training seeds takes."""
        return self.is_whole and all(len(task) >= MIN_SEEDS for task in self.tasks.values())

    def draws(self, kind: Resampling | None, rng: np.random.Generator, resamples: int) -> list[Values]:
        """Return (resamples, seeds) drawn run scores of each task; None: as `resampling`."""
        if (kind or self.resampling) == "bootstrap":
            return resampled(self.seed_means, rng, resamples)
        return resampled_with_episodes(list(self.tasks.values()), rng, resamples, starts_shared=self.starts_shared)

    @property
    def resampling(self) -> Resampling:
        """What is drawn unless told: seeds and episodes, or seeds alone where a run has one value."""
        has_episodes = any(len(values) > 1 for task in self.tasks.values() for values in task.values())
        return "hierarchical" if has_episodes else "bootstrap"

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of tasks, of training seeds (of the task with the fewest), and of values in all."""
        seeds = [len(task) for task in self.tasks.values()]
        values = sum(len(own) for task in self.tasks.values() for own in task.values())
        return {"tasks": len(seeds), "seeds": min(seeds, default=0), "episodes": values}


def check_options(what: str, level: float, draws: int = 1) -> None:
    """Raise UserError for a level outside (0, 1), or fewer than one draw."""
    if not 0 < level < 1:
        raise UserError(f"{what}: level={level} must lie between 0 and 1, as in 0.95")
    if draws < 1:
        raise UserError(f"{what}: it takes one draw at least, not {draws}")


def rows_of(run_or_frame: Runs | pd.DataFrame) -> pd.DataFrame:
    """Return the frame itself; of loaded runs their episodes, and a row without a score for each cell that has none."""
    if isinstance(run_or_frame, pd.DataFrame):
        return run_or_frame
    cells, episodes = run_or_frame.cells, run_or_frame.episodes
    labels = [name for name in ("key", "seed", *DESIGN, "score_unit") if name in cells]
    own = episodes[[name for name in episodes if name == "key" or name not in labels]]
    return cells[labels].merge(own, on="key", how="left")


def select_rows(frame: pd.DataFrame, where: str | Mapping[str, object], *, what: str) -> "pd.Series[bool]":
    """Return which rows are meant: those of a method, or those with the given values in the named columns.

    Raises:
        UserError: there are none.
    """
    conditions = {"method": where} if isinstance(where, str) else dict(where)
    require(frame, conditions, what)
    chosen = pd.Series(True, index=frame.index)
    for name, value in conditions.items():
        chosen &= frame[name] == value
    if chosen.all():
        raise UserError(f"{what}: all rows have {_said(conditions)}: nothing else is there to compare with it")
    if not chosen.any():
        hint = did_you_mean(where, map(str, frame["method"].unique())) if isinstance(where, str) else ""
        raise UserError(f"{what}: no row has {_said(conditions)}{hint}")
    return chosen


def samples(
    frame: pd.DataFrame,
    value: str,
    by: Sequence[str] | str | None = None,
    over: Sequence[str] | str = (),
    *,
    what: str,
    strict: bool = False,
) -> list[Sample]:
    """Return the groups of a frame in order of their first appearance.

    Args:
        frame: a row per episode, or per cell; rows without a value are lacking.
        value: its column.
        by: columns to group by; None: those of `DESIGN` that the frame has.
        over: columns over whose values is averaged first, within each task, seed and episode.
        what: the statistic, for messages.
        strict: whether to refuse groups that lack tasks or seeds.

    Raises:
        UserError: a column is not there; the rows of one group, task and seed are of several cells, or in several
            units; or something is lacking and ``strict``.
    """
    over = as_list(over)
    columns = [name for name in DESIGN if name in frame and name not in over] if by is None else as_list(by)
    episode = next((name for name in EPISODE if name in frame), None)
    require(frame, [value, "seed", *columns, *over], what)
    rows = frame if "task" in frame else frame.assign(task="")
    if not pd.api.types.is_numeric_dtype(rows[value]):
        raise UserError(f"{what}: the column '{value}' does not hold numbers")
    if np.isinf(rows[value].astype(float)).any():
        raise UserError(f"{what}: the column '{value}' holds infinite values: filter the frame")
    if rows["seed"].isna().any():
        raise UserError(f"{what}: {int(rows['seed'].isna().sum())} rows have no seed: filter the frame")
    rows = rows.assign(value=rows[value].astype(float), outcome=_are_outcomes(rows, value)).reset_index(drop=True)
    unit = ["task", "seed", *([episode] if episode else [])]
    if over:
        rows = _averaged(rows, list(dict.fromkeys([*columns, *unit])), over, what)
    rows["group"] = _numbered(rows, columns)
    there = rows[rows["value"].notna()]
    if not len(there):
        raise UserError(f"{what}: no row has a value in '{value}'")
    _refuse_pooling(there, ["group", *unit], what)
    outcomes: Of = "differences" if value == "gain" else "successes"
    gathered = _gathered(there, episode)
    expected = _Expected(rows, columns)
    found = []
    for number, labels in enumerate(rows.drop_duplicates("group")[columns].to_dict("records")):
        tasks, are_outcomes, starts_shared = gathered.get(number, ({}, False, False))
        lacking, is_whole = expected.lacking(labels, tasks)
        of: Of = outcomes if are_outcomes else "scores"
        own = {str(name): label for name, label in labels.items()}
        found.append(Sample(own, tasks, of, starts_shared, lacking, is_whole))
    if strict and (short := next((sample for sample in found if sample.lacking), None)):
        raise UserError(f"{what}: {_said(short.columns)} lacks {short.lacking}; strict=False shows it instead")
    return found


def named(vs: str | Mapping[str, object] | None) -> str:
    """Return in words what a method is compared with."""
    if vs is None:
        return "base"
    return vs if isinstance(vs, str) else _said(vs)


def ends(interval: Interval | None, prefix: str = "") -> dict[str, float]:
    """Return the columns "low" and "high" of an interval, behind a prefix; nan without an interval."""
    low, high = interval or (np.nan, np.nan)
    return {f"{prefix}low": low, f"{prefix}high": high}


# ---- the values of groups -----------------------------------------------------------------------


def _are_outcomes(rows: pd.DataFrame, value: str) -> "pd.Series[bool]":
    """Return which rows are of episodes that fail or succeed; of a gain, both methods' episodes."""
    if value not in ("score", "gain") or "score" not in rows or not any(name in rows for name in EPISODE):
        return pd.Series(False, index=rows.index)
    found = rows["score"].isin(OUTCOMES)
    if value == "gain":
        found &= (rows["score"] - rows["gain"]).isin(OUTCOMES)
    return found & (rows["score_unit"] == "normalized") if "score_unit" in rows else found


def _averaged(rows: pd.DataFrame, keys: list[str], over: Sequence[str], what: str) -> pd.DataFrame:
    """Return a row for each value of ``keys``: the mean over settings, of which every seed must have all."""
    _refuse_pooling(rows[rows["value"].notna()], [*keys, *over], what)
    grouped = rows.groupby(keys, dropna=False, sort=False, observed=True)["value"]
    table = grouped.agg(["mean", "count", "size"]).reset_index()
    if table["count"].min() < table["size"].max():
        raise UserError(
            f"{what}: over={list(over)} would average over {table['count'].min()} settings in one place and over "
            f"{table['size'].max()} in another: filter the frame so that all have the same"
        )
    return table.rename(columns={"mean": "value"}).assign(outcome=False)


def _numbered(rows: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of each row's group, in order of first appearance."""
    if not columns:
        return np.zeros(len(rows), dtype=np.int64)
    numbers = rows.groupby(list(columns), dropna=False, sort=False, observed=True).ngroup()
    return np.asarray(numbers, dtype=np.int64)


def _refuse_pooling(rows: pd.DataFrame, keys: list[str], what: str) -> None:
    """Raise UserError if several rows have the same keys, or a group has scores in two units."""
    if rows.duplicated(keys).any():
        groups = rows.groupby(keys, dropna=False, sort=False, observed=True)
        own = groups.get_group(next(name for name, size in groups.size().items() if size > 1))
        differ = [name for name in DESIGN if name in own and own[name].nunique(dropna=False) > 1]
        mend = f"they differ in {', '.join(differ)}: group by it, or name it in over" if differ else "filter the frame"
        where = f"task '{own['task'].iloc[0]}', seed {own['seed'].iloc[0]}"
        raise UserError(f"{what}: a group has several rows for {where}; {mend}")
    if "score_unit" in rows and "group" in keys and rows.groupby("group")["score_unit"].nunique().gt(1).any():
        raise UserError(f"{what}: a group has normalized scores and returns: group by task, or filter by score_unit")


def _gathered(rows: pd.DataFrame, episode: str | None) -> dict[int, tuple[dict[str, dict[int, Values]], bool, bool]]:
    """Return group → (task → seed → values, whether all are outcomes, whether seeds share their starting states)."""
    task, names = pd.factorize(rows["task"])
    start = rows[episode].to_numpy(dtype=np.int64) if episode else np.zeros(len(rows), dtype=np.int64)
    labels = [rows["group"].to_numpy(dtype=np.int64), task.astype(np.int64), rows["seed"].to_numpy(dtype=np.int64)]
    order = np.lexsort((start, *reversed(labels)))
    identity = np.stack(labels)[:, order]  # (3, rows), each (group, task, seed) in one piece
    begins = np.flatnonzero(np.any(np.diff(identity, prepend=-1), axis=0))
    values = np.split(rows["value"].to_numpy()[order], begins[1:])
    starts = np.split(start[order], begins[1:])
    are_outcomes = rows.groupby("group")["outcome"].all()
    gathered: dict[int, tuple[dict[str, dict[int, Values]], bool, bool]] = {}
    shared: dict[tuple[int, int], bytes] = {}
    for own, own_starts, (group, index, seed) in zip(values, starts, identity[:, begins].T.tolist(), strict=True):
        tasks, of_outcomes, starts_shared = gathered.get(group, ({}, bool(are_outcomes[group]), True))
        tasks.setdefault(str(names[index]), {})[seed] = own
        starts_shared &= shared.setdefault((group, index), own_starts.tobytes()) == own_starts.tobytes()
        gathered[group] = (tasks, of_outcomes, starts_shared)
    return gathered


# ---- what is lacking ----------------------------------------------------------------------------


class _Expected:
    """The tasks and seeds that a group should have: those of all groups that may have the same.

    Args:
        rows: of all groups, those without a value included.
        columns: by which is grouped.
    """

    def __init__(self, rows: pd.DataFrame, columns: Sequence[str]) -> None:
        distinct = rows[list(dict.fromkeys(["task", "seed", *columns]))].drop_duplicates()
        pairs = distinct.groupby(["task", "seed"])
        # What task and seed determine (the task, the role on disjoint seeds) says which of them a group can have.
        fixed = [name for name in columns if name in ("task", "seed") or pairs[name].nunique(dropna=False).max() == 1]
        self._scope = list(dict.fromkeys([*fixed, *(name for name in SCOPE if name in columns)]))
        self._seeds: dict[tuple[str, ...], dict[str, set[int]]] = {}
        for row in distinct.to_dict("records"):
            scope = tuple(str(row[name]) for name in self._scope)
            self._seeds.setdefault(scope, {}).setdefault(str(row["task"]), set()).add(int(row["seed"]))

    def lacking(self, labels: Mapping[Hashable, object], tasks: Mapping[str, Mapping[int, Values]]) -> tuple[str, bool]:
        """Return what a group lacks, in words, and whether it has every task."""
        expected = self._seeds[tuple(str(labels[name]) for name in self._scope)]
        parts = [f"task {task}" if len(expected) > 1 else "all seeds" for task in expected if task not in tasks]
        is_whole = not parts
        for task, own in tasks.items():
            if absent := sorted(expected[task] - own.keys()):
                parts.append(f"{task}: {seeds_text(absent)}" if len(expected) > 1 else seeds_text(absent))
        return ", ".join(parts), is_whole


# ---- arguments ----------------------------------------------------------------------------------


def as_list(names: Sequence[str] | str) -> list[str]:
    """Return one name, or several, as a list."""
    return [names] if isinstance(names, str) else list(names)


def require(frame: pd.DataFrame, names: Iterable[str], what: str) -> None:
    """Raise UserError for a column that is not there."""
    for name in names:
        if name not in frame:
            hint = did_you_mean(name, map(str, frame.columns))
            raise UserError(f"{what}: the frame has no column '{name}'{hint}; it has {', '.join(map(str, frame))}")


def _said(conditions: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in conditions.items())
