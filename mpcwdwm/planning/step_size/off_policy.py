"""Off-policy evaluation: is a planner better than the pretrained policy, estimated without the environment?

Each estimator scores a candidate's actions along recorded stretches (`Windows`). Higher is better, the pretrained
policy scores 0, and scores are comparable within one estimator and member. They rely on different things: the
critic, recorded rewards, or the world model.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mpcwdwm.components.actor_critic import Critic
from mpcwdwm.imagination import halted_value
from mpcwdwm.planning.parts import Parts, SharedCritic, SharedValue
from mpcwdwm.planning.planner import Planner
from mpcwdwm.planning.returns import imagined_rollouts
from mpcwdwm.planning.step_size.windows import Windows
from mpcwdwm.random import generator

__all__ = ["NEEDS", "Estimator", "critic", "fqe_disjoint", "imagination", "lstd_weights"]

Estimator = Callable[[Parts, Windows, Tensor, Tensor], Tensor]
"""(parts, windows, the pretrained policy's actions (N, L, act_dim), a candidate's) → scores (members,), float64."""
NEEDS: dict[str, tuple[str, ...]] = {
    "critic": ("critic",),
    "fqe_disjoint": (),
    "imagination": ("world_model", "reward"),
}
"""Estimator → the fields of `Parts` it cannot do without."""

# λ per row, for features of variance 1. With 1e-2 the estimated value of the behaviour in Hopper's data is within 3 %
# of its returns, within 7 % from disjoint halves; with 1e-3 and less, values of other policies from disjoint halves
# came out up to seventeen times too large.
FQE_RIDGE = 1e-2
IMAGINED_STEPS = 200  # T: far beyond any plan's horizon; a robot takes a hundred steps and more to fall
HALT = 10.0  # standard deviations from the mean of the recorded states; as far as the component `value` imagines
MARGIN = 1.0  # standard errors, over stretches, subtracted from an imagined gain


# -------------------------------------------------------------------------------------- the critic


@torch.no_grad()
def critic(parts: Parts, windows: Windows, base: Tensor, candidate: Tensor) -> Tensor:
    """Mean of Q(s, a) − Q(s, π₀(s)), the smaller of the twins; in the critic's return.

    It cannot see the critic's errors, which a planner that maximises the same critic exploits.
    """
    assert parts.critic is not None
    obs = windows.by_member(windows.obs)
    values = [parts.critic(obs, windows.by_member(a)).amin(1).double() for a in (candidate, base)]
    return (values[0] - values[1]).mean(1)


# ---------------------------------------------------------------------------- fitted Q evaluation


def fqe_disjoint(parts: Parts, windows: Windows, base: Tensor, candidate: Tensor) -> Tensor:
    """Value of the adapted policy minus that of the pretrained one at recorded states, in the critic's return.

    Each policy's Q solves its own Bellman equation over the recorded transitions (s, a, r, s′, a′ = the policy's
    action at s′) by least squares (LSTD-Q with ridge), linear in the last hidden layer of the member's frozen
    critics. A critic that is not one of ours shows no features; then they are all products of two of (1, s, a).

    Weights come from one half of the episodes, states from the other, both ways, against overfitting. nan where a
    member's stretches come from a single episode.
    """
    return _policy_value(parts, windows, candidate) - _policy_value(parts, windows, base)


@torch.no_grad()
def _policy_value(parts: Parts, windows: Windows, action: Tensor) -> Tensor:
    """Return the mean over recorded states of Q^π(s, π(s)), π being the policy of these actions: (members,)."""
    w = windows.per_member
    own = _features(parts, windows, windows.by_member(windows.obs), windows.by_member(action))
    at = own.unflatten(1, (w, -1)).mean(2)  # (S, W, F): values are linear in the features
    half = _halves(windows)
    first, second = (_fitted(parts, windows, action, side).unsqueeze(1) for side in (~half, half))
    return (at * torch.where(half.unsqueeze(-1), first, second)).sum(-1).mean(1)


def _fitted(parts: Parts, windows: Windows, action: Tensor, stretches: Tensor) -> Tensor:
    """Return the weights of Q^π, (S, F), π being the policy of these actions, from some of the stretches, (S, W)."""
    shape = (windows.members, windows.per_member, windows.obs.shape[1])  # S, W, L
    obs = windows.by_member(windows.obs)
    recorded, own = (
        _features(parts, windows, obs, windows.by_member(a)).view(*shape, -1) for a in (windows.action, action)
    )
    reward, mask = windows.reward.double().view(shape), windows.mask.double().view(shape)
    # the last step of a stretch lacks the next action, and needs none where the episode ended
    known = (torch.arange(shape[-1], device=mask.device) < shape[-1] - 1) | (mask == 0)
    use, following = known & stretches.unsqueeze(-1), own.roll(-1, 2)
    members = [
        lstd_weights(recorded[m][used], following[m][used], reward[m][used], mask[m][used], parts.discount, FQE_RIDGE)
        for m, used in enumerate(use)
    ]
    return torch.stack(members)


def lstd_weights(
    recorded: Tensor, following: Tensor, reward: Tensor, mask: Tensor, discount: float, ridge: float
) -> Tensor:
    """Return w of Q(s, a) = φ(s, a)ᵀw: (Φᵀ(Φ − γ mask Φ′)/R + λI)⁻¹ Φᵀr/R, the first feature, 1, without ridge.

    Args:
        recorded: Φ, φ(s, a) of R transitions, (R, F).
        following: Φ′, φ(s′, π(s′)), (R, F).
        reward: (R,).
        mask: 0 where the episode ended, (R,).
        discount: γ.
        ridge: λ.

    Returns:
        (F,), float64; nan where the equation has no solution or there are no rows.
    """
    size = recorded.shape[1]
    if not len(recorded):
        return recorded.new_full((size,), torch.nan)
    matrix = recorded.T @ (recorded - discount * mask.unsqueeze(1) * following) / len(recorded)
    penalty = torch.full_like(matrix[0], ridge)
    penalty[0] = 0
    weights, failed = torch.linalg.solve_ex(matrix + penalty.diag(), recorded.T @ reward / len(recorded))
    return torch.where(failed == 0, weights, torch.nan)


def _features(parts: Parts, windows: Windows, obs: Tensor, action: Tensor) -> Tensor:
    """Return φ(s, a), 1 first, the others standardised over the recorded steps: (S, R, F), float64.

    Args:
        parts: the critic, if it is one of ours.
        windows: the recorded steps.
        obs: (S, R, obs_dim).
        action: (S, R, act_dim).
    """
    steps = (windows.by_member(windows.obs), windows.by_member(windows.action))
    if isinstance(parts.critic, SharedCritic) and isinstance(network := parts.critic.part, Critic):
        recorded, own = _hidden_layer(network, *steps), _hidden_layer(network, obs, action)
    else:
        recorded, own = _products(*steps, *steps), _products(*steps, obs, action)
    mean, std = recorded.mean(1, keepdim=True), recorded.std(1, correction=0, keepdim=True)
    # a unit that is constant over the recorded steps has no fitted weight
    scaled = torch.where(std > 1e-6 * (1 + mean.abs()), (own - mean) / std, 0.0)
    return torch.cat([torch.ones_like(scaled[..., :1]), scaled], -1)


def _hidden_layer(network: Critic, obs: Tensor, action: Tensor) -> Tensor:
    """Return the inputs of the twins' last layers, side by side: (S, R, 2 · hidden), float64."""
    inputs: list[Tensor] = []
    handle = network.net.head.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        network(obs, action)
    finally:
        handle.remove()
    return inputs[0].double().transpose(1, 2).flatten(2)  # (S, 2, R, hidden) before


