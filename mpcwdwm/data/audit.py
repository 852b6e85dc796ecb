"""Audit: what a dataset contains, and which of its rows contradict each other.

The loader reads a faulty file safely (see `mpcwdwm.data.dataset`); the audit reports what it found and did, because a
mis-marked time limit would otherwise look like a weakness of a method.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpcwdwm.data.dataset import Dataset, continues
from mpcwdwm.data.ends import JUMP, Ends, ends_of
from mpcwdwm.data.hdf5 import Arrays, Flags, read_arrays
from mpcwdwm.data.recognised import Extent, unlike_the_original
from mpcwdwm.data.scores import normalized_score
from mpcwdwm.data.tasks import Task

__all__ = ["Audit", "Fault", "Spread", "audit", "doubts"]

SHOWN_ROWS = 5  # of each fault, enough to look them up
TINY = 0.01  # a standard deviation beside which the 0.001 that normalisers add to it counts: 10 % and more
ROUNDING = 1e-6  # relative spread of numbers that are constant but for rounding
FEW = 0.01  # of the episodes: so few contradictions, of rounding at a rule's bounds, are no doubt about a file
BY_RULE = "kept as flagged (a sweep reads by the rule with terminals: rule)"
UNCOMPARED = "not compared: no termination rule is known (--env ID names the environment)"
AT_JUMPS = "not taken as an end (a sweep does with ends: jumps)"


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation, least and greatest of one number per episode."""

    mean: float
    std: float
    low: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.floating] | NDArray[np.integer]) -> "Spread":
        """Return the spread of at least one value."""
        return cls(float(values.mean()), float(values.std()), float(values.min()), float(values.max()))

    def __str__(self) -> str:
        numbers = (self.mean, self.std, self.low, self.high)
        largest = max(map(abs, numbers))
        mean, std, low, high = (f"{value:.1f}" if largest >= 1 else f"{value:.3g}" for value in numbers)
        return f"mean {mean}, sd {std}, {low} to {high}"


@dataclass(frozen=True)
class Fault:
    """Rows (or episodes, or columns) of one kind that contradict the layout, and what the loader makes of them."""

    what: str
    count: int
    first: tuple[int, ...]  # the first few rows
    treatment: str


@dataclass(frozen=True)
class Audit:
    """What was found; `render` gives it as text, beside what the dataset itself says."""

    dataset: Dataset
    normalized: Spread | None  # episode returns on D4RL's scale, where there is a reference
    unfinished: bool  # the file ends in the middle of an episode
    stores_next_obs: bool
    repeated_rows: int  # same observation, action and reward as an earlier row
    faults: tuple[Fault, ...]
    rule: str | None  # with which terminals were compared
    unlike: str | None  # why the file is not the registered one, though under its name

    def render(self) -> str:
        """Return the findings as lines of text."""
        data, reward = self.dataset, Spread.of(self.dataset.reward)
        for_critics = (data.has_next_action | data.terminal).sum()  # ReBRAC's; models need a next observation
        unfinished = ", the last is unfinished" if self.unfinished else ""
        lines = [
            f"{data.path}",
            f"  sha256            {data.sha256}",
            *([f"  registered        not D4RL's file: {self.unlike}"] if self.unlike else []),
            f"  transitions       {len(data.obs):,} (observation {data.obs_dim}, action {data.act_dim})",
            f"  episodes          {len(data.lengths):,}: {data.terminal.sum():,} end terminal,"
            f" {data.timeout.sum():,} otherwise{unfinished}",
            f"  episode return    {Spread.of(data.returns)}",
            *([f"  normalized return {self.normalized}"] if self.normalized else []),
            f"  episode length    {Spread.of(data.lengths)}",
            f"  reward            mean {reward.mean:.4g}, from {reward.low:.4g} to {reward.high:.4g}",
            f"  next observation  {'as stored' if self.stores_next_obs else 'the following row'}",
            f"  usable rows       {data.has_next_obs.sum():,} with a next observation, {for_critics:,} for critics",
            f"  repeated rows     {self.repeated_rows:,}",
            f"  held out          {data.heldout_episodes.sum():,} episodes, {data.heldout.sum():,} transitions",
            f"  terminals         {f'compared with the rule of {self.rule}' if self.rule else UNCOMPARED}",
            "  faults" if self.faults else "  faults            none found",
        ]
        for fault in self.faults:
            first = ", ".join(str(row) for row in fault.first)
            lines.append(f"    {fault.count:,} × {fault.what} (first: {first}): {fault.treatment}")
        return "\n".join(lines)


def audit(dataset: Dataset, task: Task | None = None) -> Audit:
    """Return what the dataset contains and the faults in its file.

    With a task, returns are also given on D4RL's scale, and lengths and terminal flags are compared with
    the environment's time limit and termination rule, where these are known.

    Raises:
        UserError: the file has vanished or become unreadable since it was read.
    """
    arrays = read_arrays(dataset.path)
    scores = normalized_score(dataset.returns, task.reference) if task else None
    return Audit(
        dataset=dataset,
        normalized=None if scores is None else Spread.of(scores),
        unfinished=not arrays.marked_ends[-1],
        stores_next_obs=arrays.next_obs is not None,
        repeated_rows=_repeated_rows(arrays),
        faults=tuple(_faults(dataset, arrays, task)),
        rule=task.termination if task else None,
        unlike=unlike_the_original(task, Extent.of(dataset)) if task else None,
    )


