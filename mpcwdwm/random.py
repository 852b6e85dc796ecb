"""Explicit random numbers: every draw follows from (seed, purpose, step) alone.

So a seed's result does not depend on the seeds trained beside it, and a resumed run needs no generator state, only
its step.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BLOCK_STEPS", "Draws", "Integers", "Normal", "derive_seed", "generator"]

BLOCK_STEPS = 64  # steps drawn by one call per member: amortises re-seeding, a few MB at batch 2048


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and `purpose` only, equal on every machine."""
    digest = hashlib.sha256(repr((int(seed), *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *purpose: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a generator seeded with `derive_seed`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))


@dataclass(frozen=True)
class Normal:
    """Standard normal draws of a given shape at every step."""

    shape: tuple[int, ...]

    def sample(self, steps: int, g: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Return `(steps, *shape)` draws."""
        return torch.randn(steps, *self.shape, generator=g, device=g.device, dtype=dtype)


@dataclass(frozen=True)
class Integers:
    """Uniform integers in [0, high) of a given shape at every step."""

    high: int
    shape: tuple[int, ...]

    def sample(self, steps: int, g: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Return `(steps, *shape)` draws."""
        return torch.randint(self.high, (steps, *self.shape), generator=g, device=g.device)


class Draws:
    """The random numbers of a stacked training run, in blocks of steps.

    Args:
        seeds: one per member.
        purpose: separates the streams of different users of the same seed.
        recipes: one mapping name → `Normal` or `Integers` per member (sizes may differ in `high`).
        device: where the numbers are drawn.
        dtype: of the normal draws.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        purpose: str,
        recipes: Sequence[Mapping[str, Normal | Integers]],
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.seeds, self.purpose, self.recipes = tuple(seeds), purpose, tuple(recipes)
        self.device, self.dtype = torch.device(device), dtype

    def block(self, block: int) -> dict[str, Tensor]:
        """Return name → (S, BLOCK_STEPS, *shape): the draws of the steps from block · BLOCK_STEPS."""
        return {
            name: torch.stack(
                [
                    recipe[name].sample(
                        BLOCK_STEPS,
                        generator(seed, self.purpose, name, block, device=self.device),
                        self.dtype,
                    )
                    for seed, recipe in zip(self.seeds, self.recipes, strict=True)
                ]
            )  # (S, BLOCK_STEPS, *shape)
            for name in self.recipes[0]
        }