def _products(recorded_obs: Tensor, recorded_action: Tensor, obs: Tensor, action: Tensor) -> Tensor:
    """Return s, a and all products of two of them, standardised before over the recorded: (S, R, ·), float64."""
    recorded, own = torch.cat([recorded_obs, recorded_action], -1).double(), torch.cat([obs, action], -1).double()
    x = (own - recorded.mean(1, keepdim=True)) / recorded.std(1, correction=0, keepdim=True).clamp_min(1e-6)
    i, j = torch.triu_indices(x.shape[-1], x.shape[-1], device=x.device)
    return torch.cat([x, x[..., i] * x[..., j]], -1)


def _halves(windows: Windows) -> Tensor:
    """Return which stretches are of every second episode of their member, (S, W)."""
    episodes = windows.episode.view(windows.members, -1)
    return torch.stack([torch.unique(own, return_inverse=True)[1] % 2 == 1 for own in episodes])


# ------------------------------------------------------------------------------------ imagination


def imagination(parts: Parts, windows: Windows, planner: Planner, seeds: Sequence[int]) -> Tensor:
    """Discounted reward of T imagined steps with the planner acting, minus that with the pretrained policy.

    In the critic's unit, from the first observation of every stretch; an ended rollout earns nothing more. One that
    is `HALT` standard deviations from the data's mean is halted, and the state there is worth a bound from below. The
    sum ends with the pretrained policy's own value where the parts have it (`critic_from: value`), and else with
    nothing: the critic is what the planner maximised. The score is the mean over stretches less one standard error.
    It covers the states to which adaptation leads, and depends on the world model there.

    Args:
        parts: world model, reward, termination.
        windows: where to start.
        planner: with one row for each stretch.
        seeds: one per member; every planner gets the same noise.
    """
    psi0 = parts.policy.initial(1)
    w = windows.per_member

    def pretrained(obs: Tensor) -> Tensor:
        return parts.policy(psi0, obs.view(windows.members, w, -1)).flatten(0, 1)

    def adapted(obs: Tensor) -> Tensor:
        with torch.enable_grad():  # a planner may follow a gradient
            return planner.act(obs)[0].detach().clone()

    planner.rewind()
    assert parts.world_model is not None
    size = (w, IMAGINED_STEPS, 1, *parts.world_model.noise_shape)
    drawn = [torch.randn(size, generator=generator(seed, "judge/imagination"), dtype=torch.float64) for seed in seeds]
    noise = torch.cat(drawn).to(windows.obs)  # (N, T, 1, *noise_shape)
    gain = _imagined_return(parts, windows, adapted, noise) - _imagined_return(parts, windows, pretrained, noise)
    stderr = gain.std(1, correction=0) / max(1, w - 1) ** 0.5
    return gain.mean(1) - MARGIN * stderr


