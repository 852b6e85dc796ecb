"""Trust region: a bound on how far adaptation may change the action, at the real and the imagined states.

The distance that counts is between actions, not between parameters: it means the same on every task, whatever
the networks and the scale of the rewards. It is measured from the pretrained policy, so that a ψ that is carried
over cannot drift away either.
"""

import torch
from torch import Tensor

from mpcwdwm.planning.parts import Params, Parts

__all__ = ["action_change", "shrunk"]

ATTEMPTS = 8  # shortenings of a step; what still oversteps the bound then is taken back altogether
AIM = 0.9  # share of the bound aimed at: the change is not quite proportional to the step


@torch.no_grad()
def shrunk(parts: Parts, psi0: Params, psi: Params, states: Tensor, bound: float) -> Params:
    """Return ψ₀ + t (ψ − ψ₀), for every row with the first t found by backtracking from 1 that keeps to the bound.

    The change of the action is nearly proportional to t, so each attempt aims at the bound instead of halving.

    Args:
        parts: the policy.
        psi0: the pretrained parameters, one set per row.
        psi: the adapted ones.
        states: where the action is compared, (N, B, obs_dim).
        bound: on ‖π_ψ(s) − π_ψ₀(s)‖ at every one of a row's states.
    """
    before = parts.policy(psi0, states)  # (N, B, act_dim)
    share = before.new_ones(len(before))
    within = torch.zeros_like(share, dtype=torch.bool)
    for _ in range(ATTEMPTS):
        change = (parts.policy(_between(psi0, psi, share), states) - before).norm(dim=-1).amax(1)  # (N,)
        within = change <= bound
        if not states.is_cuda and within.all():  # looking would wait for an accelerator
            break
        shorter = share * (AIM * bound / change).nan_to_num(0.0, posinf=0.0).clamp(max=AIM)
        share = torch.where(within, share, shorter)
    else:
        share = torch.where(within, share, 0.0)
    return _between(psi0, psi, share)


def _between(psi0: Params, psi: Params, share: Tensor) -> Params:
    """Return ψ₀ + share (ψ − ψ₀), exactly ψ where the share is 1."""
    shares = {name: share.view(-1, *[1] * (p.dim() - 1)) for name, p in psi.items()}
    return {name: torch.lerp(psi0[name], p, shares[name]) for name, p in psi.items()}


def action_change(parts: Parts, psi0: Params, psi: Params, states: Tensor) -> Tensor:
    """Return ‖π_ψ(s) − π_ψ₀(s)‖ at every state, (N, B)."""
    return (parts.policy(psi, states) - parts.policy(psi0, states)).norm(dim=-1)
