"""Datasets: transitions in order, with next observation and next action that never cross an episode.

An episode ends at a terminal row, at a timeout row, at the last row of the file, and where the file itself
shows a jump that no flag announces (`next_observations[i]` is not `observations[i + 1]`). A row that is both
terminal and timeout is terminal. From this follow, for row i:

- `next_obs` is the file's `next_observations[i]` where it has them, else `observations[i + 1]` if row i
  does not end its episode. At an episode's end the file's value is not believed if it equals
  `observations[i + 1]`: it is then the state after the reset.
- `next_action` is `actions[i + 1]` if row i does not end its episode.

A timed-out last row thus serves the world and reward models, but not a critic that needs the next action.
"""

import hashlib
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpcwdwm.data.fingerprint import sha256_of
from mpcwdwm.data.hdf5 import Arrays, Flags, Floats, read_arrays
from mpcwdwm.errors import UserError

__all__ = ["Dataset", "continues", "episode_ends", "from_arrays", "read_dataset"]

HELDOUT_FRACTION = 0.05  # of the episodes, never trained on
# Next observation and following observation are the same number unless they were stored in different
# precision; a reset moves a robot by 5e-3 and more.
SAME_OBS = 1e-5  # relative to max(1, |observation|)


@dataclass(frozen=True, eq=False)
class Dataset:
    """N transitions of E whole episodes, as numpy arrays; what is absent is zero and flagged as absent."""

    obs: Floats  # (N, o)
    action: Floats  # (N, a), within [-1, 1]
    reward: Floats  # (N,)
    next_obs: Floats  # (N, o)
    next_action: Floats  # (N, a)
    terminal: Flags  # (N,) the environment ended the episode here
    timeout: Flags  # (N,) the episode ends here without being terminal
    has_next_obs: Flags  # (N,)
    has_next_action: Flags  # (N,)
    episode: NDArray[np.int64]  # (N,) index of the row's episode, 0 … E-1
    sha256: str  # of the file
    path: Path

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name."""
        return {field.name: vars(self)[field.name] for field in fields(self) if field.name not in ("sha256", "path")}

    @property
    def obs_dim(self) -> int:
        """Return the dimension of an observation."""
        return int(self.obs.shape[1])

    @property
    def act_dim(self) -> int:
        """Return the dimension of an action."""
        return int(self.action.shape[1])

    @cached_property
    def returns(self) -> NDArray[np.float64]:
        """Return each episode's undiscounted sum of rewards: (E,)."""
        return np.bincount(self.episode, weights=self.reward).astype(np.float64)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Return each episode's number of rows: (E,)."""
        return np.bincount(self.episode)

    @cached_property
    def time_limit(self) -> int | None:
        """Return the length of the longest episode if it was cut by time; None if it ended before."""
        cut = self.lengths[self.episode[self.timeout]]
        longest = int(self.lengths.max())
        return longest if longest in cut else None

    @cached_property
    def heldout_episodes(self) -> Flags:
        """Return which episodes are held out: (E,), about 5 %, fixed by the file's hash alone."""
        count = len(self.lengths)
        chosen = np.zeros(count, dtype=bool)
        if count >= 2:
            hashes = [hashlib.sha256(f"{self.sha256}/{episode}".encode()).hexdigest() for episode in range(count)]
            chosen[np.argsort(hashes)[: max(1, round(HELDOUT_FRACTION * count))]] = True
        return chosen

    @cached_property
    def heldout(self) -> Flags:
        """Return which rows belong to held-out episodes: (N,)."""
        return self.heldout_episodes[self.episode]

    def heldout_starts(self, steps: int) -> NDArray[np.int64]:
        """Return the held-out rows that begin so many transitions of one episode, the last with a next observation."""
        end = max(0, len(self.reward) - steps + 1)
        last = slice(steps - 1, steps - 1 + end)
        whole = (self.episode[:end] == self.episode[last]) & self.has_next_obs[last]
        return (whole & self.heldout[:end]).nonzero()[0]

    def worst_reward(self, steps: int, discount: float, rows: NDArray[np.int64] | None = None) -> float:
        """Return the lowest discounted mean reward of so many recorded steps in a row.

        A single reward may be an outlier, such as the one of a crash; what lasts is what a state can be worth.

        Args:
            steps: n; the longest episode's length where none is as long.
            discount: γ; the mean is Σ_{k<n} γ^k r_k / Σ_{k<n} γ^k.
            rows: whole episodes, from which they are taken; None: all.
        """
        own = np.arange(len(self.reward)) if rows is None else rows
        steps = min(steps, int(np.bincount(self.episode[own]).max()))
        count = len(self.reward) - steps + 1
        begins = own[own < count]
        begins = begins[self.episode[begins] == self.episode[begins + steps - 1]]
        weights = discount ** np.arange(steps)
        total = np.zeros(len(begins))
        for k, weight in enumerate(weights):
            total += weight * self.reward[begins + k]
        return float(total.min() / weights.sum())


