"""Audit: what a dataset contains, and which of its rows contradict each other.

The loader already reads a faulty file safely (see `mpcwdwm.data.dataset`); the audit says what it found
and did, so that a user learns of mis-marked time limits before they look like a method's weakness.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mpcwdwm.data.dataset import Dataset, continues
from mpcwdwm.data.hdf5 import Arrays, Flags, read_arrays
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
    """The findings; `render` gives them as text."""

    path: Path
    sha256: str
    rows: int
    obs_dim: int
    act_dim: int
    episodes: int
    terminal_ends: int
    timeout_ends: int  # ends that are not terminal, the file's last row included
    unfinished: bool  # the file ends in the middle of an episode
    stores_next_obs: bool
    returns: Spread
    normalized: Spread | None  # returns on D4RL's scale, where there is a reference
    lengths: Spread
    reward: Spread  # per row
    heldout_episodes: int
    heldout_rows: int
    model_rows: int  # with a next observation: world model, reward
    critic_rows: int  # terminal, or with a next action: ReBRAC
    repeated_rows: int  # same observation, action and reward as an earlier row
    faults: tuple[Fault, ...]

    def render(self) -> str:
        """Return the findings as lines of text."""
        source = "as stored" if self.stores_next_obs else "the following row"
        lines = [
            f"{self.path}",
            f"  sha256            {self.sha256}",
            f"  transitions       {self.rows:,} (observation {self.obs_dim}, action {self.act_dim})",
            f"  episodes          {self.episodes:,}: {self.terminal_ends:,} end terminal,"
            f" {self.timeout_ends:,} otherwise" + (", the last is unfinished" if self.unfinished else ""),
            f"  episode return    {self.returns}",
        ]
        if self.normalized is not None:
            lines.append(f"  normalized return {self.normalized}")
        lines += [
            f"  episode length    {self.lengths}",
            f"  reward            mean {self.reward.mean:.3f}, from {self.reward.low:.3f} to {self.reward.high:.3f}",
            f"  next observation  {source}",
            f"  usable rows       {self.model_rows:,} with a next observation, {self.critic_rows:,} for critics",
            f"  repeated rows     {self.repeated_rows:,}",
            f"  held out          {self.heldout_episodes:,} episodes, {self.heldout_rows:,} transitions",
        ]
        if not self.faults:
            return "\n".join([*lines, "  faults            none found"])
        lines.append("  faults")
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
    marked = arrays.terminal | (arrays.timeout if arrays.timeout is not None else False)
    return Audit(
        path=dataset.path,
        sha256=dataset.sha256,
        rows=len(dataset.obs),
        obs_dim=dataset.obs_dim,
        act_dim=dataset.act_dim,
        episodes=len(dataset.lengths),
        terminal_ends=int(dataset.terminal.sum()),
        timeout_ends=int(dataset.timeout.sum()),
        unfinished=not bool(marked[-1]),
        stores_next_obs=arrays.next_obs is not None,
        returns=Spread.of(dataset.returns),
        normalized=None if scores is None else Spread.of(scores),
        lengths=Spread.of(dataset.lengths),
        reward=Spread.of(dataset.reward),
        heldout_episodes=int(dataset.heldout_episodes.sum()),
        heldout_rows=int(dataset.heldout.sum()),
        model_rows=int(dataset.has_next_obs.sum()),
        critic_rows=int((dataset.has_next_action | dataset.terminal).sum()),
        repeated_rows=_repeated_rows(arrays),
        faults=tuple(_faults(dataset, arrays, task)),
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
        marked = arrays.terminal | (arrays.timeout if arrays.timeout is not None else False)
        leaks = marked & same
        leak_what = "marked end whose next observation is the following row's observation"
        found.append(_fault(leak_what, leaks, "its next observation is not used"))
        jumps = ~marked & ~same
        jumps[-1] = False  # the end of the file is no jump
        treatment = "taken as the end of an episode"
        if arrays.timeout is not None:
            found.append(_fault("jump to another observation without a marked end", jumps, treatment))
        else:
            found.append(_fault("end known only from a jump ('timeouts' is missing)", jumps, treatment))
    return found


def _termination_faults(dataset: Dataset, rule: str) -> list[Fault]:
    """Return where terminal flags disagree with the environment's rule, on rows with a next observation."""
    import torch  # only needed here

    from mpcwdwm.envs.termination import RULES

    fallen = RULES[rule](torch.from_numpy(dataset.next_obs)).numpy() & dataset.has_next_obs
    upright = ~fallen & dataset.has_next_obs
    return [
        _fault(f"row not terminal though '{rule}' ends there", fallen & ~dataset.terminal, "kept as flagged"),
        _fault(f"row terminal though '{rule}' goes on there", upright & dataset.terminal, "kept as flagged"),
    ]


def _repeated_rows(arrays: Arrays) -> int:
    """Return how many rows repeat observation, action and reward of an earlier one."""
    table = np.ascontiguousarray(np.column_stack([arrays.obs, arrays.action, arrays.reward]))
    as_bytes = table.view(np.dtype((np.void, table.dtype.itemsize * table.shape[1])))
    return len(table) - len(np.unique(as_bytes))