@torch.no_grad()
def _imagined_return(parts: Parts, windows: Windows, act: Callable[[Tensor], Tensor], noise: Tensor) -> Tensor:
    """Return Σ_j γ^j r_j of every stretch, without terms behind a termination: (members, W)."""
    assert parts.reward is not None
    extent = windows.extent

    def left(obs: Tensor) -> Tensor:
        assert extent is not None
        return ((obs - extent.mean).abs() > HALT * extent.std + torch.finfo(obs.dtype).eps * extent.mean.abs()).any(-1)

    def choose(_: int, obs: Tensor) -> Tensor:
        return act(obs.squeeze(1)).unsqueeze(1)

    imagined = imagined_rollouts(parts, windows.obs[:, 0], noise, choose, left=left if extent else None)
    lowest = [] if extent is None else [halted_value(float(least), parts.discount) for least in extent.lowest]
    behind = torch.tensor(lowest, dtype=torch.float64, device=noise.device)
    behind = behind.repeat_interleave(windows.per_member).unsqueeze(-1)  # (N, 1)
    total = torch.zeros(len(noise), 1, dtype=torch.float64, device=noise.device)
    for j in range(noise.shape[1]):
        reward = parts.reward(imagined.obs[j], imagined.action[j])
        # what is imagined behind a termination need not be finite
        total += parts.discount**j * torch.where(imagined.alive[j] > 0, reward, 0.0)
        if extent is not None:
            total += parts.discount ** (j + 1) * imagined.halted[j] * behind
    if isinstance(parts.critic, SharedValue):
        beyond = parts.critic(imagined.obs[-1], imagined.action[-1]).mean(1)
        total += parts.discount ** noise.shape[1] * torch.where(imagined.alive[-1] > 0, beyond, 0.0)
    return total.view(windows.members, -1)
