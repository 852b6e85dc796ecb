"""Imagination: actions rolled through a model of the world, step after step, until a rule ends the rollout.

Policies, plans and recordings are all rolled by this one loop. It is differentiable, copies nothing, and no Python
branch depends on a tensor's values.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["WORST_STEPS", "Choose", "Ended", "Imagined", "Left", "Transition", "ending", "halted_value", "unroll"]

Choose = Callable[[int, Tensor], Tensor]
"""(step j, states (…, obs_dim)) → actions (…, act_dim)."""
Transition = Callable[[int, Tensor, Tensor], Tensor]
"""(step j, states, actions) → next states (…, obs_dim)."""
Ended = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(states, actions, next states) → bool (…): whether the rollout ends with this transition."""

Left = Callable[[Tensor], Tensor]
"""states (…, obs_dim) → bool (…): whether a state is so far from the data that nothing imagined there counts."""


WORST_STEPS = 100  # recorded steps in a row whose mean reward is the worst that is known: a robot falls in as many


@dataclass(frozen=True)
class Imagined:
    """Rollouts of H steps from states of any leading shape; states behind an end are finite and meaningless."""

    obs: list[Tensor]  # H + 1 of (…, obs_dim)
    action: list[Tensor]  # H of (…, act_dim); H + 1 where one is chosen at the last state, too
    alive: list[Tensor]  # H + 1 of (…): 1 until the rollout has ended, then 0
    halted: list[Tensor] = field(default_factory=list)  # H of (…): 1 where it was halted then; empty if nothing halts


def unroll(
    obs: Tensor,
    steps: int,
    choose: Choose,
    transition: Transition,
    ended: Ended | None = None,
    left: Left | None = None,
) -> Imagined:
    """Roll H steps: s̃_0 = s, ã_j = choose(s̃_j), s̃_{j+1} = f(s̃_j, ã_j).

    A rollout that has ended goes on from its start, so that an overflow behind an end reaches neither the value nor
    the gradient: 0 · inf is nan in both. A state that is not finite ends a rollout only if `ended` says so.

    Args:
        obs: where it begins, (…, obs_dim).
        steps: H.
        choose: the actions.
        transition: the model.
        ended: which transitions end a rollout; None: none does.
        left: which states halt it; one that is not finite does, and one that ended the rollout does not. None: none.
    """
    states, actions, alive = [obs], list[Tensor](), [torch.ones_like(obs[..., 0])]
    halted = list[Tensor]()
    for j in range(steps):
        actions.append(choose(j, states[j]))
        state = transition(j, states[j], actions[j])
        going = alive[j] if ended is None else alive[j] * ~ended(states[j], actions[j], state)
        if left is not None:
            broken = ~state.isfinite().all(-1)
            halted.append(torch.where(broken, alive[j], going * left(state)))
            going = going * (1 - halted[j])
        alive.append(going)
        if ended is not None or left is not None:
            state = torch.where(going.unsqueeze(-1) > 0, state, obs)
        states.append(state)
    return Imagined(states, actions, alive, halted)


def halted_value(lowest: float, discount: float) -> float:
    """Return a pessimistic value of a state where a rollout is halted: min(0, r_low) / (1 − γ).

    Nobody knows what follows. To end with nothing more would be a reward where rewards are negative, and a plan would
    seek it. Where they are positive 0, the value of a fall, already is below whatever else could follow.

    Args:
        lowest: r_low, the reward of the worst recorded steps (`Dataset.worst_reward`), as if they went on for ever.
        discount: γ.
    """
    return min(0.0, lowest) / (1 - discount)


def ending(
    rule: Callable[[Tensor], Tensor] | None, reached: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Ended | None:
    """Return what ends a rollout, None if nothing does. The transition that ends it still earns its reward.

    Args:
        rule: states → bool (…), whether an episode ends there; None: unknown.
        reached: states, actions → bool (…), whether the transition reaches the goal; None: unknown.
    """
    if rule is None:
        return None if reached is None else lambda obs, action, following: reached(obs, action)
    if reached is None:
        return lambda obs, action, following: rule(following)
    return lambda obs, action, following: rule(following) | reached(obs, action)
