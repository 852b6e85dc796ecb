"""World models of every kind for observations of two numbers and actions of one, in float64."""

import torch

from mpcwdwm.components import component_class, component_config
from mpcwdwm.random import generator

DOUBLE = torch.float64


def model(kind, seeds=(0,), **fields):
    config = component_config("world_model", {}, {"kind": kind, "hidden_dim": 8, **fields})
    return component_class("world_model", config)(config, 2, 1, seeds, DOUBLE).requires_grad_(False)


def randomised(part, scale=0.5):
    g = generator(1, "test/weights")
    for p in part.parameters():
        p.copy_(torch.randn(p.shape, generator=g, dtype=DOUBLE) * scale)
    part.normalizer.std.fill_(1.7)
    part.target_normalizer.std.fill_(0.6)
    part.target_normalizer.mean.fill_(0.2)
    return part


def normal(*shape, name="x", seed=0):
    return torch.randn(*shape, generator=generator(seed, "test", name), dtype=DOUBLE)
