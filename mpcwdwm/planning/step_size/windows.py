"""Evidence: stretches of held-out episodes, on which settings of a planner are compared without the environment.

A planner is led along what was recorded and asked at every step what it would have done. What it answers
is judged by `mpcwdwm.planning.step_size.off_policy`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpcwdwm.data import Dataset
from mpcwdwm.errors import UserError
from mpcwdwm.planning.parts import Parts
from mpcwdwm.random import generator

__all__ = ["LENGTH", "WINDOWS", "Acting", "Windows", "actions_along", "heldout_windows", "pretrained_actions"]

WINDOWS = 24  # stretches per member: with the length, a tenth of the steps of an evaluation of ten episodes
LENGTH = 32  # steps of a stretch; over them a ψ that is carried over drifts, which is to be seen


class Acting(Protocol):
    """What is asked of a planner here."""

    def rewind(self) -> None:
        """Begin again, with the same noise."""
        ...

    def act(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, obs_dim) → actions (N, act_dim) first; the next call may overwrite them."""
        ...


@dataclass(frozen=True)
class Windows:
    """W stretches of L recorded steps for each of S members, N = S · W rows, a member's beside each other.

    The unit of rewards and returns is the critic's. An episode that a time limit cut is continued by the
    critic's value of the pretrained policy at its last observation; without a critic it ends there.
    """

    obs: Tensor  # (N, L, obs_dim)
    action: Tensor  # (N, L, act_dim)
    reward: Tensor  # (N, L)
    mask: Tensor  # (N, L): 0 where the environment ended the episode, else 1
    returns: Tensor  # (N, L), float64: discounted return of the recorded episode from here on
    episode: Tensor  # (N,): the stretch's episode in the dataset
    members: int

    @property
    def per_member(self) -> int:
        """Return W."""
        return len(self.obs) // self.members

    def by_member(self, x: Tensor) -> Tensor:  # (N, L, …) → (S, W · L, …)
        """Return a member's steps beside each other."""
        return x.reshape(self.members, -1, *x.shape[2:])


def heldout_windows(parts: Parts, seeds: Sequence[int], *, count: int = WINDOWS, length: int = LENGTH) -> Windows:
    """Draw every member's stretches from the dataset's held-out episodes, without overlap.

    Episodes are cut into stretches from their end, so that a stretch of every failure ends with it. There are
    fewer stretches where the held-out episodes do not have as many, and shorter ones where no episode is as long.

    Args:
        parts: with their dataset; a critic that learnt from the held-out episodes, too, has seen the evidence.
        seeds: one per member; its stretches follow from its seed alone.
        count: W, per member.
        length: L.

    Raises:
        UserError: no dataset, or no held-out episode in it.
    """
    dataset = parts.dataset
    if dataset is None:
        raise UserError("step_size: auto is judged on held-out episodes of the dataset: set parts.dataset")
    if not dataset.heldout.any():
        raise UserError(
            f"dataset '{dataset.path}' has no held-out episode to judge step sizes on: "
            "give a dataset of 2 episodes or more, or a number as step_size"
        )
    length = min(length, int(dataset.lengths[dataset.heldout_episodes].max()))
    starts = _stretches(dataset, length)
    picked = torch.stack(
        [starts[torch.randperm(len(starts), generator=generator(seed, "judge"))[:count]] for seed in seeds]
    )  # (S, W)
    rows = picked.unsqueeze(-1) + torch.arange(length)  # (S, W, L)
    members = torch.arange(len(seeds)).view(-1, 1, 1)
    reward, returns = _rewards_and_returns(parts, dataset)  # (S, rows of the dataset)
    dtype = next(iter(parts.policy.initial(1).values())).dtype

    def gathered(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values)[rows].flatten(0, 1).to(parts.device, dtype)

    return Windows(
        obs=gathered(dataset.obs),
        action=gathered(dataset.action),
        reward=reward[members, rows].flatten(0, 1).to(parts.device, dtype),
        mask=1 - gathered(dataset.terminal),
        returns=returns[members, rows].flatten(0, 1).to(parts.device),
        episode=torch.from_numpy(dataset.episode)[picked].flatten().to(parts.device),
        members=len(seeds),
    )


def actions_along(planner_factory: Callable[[int], Acting], windows: Windows) -> Tensor:
    """Return what a planner would do at every recorded observation, met in order: (N, L, act_dim).

    A planner that keeps something from step to step carries it along its stretch; one that does not
    answers every observation alone.

    Args:
        planner_factory: rows per member → the planner.
        windows: the stretches.
    """
    planner = planner_factory(windows.per_member)
    planner.rewind()
    return torch.stack([planner.act(obs)[0].detach().clone() for obs in windows.obs.unbind(1)], 1)


@torch.no_grad()
def pretrained_actions(parts: Parts, windows: Windows) -> Tensor:
    """Return what the pretrained policy does at every recorded observation, (N, L, act_dim)."""
    action = parts.policy(parts.policy.initial(1), windows.by_member(windows.obs))
    return action.reshape(*windows.obs.shape[:2], -1)


# ----------------------------------------------------------------------------------- from the dataset


def _stretches(dataset: Dataset, length: int) -> Tensor:
    """Return the first rows of all stretches of so many steps into which held-out episodes fall."""
    ends = np.cumsum(dataset.lengths)  # one behind the last row
    found = [
        end - length * np.arange(1, size // length + 1)
        for end, size, heldout in zip(ends, dataset.lengths, dataset.heldout_episodes, strict=True)
        if heldout
    ]
    return torch.from_numpy(np.sort(np.concatenate(found)))


@torch.no_grad()
def _rewards_and_returns(parts: Parts, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Return each member's reward and discounted return from every row on, (S, rows of the dataset), float64."""
    reward = torch.from_numpy(dataset.reward).double().expand(parts.members, -1)
    if parts.reward_affine is not None:
        affine = parts.reward_affine.double().cpu()
        reward = reward * affine[:, :1] + affine[:, 1:]
    last = torch.from_numpy(np.cumsum(dataset.lengths) - 1)  # (E,)
    cut = last[torch.from_numpy(dataset.timeout)[last]]
    returns = reward.clone()
    if parts.critic is not None and len(cut):
        psi0 = parts.policy.initial(1)
        dtype = next(iter(psi0.values())).dtype
        obs = torch.from_numpy(dataset.obs)[cut].to(parts.device, dtype).expand(parts.members, -1, -1)
        returns[:, cut] = parts.critic(obs, parts.policy(psi0, obs)).amin(1).double().cpu()
    lengths = torch.from_numpy(dataset.lengths)
    for back in range(1, int(lengths.max())):  # all episodes together, from their ends
        row = last[lengths > back] - back
        returns[:, row] = reward[:, row] + parts.discount * returns[:, row + 1]
    return reward, returns
