"""Whether a file under a D4RL name is D4RL's: its size and returns beside what is publicly known of the original.

D4RL publishes no checksums, so a file cannot be told apart by its hash. `tables/recognised.csv` holds, by source,

- ``returns``: rows in finished episodes, mean and greatest return, as printed by Decision Transformer's
  `data/download_d4rl_datasets.py` (github.com/kzl/decision-transformer) from D4RL's files;
- ``sum``: medium-expert is medium followed by expert (D4RL, `scripts/generation/mujoco/stitch_dataset.py`);
- ``generator``: the default `num_samples` of D4RL's `scripts/generation/generate_ant_maze_datasets.py`;
- ``paper``: the number of samples in D4RL's table of tasks (arXiv 2004.07219).

Nothing is known of the other sets (random, full-replay, maze2d-open): any file is taken for theirs.
"""

from dataclasses import dataclass

import numpy as np

from mpcwdwm.data.dataset import Dataset
from mpcwdwm.data.tasks import Task, read_table

__all__ = ["Extent", "unlike_the_original"]

UNFINISHED = 1000  # rows after the last finished episode: less than a time limit
GENERATED = 0.01  # relative; D4RL's generators may drop the end of what they were asked for, its paper rounds
MEAN, MOST = 0.01, 0.001  # relative; the mean depends on how an unfinished episode is counted


@dataclass(frozen=True)
class Extent:
    """How large a dataset is, and what its episodes return."""

    rows: int
    return_mean: float
    return_max: float

    @classmethod
    def of(cls, dataset: Dataset) -> "Extent":
        """Return the extent of a dataset."""
        return cls(len(dataset.reward), float(np.mean(dataset.returns)), float(np.max(dataset.returns)))


_KNOWN = {row["name"]: row for row in read_table("recognised.csv")}


def unlike_the_original(task: Task, found: Extent) -> str | None:
    """Return what shows that a file is not the registered dataset, None if nothing does (or none is registered)."""
    known = _KNOWN.get(task.name) if task.source == "d4rl" else None
    if known is None:
        return None
    rows = int(known["rows"])
    if known["source"] in ("generator", "paper"):
        fits = abs(found.rows - rows) <= GENERATED * rows
    else:
        fits = rows <= found.rows <= rows + UNFINISHED
    if not fits:
        return f"{found.rows:,} transitions instead of {rows:,}"
    for what, value, tolerance in (("mean", found.return_mean, MEAN), ("max", found.return_max, MOST)):
        expected = known[f"return_{what}"]
        if expected and abs(value - float(expected)) > tolerance * abs(float(expected)):
            return f"{what} episode return {value:.1f} instead of {float(expected):.1f}"
    return None
