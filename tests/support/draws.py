"""The random numbers of one step of a training."""

from torch import Tensor

from mpcwdwm.random import BLOCK_STEPS, Draws


def draws_at(draws: Draws, step: int) -> dict[str, Tensor]:
    """Return name → (S, *shape)."""
    block, within = divmod(step, BLOCK_STEPS)
    return {name: values[:, within] for name, values in draws.block(block).items()}
