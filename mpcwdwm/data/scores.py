"""D4RL's normalized score."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["normalized_score"]

Returns = TypeVar("Returns", float, NDArray[np.float64])


def normalized_score(returns: Returns, reference: tuple[float, float] | None) -> Returns | None:
    """Return 100 (R − min) / (max − min) of one return or of an array, or None without (min, max) reference returns."""
    if reference is None:
        return None
    low, high = reference
    return 100 * (returns - low) / (high - low)