def doubts(dataset: Dataset, rule: str | None) -> list[str]:
    """Return what a sweep has to say of a dataset, a line each: ends that contradict each other, tiny observations.

    Contradictions in a few episodes are left out.

    Raises:
        UserError: as `audit`.
    """
    arrays = read_arrays(dataset.path)
    shown = ends_of(arrays, rule)
    found = [*_jump_faults(arrays, shown), *_rule_faults(dataset, shown, rule)]
    many = [fault for fault in found if fault.count > FEW * len(dataset.lengths)] + _scale_faults(dataset)
    return [f"{fault.count:,} × {fault.what}: {fault.treatment}" for fault in many]


# ── Faults ────────────────────────────────────────────────────────────────────


def _faults(dataset: Dataset, arrays: Arrays, task: Task | None) -> list[Fault]:
    """Return the kinds of fault of which there is at least one row."""
    rule = task.termination if task else None
    shown = ends_of(arrays, rule)
    found = [*_boundary_faults(arrays), *_jump_faults(arrays, shown), *_rule_faults(dataset, shown, rule)]
    found += _scale_faults(dataset)
    if task is not None:
        too_long = dataset.lengths > task.max_episode_steps
        last = np.zeros(len(dataset.obs), dtype=bool)
        last[np.flatnonzero(dataset.terminal | dataset.timeout)[too_long]] = True
        found.append(
            _fault(f"episode longer than {task.max_episode_steps} steps, an end may be unmarked", last, "kept")
        )
    return [fault for fault in found if fault.count]


def _fault(what: str, rows: Flags, treatment: str) -> Fault:
    """Return the fault that these rows share."""
    where = np.flatnonzero(rows)
    return Fault(what, len(where), tuple(int(row) for row in where[:SHOWN_ROWS]), treatment)


def _boundary_faults(arrays: Arrays) -> list[Fault]:
    """Return what is wrong at the ends of episodes."""
    found = []
    if arrays.timeout is not None:
        both = arrays.terminal & arrays.timeout
        found.append(_fault("row both terminal and timeout", both, "taken as terminal"))
    if arrays.next_obs is not None:
        same = continues(arrays)
        leak = "marked end whose next observation is the following row's observation"
        found.append(_fault(leak, arrays.marked_ends & same, "its next observation is not used"))
        jumps = ~arrays.marked_ends & ~same
        jumps[-1] = False  # the end of the file is no jump
        known = "jump to another observation without a marked end"
        jump = known if arrays.timeout is not None else "end known only from a jump ('timeouts' is missing)"
        found.append(_fault(jump, jumps, "taken as the end of an episode"))
    return found


def _jump_faults(arrays: Arrays, shown: Ends) -> list[Fault]:
    """Return where the observation jumps though the row is no end; stored next observations show it exactly."""
    if arrays.next_obs is not None:
        return []
    what = f"jump of the observation without a marked end (above {JUMP:g} × the 99th percentile of a linear prediction)"
    return [_fault(what, shown.jump, AT_JUMPS)]


def _rule_faults(dataset: Dataset, shown: Ends, rule: str | None) -> list[Fault]:
    """Return where terminal flags disagree with the robot's rule, and where they cannot be compared."""
    if rule is None:
        return []
    found = []
    for rows, how in ((~shown.predicted, ""), (shown.predicted, " (the next observation is predicted)")):
        fallen, upright = shown.fallen & rows, shown.compared & ~shown.fallen & rows
        found.append(_fault(f"row not terminal though '{rule}' ends there{how}", fallen & ~dataset.terminal, BY_RULE))
        found.append(
            _fault(f"row terminal though '{rule}' does not end there{how}", upright & dataset.terminal, BY_RULE)
        )
    unknown = ~shown.compared & (dataset.terminal | dataset.timeout)
    found.append(_fault(f"end that cannot be compared with '{rule}': no next observation", unknown, "kept as flagged"))
    return found


def _scale_faults(dataset: Dataset) -> list[Fault]:
    """Return the columns of observations that vary so little that networks would hardly see them."""
    spread = dataset.obs.std(0, dtype=np.float64)
    constant = spread <= ROUNDING * np.abs(dataset.obs).max(0)
    tiny = (spread < TINY) & ~constant
    if not tiny.any():
        return []
    what = f"column of the observation with a standard deviation below {TINY:g}"
    return [_fault(what, tiny, "standardised by it + 0.001, so it counts less; give it another unit")]


def _repeated_rows(arrays: Arrays) -> int:
    """Return how many rows repeat observation, action and reward of an earlier one."""
    table = np.ascontiguousarray(np.column_stack([arrays.obs, arrays.action, arrays.reward]))
    as_bytes = table.view(np.dtype((np.void, table.dtype.itemsize * table.shape[1])))
    return len(table) - len(np.unique(as_bytes))
