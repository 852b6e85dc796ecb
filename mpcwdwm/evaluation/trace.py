"""What happens at every step of an evaluation's first episodes: imagined and real return, and the adapted action.

The real return from a step on is Σ_k γ^k r_{t+k} to the end of the episode, in the critic's unit: its discount, and its
scale and shift of rewards. So it compares with the imagined return Ĵ of the step, which ends in a value instead. Where
the time limit cut an episode, what would have come behind it is missing, and the last 1 / (1 − γ) steps fall short.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpcwdwm.evaluation.rollout import Rollout
from mpcwdwm.planning.parts import Parts

__all__ = ["Steps", "Trace", "real_returns"]

Steps = dict[str, NDArray[np.generic]]
"""Columns of one value per step: "episode", "step" (from 0), "reward" (the environment's), "real_return" and
"imagined_return" (critic's unit; nan: none), "action_change" (distance of the action from the pretrained policy's),
"fell_back" (the plan was not finite and the pretrained policy acted)."""


@dataclass
class Trace:
    """Records the steps of the first `episodes` episodes of every member.

    Attributes:
        episodes: how many.
        played: episodes of every member that are played, which is at least as many.
    """

    episodes: int
    played: int
    _steps: list[Tensor] = field(default_factory=list)  # each (3, members · episodes): Ĵ, change, fallen

    def add(self, value: Tensor, change: Tensor, fallen: Tensor) -> None:
        """Record one step of all rows, each (N,), as a planner's `act` returns it."""
        own = torch.stack([tensor.double().cpu() for tensor in (value, change, fallen)])
        self._steps.append(own.view(3, -1, self.played)[:, :, : self.episodes].flatten(1))

    def of(self, member: int, rollouts: Sequence[Rollout], parts: Parts) -> Steps:
        """Return the recorded steps of one member, episode by episode.

        Args:
            member: its place.
            rollouts: all that were played, member by member.
            parts: whose discount and rewards count.
        """
        recorded = torch.stack(self._steps).numpy()  # (T, 3, members · episodes)
        columns: dict[str, list[NDArray[np.generic]]] = {}
        for episode in range(self.episodes):
            rewards = np.array(rollouts[member * self.played + episode].rewards)
            value, change, fallen = recorded[: len(rewards), :, member * self.episodes + episode].T
            own = {
                "episode": np.full(len(rewards), episode, dtype=np.int32),
                "step": np.arange(len(rewards), dtype=np.int32),
                "reward": rewards.astype(np.float32),
                "real_return": real_returns(rewards, parts, member).astype(np.float32),
                "imagined_return": value.astype(np.float32),
                "action_change": change.astype(np.float32),
                "fell_back": fallen > 0,
            }
            for name, values in own.items():
                columns.setdefault(name, []).append(values)
        return {name: np.concatenate(values) for name, values in columns.items()}


def real_returns(rewards: NDArray[np.float64], parts: Parts, member: int) -> NDArray[np.float64]:
    """Return Σ_k γ^k r_{t+k} for every step t of an episode (T,), in the unit of a member's critic."""
    if parts.reward_affine is not None:
        scale, shift = parts.reward_affine[member].tolist()
        rewards = rewards * scale + shift
    returns, after = np.empty(len(rewards)), 0.0
    for t in range(len(rewards) - 1, -1, -1):
        returns[t] = after = rewards[t] + parts.discount * after
    return returns
