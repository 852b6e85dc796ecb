"""A planner of every kind in a small setting, and parts that break it or play episodes of Hopper."""

import torch
from torch import nn

from mpcwdwm.planning import (
    PLANNERS,
    ModulePolicy,
    Parts,
    planner_config,
)
from mpcwdwm.random import generator
from tests.support.random_parts import DOUBLE, OBS

SMALL_MPPI = {"E": 2, "samples": 12, "policy_samples": 3, "elites": 5, "temperature": 2.0, "M": 2}
KINDS = {
    "policy": {"H": 2, "M": 3, "E": 2, "step_size": 1e-2},
    "action": {"H": 2, "M": 3, "E": 2, "step_size": 1e-2, "reset": "episode"},
    "mppi": {"H": 2, **SMALL_MPPI},
    "diffuser": {"M": 3, "warm_start": True, "warm_steps": 3},
    "random": {"step_size": 0.2},
    "none": {},
}
MOVING = [kind for kind in KINDS if kind != "none"]
IMAGINING = [kind for kind in MOVING if kind not in ("diffuser", "random")]  # with world model, reward and critic


def make(kind, parts, fields=None, **options):
    config = planner_config({"kind": kind, **KINDS[kind], **(fields or {})})
    options = {"seeds": tuple(range(parts.members)), "episodes": 2, **options}
    return PLANNERS[kind](parts, config, **options)


def observations(steps, rows=4):
    return [torch.randn(rows, OBS, generator=generator(i, "test/obs"), dtype=DOUBLE) for i in range(steps)]


def play(planner, observations):
    """Actions, imagined returns, fallbacks and the pretrained policy's actions of every step."""
    return [[*(out.clone() for out in planner.act(obs)), planner.pretrained_action()] for obs in observations]


class Broken:
    """A reward whose value, or only its gradient, is not finite on one row, at calls beginning with a given one."""

    def __init__(self, reward, row, what):
        self.reward, self.row, self.what, self.on = reward, row, what, False

    def __call__(self, obs, action):
        reward = self.reward(obs, action)
        here = (torch.arange(len(obs)) == self.row).unsqueeze(1)
        if self.what == "gradient":  # √x at 0: the value is 0, the slope infinite
            root = torch.where(here & self.on, (action * 0.0).sum(-1).abs(), 1.0).sqrt()
            return reward + root - root.detach()
        return torch.where(here & self.on, torch.tensor(float(self.what), dtype=reward.dtype), reward)


def hopper_parts(reward):
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(11, 3), nn.Tanh()) for _ in range(2)]

    class Still:
        noise_shape = (11,)

        def sample(self, obs, action, noise):
            return obs + 0.01 * action.sum(-1, keepdim=True)

    return Parts(
        policy=ModulePolicy(*nets),
        critic=lambda obs, action: -action.square().sum(-1).unsqueeze(1),
        world_model=Still(),
        reward=reward,
        members=2,
        env_id="Hopper-v4",
        max_episode_steps=6,
    )