# ── From the file ─────────────────────────────────────────────────────────────


def read_dataset(path: Path | str) -> Dataset:
    """Return the dataset in a file of D4RL's layout (see `mpcwdwm.data.hdf5`).

    Raises:
        UserError: the file or an array in it is unfit, or nothing in it tells where episodes end.
    """
    return from_arrays(read_arrays(path), sha256_of(path), Path(path))


def from_arrays(arrays: Arrays, sha256: str, path: Path) -> Dataset:
    """Return the dataset that these arrays describe; raises UserError as `read_dataset` does."""
    ends = episode_ends(arrays, path)
    rows = len(ends)
    next_action = np.zeros_like(arrays.action)
    next_action[:-1] = arrays.action[1:]
    next_action[ends] = 0
    if arrays.next_obs is None:
        has_next_obs = ~ends
        next_obs = np.zeros_like(arrays.obs)
        next_obs[:-1] = arrays.obs[1:]
    else:
        has_next_obs = ~(ends & continues(arrays))  # at an end, going on means: the state after the reset
        next_obs = arrays.next_obs.copy()
    next_obs[~has_next_obs] = 0
    episode = np.zeros(rows, dtype=np.int64)
    episode[1:] = np.cumsum(ends[:-1])
    return Dataset(
        obs=arrays.obs,
        action=arrays.action,
        reward=arrays.reward,
        next_obs=next_obs,
        next_action=next_action,
        terminal=arrays.terminal,
        timeout=ends & ~arrays.terminal,
        has_next_obs=has_next_obs,
        has_next_action=~ends,
        episode=episode,
        sha256=sha256,
        path=path,
    )


# ── Where episodes end ────────────────────────────────────────────────────────


def continues(arrays: Arrays) -> Flags:
    """Return where `next_observations[i]` (which must be there) is `observations[i + 1]`: (N,), False at the end."""
    assert arrays.next_obs is not None
    following = arrays.obs[1:]
    tolerance = SAME_OBS * np.maximum(1, np.abs(following))
    same = np.zeros(len(arrays.obs), dtype=bool)
    same[:-1] = (np.abs(arrays.next_obs[:-1] - following) <= tolerance).all(axis=1)
    return same


def episode_ends(arrays: Arrays, path: Path) -> Flags:
    """Return where episodes end: (N,), True in the last row.

    Without `timeouts`, ends that are not terminal show only as jumps between `next_observations` and the
    following observation; a file without those either is refused.

    Raises:
        UserError: nothing tells where episodes end, or no row is followed by a row of its own episode, without being
            flagged as an end that has its next observation.
    """
    if arrays.timeout is None and arrays.next_obs is None:
        raise UserError(
            f"dataset '{path}' has neither 'timeouts' nor 'next_observations', so time limits are invisible:"
            " add 'timeouts', 1 in the last row of each episode that is not terminal"
        )
    ends = arrays.marked_ends
    if arrays.timeout is not None and not ends.any():  # jumps may show where they were, but the flags are lost
        raise UserError(
            f"dataset '{path}' has no episode end: 'terminals' and 'timeouts' are all 0;"
            " set 'timeouts' in the last row of each episode that is not terminal"
        )
    if arrays.next_obs is not None:
        ends = ends | ~continues(arrays)
    if not ends[:-1].any() and not arrays.terminal[-1] and arrays.timeout is None:
        raise UserError(
            f"dataset '{path}' has no episode end: 'terminals' is all 0, and no observation jumps;"
            " add 'timeouts', 1 in the last row of each episode that is not terminal"
        )
    ends = np.append(ends[:-1], True)
    if len(ends) > 1 and arrays.marked_ends[:-1].all():
        if arrays.next_obs is None:
            raise UserError(
                f"dataset '{path}': every episode has one step and 'next_observations' is missing, so no state is known"
                " that follows another: add 'next_observations', or give episodes of two steps and more"
            )
        return ends
    if ends.all():
        raise UserError(
            f"dataset '{path}': no row is followed by the next step of its episode;"
            " store the rows in the order in which they were recorded"
        )
    return ends
