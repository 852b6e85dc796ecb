"""One update of a component by hand, and the random numbers that a training gives it."""

from collections.abc import Mapping

from torch import Tensor

from mpcwdwm.components import Batch, Component
from mpcwdwm.random import BLOCK_STEPS, Draws


def draws_at(draws: Draws, step: int) -> dict[str, Tensor]:
    """Return name → (S, *shape)."""
    block, within = divmod(step, BLOCK_STEPS)
    return {name: values[:, within] for name, values in draws.block(block).items()}


def update(part: Component, batch: Batch, noise: Mapping[str, Tensor], step: int) -> None:
    """Do update number `step`."""
    part.set_learning_rates(step)
    part.advance(batch, noise, step % part.period)
