"""Episodes that a policy plays in the world model, with exploration, all members side by side.

Shared by the components that learn from them: the value, the improved policy, and training in imagination.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mpcwdwm.components.component import ActorComponent, Component, Context
from mpcwdwm.components.world_models.world_model import WorldModel
from mpcwdwm.imagination import Ended, Imagined, Left, ending, halted_value, unroll

__all__ = ["ended_in", "imagined_episodes", "worth_of_halted"]


@torch.no_grad()
def imagined_episodes(
    policy: ActorComponent,
    bases: Mapping[str, Component],
    context: Context,
    start: Tensor,
    act_dim: int,
    *,
    length: int,
    exploration: float,
    left: Left,
    streams: Sequence[torch.Generator],
) -> Imagined:
    """Roll a policy with noise on its actions through the world model.

    Args:
        policy: the one that acts.
        bases: the world model and the reward model.
        context: what ends an episode.
        start: where the episodes begin, (S, n, obs_dim).
        act_dim: of an action.
        length: steps of an episode that does not end before.
        exploration: standard deviation of the noise on actions.
        left: which states halt an episode.
        streams: every member's random numbers.
    """
    model = bases["world_model"]
    assert isinstance(model, WorldModel)
    episodes = start.shape[1]

    def normal(*shape: int) -> Tensor:  # (S, n, *shape), every member's from its own stream
        return torch.stack(
            [torch.randn(episodes, *shape, generator=g, device=start.device, dtype=start.dtype) for g in streams]
        )

    def act(_: int, obs: Tensor) -> Tensor:
        return (policy.actor(obs) + exploration * normal(act_dim)).clamp(-1, 1)

    def transition(_: int, obs: Tensor, action: Tensor) -> Tensor:
        return model.sample(obs, action, normal(*model.noise_shape))

    return unroll(start, length, act, transition, ended_in(context, bases["reward"]), left)


def ended_in(context: Context, reward: Component) -> Ended | None:
    """Return what ends an imagined episode: the robot's rule, or a predicted reward that only a goal earns."""
    goal = context.goal_reward
    return ending(context.termination, None if goal is None else lambda obs, action: reward(obs, action) > goal)


def worth_of_halted(context: Context, steps: int, discount: float, like: Tensor) -> Tensor:
    """Return the value of a state where an episode is halted, of every member: (S, 1), of the kind of `like`.

    Args:
        context: the data.
        steps: so many recorded steps in a row are the worst that is known: `Dataset.worst_reward`.
        discount: γ.
        like: a tensor of the dtype and on the device.
    """
    used = zip(context.datasets, context.rows, strict=True)
    worst = [dataset.worst_reward(steps, discount, rows.numpy()) for dataset, rows in used]
    return like.new_tensor([halted_value(least, discount) for least in worst]).unsqueeze(-1)
