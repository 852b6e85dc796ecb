"""The stretches of held-out episodes on which step sizes are judged."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from mpcwdwm.errors import UserError
from mpcwdwm.planning import ModulePolicy, Parts
from mpcwdwm.planning.step_size.windows import heldout_windows
from tests.support.linear_quadratic import DOUBLE, system, tensor
from tests.support.recorded_episodes import dataset_of

LENGTHS = (9, 4, 11, 7, 13) * 12
ENDS = "tooto" * 12


def test_stretches_lie_within_held_out_episodes_and_do_not_overlap():
    dataset = dataset_of(LENGTHS, ENDS, obs_dim=2)
    parts = dataclasses.replace(system(), members=2, dataset=dataset, critic=None)
    windows = heldout_windows(parts, (3, 4), count=3, length=4)
    rows = windows.obs[..., 0].long().view(2, 3, 4)
    assert (rows.diff() == 1).all()
    assert dataset.heldout[rows].all()
    assert (dataset.episode[rows] == windows.episode.view(2, 3, 1).numpy()).all()
    assert all(len(member.unique()) == member.numel() for member in rows)
    assert not torch.equal(rows[0], rows[1])
    assert torch.equal(windows.mask.view(2, 3, 4), 1 - torch.tensor(dataset.terminal)[rows].to(DOUBLE))
    every = heldout_windows(parts, (3, 4), count=100, length=4)  # as many as there are
    ends = np.flatnonzero(dataset.terminal & dataset.heldout)
    assert len(ends)
    assert set(ends) <= set(every.obs[: every.per_member, -1, 0].long().tolist())
    assert every.per_member == (dataset.lengths[dataset.heldout_episodes] // 4).sum()


def test_stretches_are_as_long_as_the_longest_episode_at_most():
    dataset = dataset_of((3, 5, 4), "too", obs_dim=2)
    parts = dataclasses.replace(system(), dataset=dataset)
    assert heldout_windows(parts, (0,), 24, 32).obs.shape == (1, dataset.lengths[dataset.heldout_episodes].max(), 2)


def test_rewards_are_in_the_critics_unit():
    dataset = dataset_of(LENGTHS, ENDS, obs_dim=2)
    affine = tensor([[2.0, 0.5], [1.0, -1.0]])  # of two members
    policies = ModulePolicy(*(nn.Linear(2, 2, dtype=DOUBLE) for _ in range(2)))
    windows = heldout_windows(Parts(policies, members=2, dataset=dataset, reward_affine=affine), (0, 1), 6, 4)
    for n, one in enumerate(windows.obs):
        m, row = n // windows.per_member, int(one[2, 0])
        wanted = float(affine[m, 0]) * float(dataset.reward[row]) + float(affine[m, 1])
        assert float(windows.reward[n, 2]) == pytest.approx(wanted, rel=1e-12)


def test_what_lacks_is_said_in_one_line():
    with pytest.raises(UserError, match=r"set parts\.dataset"):
        heldout_windows(system(), (0,), 24, 32)
    whole = dataset_of((7,), "o", obs_dim=2)
    with pytest.raises(UserError, match=r"made\.hdf5' has no held-out episode .* give"):
        heldout_windows(dataclasses.replace(system(), dataset=whole), (0,), 24, 32)
