"""Trainings of the value on bases that are functions: a system that only grows, whose episodes can be written down."""

import dataclasses

import numpy as np
import torch
from torch import nn

from mpcwdwm.components import ActorComponent, WorldModel, component_config
from mpcwdwm.training.loop import Training
from tests.support.linear_quadratic import DISCOUNT, DOUBLE
from tests.support.recorded_episodes import random_episodes

SMALL = {"hidden_dim": 8, "batch_size": 32, "steps": 100, "evaluations": 1, "ensemble": 2}


class Given(ActorComponent, WorldModel):
    """What a training asks of a base: its seeds; it has no weights."""

    noise_shape = (2,)

    def __init__(self, seeds, **functions):
        nn.Module.__init__(self)
        self.seeds = tuple(seeds)
        for name, function in functions.items():
            setattr(self, name, function)

    def forward(self, obs, action):
        return self.reward(obs, action)


def training_of(bases, seeds=(0, 1), data=None, termination=None, **fields):
    """A training of the value, with bases made of functions: actor(obs), sample(obs, action, noise), reward(…)."""
    config = component_config("value", {}, {**SMALL, "discount": DISCOUNT, **fields})
    names = {"rebrac": "actor", "world_model": "sample", "reward": "reward"}
    given = {name: Given(seeds, **{function: bases[function]}) for name, function in names.items()}
    data = rows() if data is None else data
    return Training("value", config, data, seeds, bases=given, termination=termination, dtype=DOUBLE)


def rows(lengths=(40, 30) * 10):
    """Recorded episodes whose states fill [−1, 1]²; the first two episodes are held out."""
    data = random_episodes(2, lengths)
    data = dataclasses.replace(data, obs=np.tanh(data.obs), episode=np.repeat(np.arange(len(lengths)), lengths))
    vars(data)["heldout_episodes"] = np.arange(len(lengths)) < 2
    return data


GROWTH, LENGTH, HALT = 1.1, 12, 2.5
GROWING = {
    "actor": lambda obs: 0 * obs,
    # the model breaks where the second entry falls below −0.9
    "sample": lambda obs, action, noise: torch.where(obs[..., 1:] < -0.9, torch.nan, GROWTH * obs),
    "reward": lambda obs, action: 1 + obs[..., 0],
}
FALLEN = 1.2


def fallen(obs):
    return obs[..., 0] > FALLEN


def grown(**fields):
    return training_of(GROWING, termination=fallen, **{"episodes": 60, "length": LENGTH, "halt": HALT, **fields})


def episodes_of(table, member):
    """Return what a table holds of each of a member's episodes: states, returns, discounts of what is left."""
    count = int(table.counts[member])
    number = table.episode[member, :count]
    assert (number.diff() >= 0).all()
    columns = [values[member, :count] for values in (table.obs, table.returns, table.left)]
    return [tuple(values[number == e] for values in columns) for e in range(table.last.shape[1])]
