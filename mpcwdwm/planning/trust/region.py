"""Trust region: a bound on how far adaptation may change the action, at the real and the imagined states.

The distance is between actions, so that it means the same whatever the networks and the scale of the rewards, and it
is measured from the pretrained policy, which also bounds a ψ that is carried over.
"""

import torch
from torch import Tensor

from mpcwdwm.planning.ascent import by_row, looking_is_free
from mpcwdwm.planning.parts import Params, Parts

__all__ = ["action_change", "shrunk"]

ATTEMPTS = 12  # the most lengths tried; if none is within the bound, the step is taken back
AIM = 0.9  # share of the bound aimed at: the change is not quite proportional to the step
ENOUGH = 0.5  # share of the bound that a shortened step has to use


@torch.no_grad()
def shrunk(parts: Parts, psi0: Params, psi: Params, states: Tensor, bound: float) -> Params:
    """Return ψ₀ + t (ψ − ψ₀), t of a row being 1 or as much shorter as it takes to keep to the bound, found by search.

    Each length tried aims at the bound, as if the change were proportional to t. If it is still too long, where the
    policy's output saturates, the next is shortened by the square, then the fourth power; if it is far too short,
    where layers multiply, the next is the geometric mean with the shortest that was too long.

    Args:
        parts: the policy.
        psi0: the pretrained parameters, one set per row.
        psi: the adapted ones.
        states: where the action is compared, (N, B, obs_dim).
        bound: on ‖π_ψ(s) − π_ψ₀(s)‖ at every one of a row's states.
    """
    before = parts.policy(psi0, states)  # (N, B, act_dim)
    share = before.new_ones(len(before))
    longest, too_long = torch.zeros_like(share), torch.ones_like(share)  # within the bound; beyond it
    for attempt in range(ATTEMPTS):
        change = (parts.policy(_between(psi0, psi, share), states) - before).norm(dim=-1).amax(1)  # (N,)
        within = change <= bound
        settled = within & ((share == 1) | (change >= ENOUGH * bound))
        longest, too_long = torch.where(within, share, longest), torch.where(within, too_long, share)
        if looking_is_free(states.device) and settled.all():  # spares the further attempts
            break
        ratio = AIM * bound / change
        shorter = share * ratio.clamp(max=AIM) ** 2**attempt
        halfway = (longest * too_long).sqrt()
        tried = torch.where(within, torch.minimum(share * ratio, halfway), torch.where(longest > 0, halfway, shorter))
        share = torch.where(settled, share, tried.nan_to_num(0.0))  # a policy that overflows: back to ψ₀
    return _between(psi0, psi, longest)


def _between(psi0: Params, psi: Params, share: Tensor) -> Params:
    """Return ψ₀ + share (ψ − ψ₀), exactly ψ where the share is 1."""
    return {name: torch.lerp(psi0[name], p, by_row(share, p)) for name, p in psi.items()}


def action_change(parts: Parts, psi0: Params, psi: Params, states: Tensor) -> Tensor:
    """Return ‖π_ψ(s) − π_ψ₀(s)‖ at every state, (N, B)."""
    return (parts.policy(psi, states) - parts.policy(psi0, states)).norm(dim=-1)
