"""The networks policies and critics are made of, shared by ReBRAC, IQL and behaviour cloning."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mpcwdwm.nn.networks import Mlp, Normalizer

__all__ = ["Actor", "Critic", "StateValue"]


class Actor(nn.Module):
    """Deterministic tanh policy π(s) on standardised observations."""

    def __init__(self, stack: Sequence[int], obs_dim: int, act_dim: int, hidden: Sequence[int], dtype: torch.dtype):
        super().__init__()
        self.normalizer = Normalizer(stack, obs_dim, dtype)
        self.net = Mlp(stack, obs_dim, hidden, act_dim, dtype=dtype)

    def forward(self, obs: Tensor) -> Tensor:  # (*stack, B, obs_dim) → (*stack, B, act_dim)
        """Return the action in [−1, 1]."""
        return torch.tanh(self.net(self.normalizer(obs)))


class Critic(nn.Module):
    """Twin action values Q(s, a): the twins are a second stack dimension."""

    def __init__(
        self,
        stack: Sequence[int],
        obs_dim: int,
        act_dim: int,
        hidden: Sequence[int],
        dtype: torch.dtype,
        *,
        layer_norm: bool,
    ):
        super().__init__()
        self.normalizer = Normalizer(stack, obs_dim, dtype)
        self.net = Mlp((*stack, 2), obs_dim + act_dim, hidden, 1, layer_norm=layer_norm, dtype=dtype)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:  # (*stack, B, ·) → (*stack, 2, B)
        """Return both estimates."""
        x = torch.cat([self.normalizer(obs), action], -1)
        return self.net(x.unsqueeze(-3)).squeeze(-1)


class StateValue(nn.Module):
    """State value V(s)."""

    def __init__(self, stack: Sequence[int], obs_dim: int, hidden: Sequence[int], dtype: torch.dtype):
        super().__init__()
        self.normalizer = Normalizer(stack, obs_dim, dtype)
        self.net = Mlp(stack, obs_dim, hidden, 1, dtype=dtype)

    def forward(self, obs: Tensor) -> Tensor:  # (*stack, B, obs_dim) → (*stack, B)
        """Return the value."""
        return self.net(self.normalizer(obs)).squeeze(-1)
