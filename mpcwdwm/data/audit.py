"""Audit: what a dataset contains, and which of its rows contradict each other.

The loader reads a faulty file safely (see `mpcwdwm.data.dataset`); the audit reports what it found and did, because a
mis-marked time limit would otherwise look like a weakness of a method.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpcwdwm.data.dataset import Dataset, continues
from mpcwdwm.data.hdf5 import Arrays, Flags, read_arrays
from mpcwdwm.data.recognised import Extent, unlike_the_original
from mpcwdwm.data.scores import normalized_score
from mpcwdwm.data.tasks import Task

__all__ = ["Audit", "Fault", "Spread", "audit"]

SHOWN_ROWS = 5  # of each fault, enough to look them up


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
        return f"mean {self.mean:.1f}, sd {self.std:.1f}, {self.low:.1f} to {self.high:.1f}"


@dataclass(frozen=True)
class Fault:
    """Rows (or episodes) of one kind that contradict the layout, and what the loader makes of them."""

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
            f"  reward            mean {reward.mean:.3f}, from {reward.low:.3f} to {reward.high:.3f}",
            f"  next observation  {'as stored' if self.stores_next_obs else 'the following row'}",
            f"  usable rows       {data.has_next_obs.sum():,} with a next observation, {for_critics:,} for critics",
            f"  repeated rows     {self.repeated_rows:,}",
            f"  held out          {data.heldout_episodes.sum():,} episodes, {data.heldout.sum():,} transitions",
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
        unlike=unlike_the_original(task, Extent.of(dataset)) if task else None,
    )


# ── Faults ────────────────────────────────────────────────────────────────────


def _faults(dataset: Dataset, arrays: Arrays, task: Task | None) -> list[Fault]:
    """Return the kinds of fault of which there is at least one row."""
    found = _boundary_faults(arrays)
    if task is not None:
        too_long = dataset.lengths > task.max_episode_steps
        last = np.zeros(len(dataset.obs), dtype=bool)
        last[np.flatnonzero(dataset.terminal | dataset.timeout)[too_long]] = True
        found.append(
            _fault(f"episode longer than {task.max_episode_steps} steps, an end may be unmarked", last, "kept")
        )
        if task.termination is not None:
            found += _termination_faults(dataset, task.termination)
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


def _termination_faults(dataset: Dataset, rule: str) -> list[Fault]:
    """Return where terminal flags disagree with the environment's rule, on rows with a next observation."""
    import torch  # only needed here

    from mpcwdwm.envs.termination import RULES

    fallen = RULES[rule](torch.from_numpy(dataset.next_obs)).numpy() & dataset.has_next_obs
    upright = ~fallen & dataset.has_next_obs
    return [
        _fault(f"row not terminal though '{rule}' ends there", fallen & ~dataset.terminal, "kept as flagged"),
        _fault(f"row terminal though '{rule}' does not end there", upright & dataset.terminal, "kept as flagged"),
    ]


def _repeated_rows(arrays: Arrays) -> int:
    """Return how many rows repeat observation, action and reward of an earlier one."""
    table = np.ascontiguousarray(np.column_stack([arrays.obs, arrays.action, arrays.reward]))
    as_bytes = table.view(np.dtype((np.void, table.dtype.itemsize * table.shape[1])))
    return len(table) - len(np.unique(as_bytes))
