"""Datasets without a file: random ones, and episodes of the linear-quadratic system."""

import numpy as np
import torch

from mpcwdwm.data.dataset import Dataset, from_arrays
from mpcwdwm.data.hdf5 import Arrays
from tests.support.linear_quadratic import PRETRAINED, A, B, Q, R
from tests.support.random_parts import ACT, OBS
from tests.support.synthetic import episodes


def worst_by_hand(dataset, steps, discount, kept=None) -> float:
    """The lowest discounted mean reward of so many kept rows in a row of one episode."""
    norm, found = sum(discount**k for k in range(steps)), []
    for begin in range(len(dataset.reward) - steps + 1):
        rows = range(begin, begin + steps)
        if len({dataset.episode[row] for row in rows}) == 1 and (kept is None or kept[begin]):
            found.append(sum(discount**k * float(dataset.reward[row]) for k, row in enumerate(rows)) / norm)
    return min(found)


def dataset_of(lengths, ends, *, obs_dim=3) -> Dataset:
    """Random transitions; the first number of an observation is its row."""
    made = episodes(lengths, ends, obs_dim=obs_dim)
    obs = made["observations"]
    obs[:, 0] = np.arange(len(obs))
    arrays = Arrays(obs, made["actions"], made["rewards"], made["terminals"], made["timeouts"], None)
    return from_arrays(arrays, "a hash", "made.hdf5")


def recorded(gain=PRETRAINED, *, sigma=0.2, count=60, length=40, seed=0) -> Dataset:
    """Episodes of the linear-quadratic system with the actions −K s + σ ε."""
    rng = np.random.default_rng(seed)
    obs, action = np.empty((count, length, 2)), np.empty((count, length, 2))
    state = rng.normal(size=(count, 2))
    for t in range(length):
        obs[:, t] = state
        action[:, t] = -state @ gain.T + sigma * rng.normal(size=(count, 2))
        state = state @ A.T + action[:, t] @ B.T
    obs, action = obs.reshape(-1, 2), action.reshape(-1, 2)
    reward = -((obs @ Q) * obs).sum(1) - ((action @ R) * action).sum(1)
    ends = np.tile(np.arange(length) == length - 1, count)
    numbers = (x.astype(np.float32) for x in (obs, action, reward))
    return from_arrays(Arrays(*numbers, np.zeros_like(ends), ends, None), "a hash", "made.hdf5")


def random_episodes(obs_dim=OBS, lengths=(9, 7) * 20, seed=0) -> Dataset:
    """Random episodes, every second of them ending in a failure; the first two are held out."""
    arrays = episodes(lengths, "to" * (len(lengths) // 2), obs_dim, ACT, seed)
    ends = arrays["terminals"] | arrays["timeouts"]
    episode = ends.cumsum() - ends
    dataset = Dataset(
        arrays["observations"], arrays["actions"], arrays["rewards"], arrays["next_observations"], arrays["actions"],
        arrays["terminals"], arrays["timeouts"], ~ends | True, ~ends, episode, "made up", None,
    )  # fmt: skip
    vars(dataset)["heldout_episodes"] = torch.arange(len(lengths)).numpy() < 2
    return dataset
