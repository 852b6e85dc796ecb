"""Parts from trained components."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypedDict, Unpack, runtime_checkable

import torch
from pydantic import JsonValue
from torch import Tensor

from mpcwdwm.components.component import ActorComponent, Component, CriticComponent, Member
from mpcwdwm.components.loading import stacked
from mpcwdwm.data import Dataset
from mpcwdwm.errors import UserError, did_you_mean
from mpcwdwm.planning.parts import (
    DisagreeingModel,
    Parts,
    SharedBehavior,
    SharedCritic,
    SharedEnsemble,
    SharedReward,
    SharedTrajectories,
    SharedValue,
    SharedWorldModel,
    StackedPolicy,
    TrajectoryModel,
    TransitionModel,
)

__all__ = ["Facts", "assemble"]


@runtime_checkable
class _Discounted(Protocol):
    """A config with the discount of a critic."""

    discount: float


class Facts(TypedDict, total=False):
    """Fields of `Parts` beside its networks."""

    termination: Callable[[Tensor], Tensor] | None
    goal_reward: float | None
    env_id: str
    env_kwargs: Mapping[str, JsonValue]
    max_episode_steps: int
    reference: tuple[float, float] | None
    dataset: Dataset | None


def assemble(
    components: Mapping[str, Component | Sequence[Member]],
    base: str,
    *,
    critic_from: str | None = None,
    device: str | torch.device = "cpu",
    **facts: Unpack[Facts],
) -> Parts:
    """Return the parts that components make, which are frozen and moved to the device.

    Discount and reward scale are those of the component that lends the critic.

    Args:
        components: component name → the component, or what `train` returned; the same seeds in the same order.
        base: the component whose policy is used.
        critic_from: the component whose critic is used; None: of `value` or of another component than the base where
            one has a critic, else of the base, if it has one.
        device: where the parts go.
        **facts: further fields of `Parts`: termination, goal_reward, env_id, env_kwargs,
            max_episode_steps, reference, dataset.

    Raises:
        UserError: a component is missing, the seeds differ, or the value is another policy's.
    """
    for role, name in (("base", base), ("critic_from", critic_from or base)):
        if name not in components:
            raise UserError(f"{role}: '{name}' is not among the components{did_you_mean(name, components)}: add it")
    given = {name: one if isinstance(one, Component) else stacked(one) for name, one in components.items()}
    loaded = {name: one.to(device).requires_grad_(False).eval() for name, one in given.items()}
    policy, value, model = (loaded.get(name) for name in (base, "value", "world_model"))
    if not isinstance(policy, ActorComponent):
        raise UserError(f"base: {base} has no policy: give a component that acts")
    for name, part in loaded.items():
        if part.seeds != policy.seeds:
            raise UserError(f"{name} has seeds {list(part.seeds)}, {base} has {list(policy.seeds)}: give equal seeds")
    if value is not None and base not in value.config.builds_on:
        evaluated = value.config.builds_on[0]
        raise UserError(f"the value is that of {evaluated}'s policy, not of {base}'s: give the one of {base}")
    critics = [name for name, part in loaded.items() if isinstance(part, CriticComponent)]
    others = [name for name in critics if name != base]
    lender = critic_from or ("value" if value is not None else [*others, base][0])
    if critic_from not in (None, base, "value") and critic_from not in critics:
        raise UserError(f"critic_from: {critic_from} has no critic")
    critic, members = loaded[lender], len(policy.seeds)
    parts = Parts(
        policy=StackedPolicy(policy.actor, base),
        discount=critic.config.discount if isinstance(critic.config, _Discounted) else Parts.discount,
        members=members,
        device=torch.device(device),
        **facts,
    )
    if lender == "value":
        parts.critic = SharedValue(critic, members)
    elif isinstance(critic, CriticComponent):
        parts.critic = SharedCritic(critic.critic, members, lender)
    if isinstance(model, DisagreeingModel):
        parts.world_model = SharedEnsemble(model, members)
    elif isinstance(model, TransitionModel):
        parts.world_model = SharedWorldModel(model, members)
    if "reward" in loaded:
        identity = torch.tensor([[1.0, 0.0]], device=device).repeat(members, 1)
        parts.reward_affine = critic.reward_affine if isinstance(critic, CriticComponent) else identity
        parts.reward = SharedReward(loaded["reward"], members, parts.reward_affine)
    if isinstance(diffuser := loaded.get("diffuser"), TrajectoryModel):
        parts.trajectories = SharedTrajectories(diffuser, members)
    if isinstance(cloned := loaded.get("bc"), ActorComponent):
        parts.behavior = SharedBehavior(cloned.actor, members)
    return parts
