"""Parts of random weights in float64, planning problems on them, and the gradient of their objective."""

import torch
from torch import nn

from mpcwdwm.components.diffuser import Diffuser, DiffuserConfig
from mpcwdwm.components.iql import Iql, IqlConfig
from mpcwdwm.components.rebrac import Rebrac, RebracConfig
from mpcwdwm.components.reward import Reward, RewardConfig
from mpcwdwm.components.world_models.diffusion import DiffusionConfig, DiffusionModel
from mpcwdwm.planning import MpcConfig, Parts, objective
from mpcwdwm.planning.parts import SharedCritic, SharedReward, SharedTrajectories, SharedWorldModel, StackedPolicy
from mpcwdwm.random import generator

OBS, ACT = 4, 2
DOUBLE = torch.float64


def roughen(module: nn.Module, seed: int) -> None:
    """Random weights of ordinary size: fresh heads are nearly zero and would hide mistakes."""
    g = generator(seed, "test/weights")
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=p.dtype) * 0.5)


def make_parts(seeds=(0,), base="rebrac", sampler="ddpm", predict="delta", scale=1.0, shift=0.0) -> Parts:
    members = len(seeds)
    if base == "rebrac":
        config = RebracConfig(hidden_dim=8, reward_scale=scale, reward_shift=shift, discount=0.9)
        policy = Rebrac(config, OBS, ACT, seeds, DOUBLE)
    else:
        policy = Iql(
            IqlConfig(hidden_dim=8, reward_scale=scale, reward_shift=shift, discount=0.9), OBS, ACT, seeds, DOUBLE
        )
    world = DiffusionConfig(hidden_dim=8, denoising_steps=3, sampler=sampler, variance="posterior", predict=predict)
    model = DiffusionModel(world, OBS, ACT, seeds, DOUBLE)
    reward = Reward(RewardConfig(hidden_dim=8), OBS, ACT, seeds, DOUBLE)
    diffuser = Diffuser(DiffuserConfig(horizon=4, multipliers="1,2", denoising_steps=4), OBS, ACT, seeds, DOUBLE)
    for i, part in enumerate((policy, model, reward, diffuser)):
        roughen(part, i)
        part.requires_grad_(False)
        for net in part.modules():  # normalisers that are not the identity, different per member
            if hasattr(net, "mean"):
                g = generator(i, "test/normaliser")
                net.mean.copy_(0.3 * torch.randn(net.mean.shape, generator=g, dtype=DOUBLE))
                net.std.copy_(0.5 + torch.rand(net.std.shape, generator=g, dtype=DOUBLE))
    return Parts(
        policy=StackedPolicy(policy.actor),
        critic=SharedCritic(policy.critic, members),
        world_model=SharedWorldModel(model, members),
        reward=SharedReward(reward, members, policy.reward_affine),
        discount=0.9,
        members=members,
        trajectories=SharedTrajectories(diffuser, members),
    )


def problem(parts: Parts, config: MpcConfig, episodes=1, seed=0):
    """Return ψ₀, observations and noise for members × episodes rows."""
    rows = parts.members * episodes
    g = generator(seed, "test/problem")
    obs = torch.randn(rows, OBS, generator=g, dtype=DOUBLE)
    size = (rows, config.horizon, config.rollouts, *parts.world_model.noise_shape)
    return parts.policy.initial(episodes), obs, torch.randn(size, generator=g, dtype=DOUBLE)


def gradient(parts, psi, obs, noise, config):
    leaves = {name: p.clone().requires_grad_() for name, p in psi.items()}
    value = objective(parts, leaves, obs, noise, config)
    return value.detach(), dict(zip(leaves, torch.autograd.grad(value.sum(), list(leaves.values())), strict=True))


def keep_member(module: nn.Module, member: int) -> None:
    for p in [*module.parameters(), *module.buffers()]:
        if p.shape[0] == 2:
            p.data = p.data[member : member + 1]


def random(*shape, purpose="test/random"):
    return torch.randn(shape, generator=generator(0, purpose), dtype=DOUBLE)
