"""Stretches of held-out episodes on which step sizes are compared without the environment.

A planner acts at every recorded observation, in order; `mpcwdwm.planning.step_size.off_policy` estimates the return of
these actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpcwdwm.data import Dataset
from mpcwdwm.errors import UserError
from mpcwdwm.imagination import WORST_STEPS
from mpcwdwm.planning.parts import Parts
from mpcwdwm.planning.planner import Planner
from mpcwdwm.random import generator

__all__ = ["Extent", "Windows", "actions_along", "heldout_windows", "pretrained_actions"]


@dataclass(frozen=True)
class Extent:
    """Where the data are, and the worst that they know."""

    mean: Tensor  # (obs_dim,) of all recorded states
    std: Tensor  # (obs_dim,)
    lowest: Tensor  # (S,): the reward of the worst recorded steps, in the critic's unit


@dataclass(frozen=True)
class Windows:
    """W stretches of L recorded steps for each of S members, N = S · W rows, a member's beside each other."""

    obs: Tensor  # (N, L, obs_dim)
    action: Tensor  # (N, L, act_dim)
    reward: Tensor  # (N, L), in the critic's unit
    mask: Tensor  # (N, L): 0 where the environment ended the episode, else 1
    episode: Tensor  # (N,): the stretch's episode in the dataset
    members: int
    extent: Extent | None = None  # None: unknown

    @property
    def per_member(self) -> int:
        """Return W."""
        return len(self.obs) // self.members

    def by_member(self, x: Tensor) -> Tensor:  # (N, L, …) → (S, W · L, …)
        """Return a member's steps beside each other."""
        return x.reshape(self.members, -1, *x.shape[2:])


def heldout_windows(parts: Parts, seeds: Sequence[int], count: int, length: int) -> Windows:
    """Draw every member's stretches from the dataset's held-out episodes, without overlap.

    Episodes are cut into stretches from their end, so that a stretch of every failure ends with it. There are
    fewer stretches where the held-out episodes do not have as many, and shorter ones where no episode is as long.

    Args:
        parts: with their dataset; estimates are too high for a critic that learnt from the held-out episodes, too.
        seeds: one per member; its stretches follow from its seed alone.
        count: W, per member, at most.
        length: L, at most.

    Raises:
        UserError: no dataset, or no held-out episode in it.
    """
    dataset = parts.dataset
    if dataset is None:
        raise UserError("step_size: auto compares on held-out episodes of the dataset: set parts.dataset")
    if not dataset.heldout.any():
        raise UserError(
            f"dataset '{dataset.path}' has no held-out episode to compare step sizes on: "
            "give a dataset of 2 episodes or more, or a number as step_size"
        )
    length = min(length, int(dataset.lengths[dataset.heldout_episodes].max()))
    starts = _stretches(dataset, length)
    picked = torch.stack(
        [starts[torch.randperm(len(starts), generator=generator(seed, "judge"))[:count]] for seed in seeds]
    )  # (S, W)
    rows = picked.unsqueeze(-1) + torch.arange(length)  # (S, W, L)
    dtype = next(iter(parts.policy.initial(1).values())).dtype

    def gathered(values: NDArray[Any]) -> Tensor:  # (rows of the dataset, …) → (S, W, L, …)
        return torch.from_numpy(values)[rows]

    def given(values: Tensor) -> Tensor:  # (S, W, …) → (N, …)
        return values.flatten(0, 1).to(parts.device, dtype)

    reward = gathered(dataset.reward).double()
    worst = dataset.worst_reward(WORST_STEPS, parts.discount)
    lowest = torch.full((len(seeds),), worst, dtype=torch.float64)
    if parts.reward_affine is not None:
        scale, shift = parts.reward_affine.double().cpu().unbind(1)
        reward = reward * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
        lowest = lowest * scale + shift
    mean, std = (torch.from_numpy(part).to(parts.device, dtype) for part in _moments(dataset))
    return Windows(
        obs=given(gathered(dataset.obs)),
        action=given(gathered(dataset.action)),
        reward=given(reward),
        mask=1 - given(gathered(dataset.terminal)),
        episode=torch.from_numpy(dataset.episode)[picked].flatten().to(parts.device),
        members=len(seeds),
        extent=Extent(mean, std, lowest.to(parts.device)),
    )


def _moments(dataset: Dataset) -> tuple[NDArray[Any], NDArray[Any]]:
    return dataset.obs.mean(0, dtype=np.float64), dataset.obs.std(0, dtype=np.float64)


def _stretches(dataset: Dataset, length: int) -> Tensor:
    """Return the first rows of all stretches of so many steps into which held-out episodes fall."""
    ends = np.cumsum(dataset.lengths)  # one behind the last row
    found = [
        end - length * np.arange(1, size // length + 1)
        for end, size, heldout in zip(ends, dataset.lengths, dataset.heldout_episodes, strict=True)
        if heldout
    ]
    return torch.from_numpy(np.sort(np.concatenate(found)))


def actions_along(planner: Planner, windows: Windows) -> Tensor:
    """Return a planner's action at every recorded observation, (N, L, act_dim).

    The planner has one row for each stretch; what it keeps from step to step is carried along the stretch.
    """
    planner.rewind()
    return torch.stack([planner.act(obs)[0].detach().clone() for obs in windows.obs.unbind(1)], 1)


@torch.no_grad()
def pretrained_actions(parts: Parts, windows: Windows) -> Tensor:
    """Return the pretrained policy's action at every recorded observation, (N, L, act_dim)."""
    action = parts.policy(parts.policy.initial(1), windows.by_member(windows.obs))
    return action.reshape(*windows.obs.shape[:2], -1)
