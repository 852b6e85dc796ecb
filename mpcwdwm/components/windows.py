"""Windows of consecutive rows of an episode, and the return that follows each: what Diffuser learns from.

A window that reaches beyond its episode's end goes on with zeros, in the data's own units, as in the authors' code.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mpcwdwm.data import Dataset

__all__ = ["Windows", "returns_that_follow"]


def returns_that_follow(dataset: Dataset, discount: float, penalty: float) -> Tensor:
    """Return Σ_{k ≥ i} γ^{k−i} r_k to the end of row i's episode: (rows,), float64.

    Args:
        dataset: the transitions.
        discount: γ.
        penalty: taken off the reward of a terminal row.
    """
    reward = dataset.reward.astype(np.float64) - penalty * dataset.terminal
    last = np.append(dataset.episode[1:] != dataset.episode[:-1], True)
    returns, following = np.zeros(len(reward)), 0.0
    for i in reversed(range(len(reward))):
        following = reward[i] + (0.0 if last[i] else discount * following)
        returns[i] = following
    return torch.from_numpy(returns)


class Windows(nn.Module):
    """The rows of all members' datasets, once each, and where each member's windows may begin.

    Its tensors move with the module, and are not part of its state.

    Args:
        datasets: one per member; equal ones are held once.
        starts: row numbers at which a member's windows begin, one tensor per member.
        horizon: rows of a window.
        discount: of the return that follows.
        penalty: taken off the reward of a terminal row.
        dtype: of rows and returns.
    """

    rows: Tensor  # (R, act_dim + obs_dim): actions, then observations
    returns: Tensor  # (R,)
    last: Tensor  # (R,): the last row of each row's episode
    starts: Tensor  # (S, most): padded with 0
    counts: Tensor  # (S, 1): of them

    def __init__(
        self,
        datasets: Sequence[Dataset],
        starts: Sequence[Tensor],
        horizon: int,
        discount: float,
        penalty: float,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        distinct = list({id(dataset): dataset for dataset in datasets}.values())
        rows, returns, last, offsets, offset = [], [], [], {}, 0
        for dataset in distinct:
            offsets[id(dataset)] = offset
            rows.append(torch.from_numpy(np.concatenate([dataset.action, dataset.obs], 1)))
            returns.append(returns_that_follow(dataset, discount, penalty))
            ends = np.searchsorted(dataset.episode, dataset.episode, side="right") - 1
            last.append(torch.from_numpy(ends) + offset)
            offset += len(dataset.reward)
        own = [begin + offsets[id(dataset)] for begin, dataset in zip(starts, datasets, strict=True)]
        held = {
            "rows": torch.cat(rows).to(dtype),
            "returns": torch.cat(returns).to(dtype),
            "last": torch.cat(last),
            "starts": torch.nn.utils.rnn.pad_sequence(own, batch_first=True),
            "counts": torch.tensor([[len(begin)] for begin in own]),
            "ahead": torch.arange(horizon),
        }
        for name, tensor in held.items():
            self.register_buffer(name, tensor, persistent=False)
        self.ahead: Tensor

    def forward(self, number: Tensor) -> tuple[Tensor, Tensor]:  # (S, B), any integers from 0
        """Return windows (S, B, H, act_dim + obs_dim) by number modulo their count, and the returns (S, B)."""
        begin = self.starts.gather(1, number % self.counts)
        at = begin.unsqueeze(-1) + self.ahead  # (S, B, H)
        last = self.last[begin].unsqueeze(-1)
        inside = (at <= last).unsqueeze(-1)
        return self.rows[torch.minimum(at, last)] * inside, self.returns[begin]
