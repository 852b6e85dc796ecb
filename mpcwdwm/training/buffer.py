"""The transitions a stacked training run learns from, on the device, gathered by index.

Distinct datasets of the members are concatenated; each member draws row numbers within its own rows only.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from mpcwdwm.components.component import Batch, Rows
from mpcwdwm.data import Dataset
from mpcwdwm.errors import UserError

__all__ = ["Buffer", "usable_rows"]


def usable_rows(dataset: Dataset, rows: Rows, *, heldout: bool | None) -> Tensor:
    """Return the indices of the rows a component may use, int64, in file order.

    Args:
        dataset: the transitions.
        rows: see `Rows`; behind a true terminal nothing is bootstrapped, so critics need no next there.
        heldout: None for every episode, False for the training ones, True for the held-out ones.

    Raises:
        UserError: nothing is left.
    """
    keep = {
        "next_action": dataset.has_next_action | dataset.terminal,
        "next_value": dataset.has_next_obs | dataset.terminal,
        "next_obs": dataset.has_next_obs,
        "all": np.ones_like(dataset.terminal),
    }[rows]
    if heldout is not None:
        keep = keep & (dataset.heldout == heldout)
    indices = torch.from_numpy(keep.nonzero()[0])
    if len(indices) == 0:
        part = {None: "", False: " in training episodes", True: " in held-out episodes"}[heldout]
        needed = {
            "next_action": "a row that another row of its episode follows, or a terminal one",
            "next_value": "a row with a next observation, or a terminal one",
            "next_obs": "a row with a next observation",
            "all": "a row",
        }[rows]
        raise UserError(
            f"{dataset.path}: no usable transitions ({rows}){part}: needed is {needed}; give longer episodes, or more"
        )
    return indices


class Buffer:
    """Rows of one or several datasets, one set of row numbers per member."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        rows: Sequence[Tensor],
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        distinct = list({id(dataset): dataset for dataset in datasets}.values())
        starts = accumulate((len(dataset.reward) for dataset in distinct), initial=0)
        offsets = {id(dataset): start for dataset, start in zip(distinct, starts, strict=False)}

        def gathered(name: str) -> Tensor:
            values = torch.cat([torch.from_numpy(dataset.arrays[name]) for dataset in distinct]).to(dtype)
            return values if values.dim() == 2 else values.unsqueeze(1)

        fields = {name: gathered(name) for name in ("obs", "action", "reward", "next_obs", "next_action", "terminal")}
        self._widths = [values.shape[1] for values in fields.values()]
        self._table = torch.cat(list(fields.values()), 1).to(device)  # (rows, all fields): one gather a batch
        members = [own + offsets[id(d)] for own, d in zip(rows, datasets, strict=True)]
        self.sizes = tuple(len(own) for own in members)
        self._members = torch.nn.utils.rnn.pad_sequence(members, batch_first=True).to(device)  # (S, most rows)

    def gather(self, indices: Tensor) -> Batch:  # (S, B), each within its member's size
        """Return the batch of the given row numbers."""
        rows = self._table[self._members.gather(1, indices)]  # (S, B, all fields)
        obs, action, reward, next_obs, next_action, terminal = rows.split(self._widths, -1)
        return Batch(
            obs=obs,
            action=action,
            reward=reward.squeeze(-1),
            next_obs=next_obs,
            next_action=next_action,
            mask=1 - terminal.squeeze(-1),
        )
