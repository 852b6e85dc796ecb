"""Algorithm 1: its gradient against finite differences and Theorem 4.1's recursion, and its bookkeeping."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mpcwdwm.errors import UserError
from mpcwdwm.planning import AdaptiveMpc, ModulePolicy, MpcConfig, Parts, adapt, imagine, objective
from mpcwdwm.random import generator
from tests.support.random_parts import ACT, DOUBLE, OBS, gradient, keep_member, make_parts, problem

# ---------------------------------------------------------------------------------------- gradient


@pytest.mark.parametrize("horizon", [0, 1, 3])
@pytest.mark.parametrize(
    "setting", [{}, {"base": "iql"}, {"sampler": "ddim"}, {"predict": "state"}, {"scale": 100.0, "shift": -1.0}]
)
def test_the_gradient_equals_finite_differences(horizon, setting):
    parts, config = make_parts((0, 1), **setting), MpcConfig(H=horizon, M=3, critic="mean")
    psi, obs, noise = problem(parts, config, episodes=2)
    _, gradients = gradient(parts, psi, obs, noise, config)
    g, step = generator(1, "test/direction"), 1e-6
    direction = {name: torch.randn(p.shape, generator=g, dtype=DOUBLE) for name, p in psi.items()}
    values = [
        objective(parts, {n: p + sign * step * direction[n] for n, p in psi.items()}, obs, noise, config)
        for sign in (1, -1)
    ]
    numeric = (values[0] - values[1]) / (2 * step)  # (N,): each row's own directional derivative
    analytic = sum((gradients[n] * direction[n]).flatten(1).sum(1) for n in psi)
    assert torch.allclose(analytic, numeric, rtol=1e-5, atol=1e-7)


def test_the_gradient_equals_finite_differences_with_terminated_rollouts():
    parts, config = make_parts(), MpcConfig(H=3, M=16, critic="mean")
    psi, obs, noise = problem(parts, config)
    rolled = imagine(parts, psi, obs, noise, config)
    boundary = float(rolled.obs[1][..., 0].median())  # about half of the rollouts end at the first step
    gap = float((rolled.obs[1][..., 0] - boundary).abs().sort().values.flatten()[1])
    parts.termination = lambda state: state[..., 0] > boundary + gap / 2
    alive = imagine(parts, psi, obs, noise, config).alive
    assert 0 < alive[1].mean() < 1
    assert all((after <= before).all() for before, after in pairwise(alive))
    _, gradients = gradient(parts, psi, obs, noise, config)
    name, step = next(iter(psi)), 1e-7
    bumped = {n: p.clone() for n, p in psi.items()}
    bumped[name][0, 0, 0] += step
    lowered = {n: p.clone() for n, p in psi.items()}
    lowered[name][0, 0, 0] -= step
    numeric = (objective(parts, bumped, obs, noise, config) - objective(parts, lowered, obs, noise, config)) / (
        2 * step
    )
    assert torch.allclose(gradients[name][0, 0, 0], numeric[0], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("terminate", [True, False])
def test_the_objective_is_that_of_a_loop_over_rollouts_which_stops_where_they_end(terminate):
    parts, config = make_parts((0, 1)), MpcConfig(H=4, M=6, critic="min", terminate=terminate)
    psi, obs, noise = problem(parts, config, episodes=2)
    reached = torch.stack(imagine(parts, psi, obs, noise, config).obs[1:])[..., 0]
    boundary = float(reached.quantile(0.75))  # some rollouts end at every step, some never
    parts.termination = lambda state: state[..., 0] > boundary
    expected, ended_after = torch.zeros(4, dtype=DOUBLE), set()
    for row in range(4):
        for m in range(config.rollouts):
            # every row is kept, so that its member's networks are met; only one row's numbers are read
            state, total, j = obs.unsqueeze(1), 0.0, 0
            while j < config.horizon:
                action = parts.policy(psi, state)
                total += parts.discount**j * float(parts.reward(state, action)[row, 0])
                state = parts.world_model.sample(state, action, noise[:, j, m : m + 1])
                j += 1
                if terminate and float(state[row, 0, 0]) > boundary:
                    break
            else:
                q = parts.critic(state, parts.policy(psi, state))[row, :, 0]
                total += parts.discount**j * float(q.min())
            ended_after.add(j)
            expected[row] += total / config.rollouts
    assert torch.allclose(objective(parts, psi, obs, noise, config), expected, rtol=1e-10)
    assert (len(ended_after) > 1) == terminate


def test_the_gradient_equals_the_recursion_of_theorem_4_1():
    """G_0 = 0, D_j = π_s G_j + π_ψ, G_{j+1} = F_s G_j + F_a D_j; ∇L = Σ γ^j (r_s G_j + r_a D_j) + γ^H (Q_s G_H + …)."""
    parts, config = make_parts(), MpcConfig(H=4, M=1, critic="first")
    psi, obs, noise = problem(parts, config)
    names, shapes = list(psi), [p.shape for p in psi.values()]
    flat = torch.cat([p.flatten() for p in psi.values()])

    def unflatten(vector: Tensor) -> dict[str, Tensor]:
        pieces = vector.split([shape.numel() for shape in shapes])
        return {n: piece.view(shape) for n, piece, shape in zip(names, pieces, shapes, strict=True)}

    def pi(vector, s):
        return parts.policy(unflatten(vector), s.view(1, 1, -1)).flatten()

    def f(s, a, z):
        return parts.world_model.sample(s.view(1, 1, -1), a.view(1, 1, -1), z).flatten()

    def r(s, a):
        return parts.reward(s.view(1, 1, -1), a.view(1, 1, -1)).sum()

    def q(s, a):
        return parts.critic(s.view(1, 1, -1), a.view(1, 1, -1))[0, 0, 0]

    jacobian = torch.autograd.functional.jacobian
    s, total = obs[0], torch.zeros_like(flat)
    g = torch.zeros(OBS, len(flat), dtype=DOUBLE)
    for j in range(config.horizon + 1):
        a = pi(flat, s).detach()
        pi_psi, pi_s = jacobian(pi, (flat, s))
        d = pi_s @ g + pi_psi
        last = j == config.horizon
        value_s, value_a = jacobian(q if last else r, (s, a))
        total += parts.discount**j * (value_s @ g + value_a @ d)
        if not last:
            z = noise[:, j]
            f_s, f_a = jacobian(lambda s_, a_, z=z: f(s_, a_, z), (s, a))
            g = f_s @ g + f_a @ d
            s = f(s, a, z).detach()
    _, gradients = gradient(parts, psi, obs, noise, config)
    ours = torch.cat([gradients[n].flatten() for n in names])
    assert total.abs().max() > 1e-3
    assert torch.allclose(ours, total, rtol=1e-8, atol=1e-10)


# --------------------------------------------------------------------------------------- adaptation


def test_rows_do_not_feel_each_other():
    parts, config = make_parts((0, 1)), MpcConfig(H=2, M=3, E=2, step_size=1e-2)
    psi, obs, noise = problem(parts, config, episodes=2)
    together, value, _ = adapt(parts, psi, psi, obs, [noise] * 2, config)
    changed = obs.clone()
    changed[1:] += 1.0
    apart, other, _ = adapt(parts, psi, psi, changed, [noise] * 2, config)
    for name in psi:
        assert torch.allclose(together[name][0], apart[name][0], rtol=0, atol=1e-14)
        assert not torch.equal(together[name][1], apart[name][1])
    assert torch.allclose(value[0], other[0], atol=1e-14)


def test_lockstep_episodes_equal_single_ones():
    """Two members with three episodes each plan as six planners of one row would."""
    config = MpcConfig(H=2, M=4, E=2, step_size=1e-2)
    parts = make_parts((0, 1))
    psi, obs, noise = problem(parts, config, episodes=3)
    together, _, _ = adapt(parts, psi, psi, obs, [noise] * 2, config)
    for row in range(6):
        member = row // 3
        single = make_parts((0, 1))
        for part in (single.world_model, single.reward, single.critic):
            keep_member(part.part, member)
            part.members = 1
        single.reward.scale, single.reward.shift = parts.reward.scale[member:][:1], parts.reward.shift[member:][:1]
        keep_member(single.policy.actor, member)
        single.members = 1
        psi_row = single.policy.initial(1)
        alone, _, _ = adapt(single, psi_row, psi_row, obs[row : row + 1], [noise[row : row + 1]] * 2, config)
        for name in psi:
            assert torch.allclose(together[name][row], alone[name][0], rtol=0, atol=1e-12)


def test_ascent_raises_the_objective_it_climbs():
    parts, config = make_parts(), MpcConfig(H=2, M=8, E=20, step_size=1e-3)
    psi, obs, noise = problem(parts, config)
    adapted, _, _ = adapt(parts, psi, psi, obs, [noise] * 20, config)
    assert objective(parts, adapted, obs, noise, config) > objective(parts, psi, obs, noise, config)


def test_one_update_is_one_step_along_the_gradient():
    parts, config = make_parts(), MpcConfig(H=2, M=8, E=1, step_size=1e-3)
    psi, obs, noise = problem(parts, config)
    _, gradients = gradient(parts, psi, obs, noise, config)
    adapted, _, _ = adapt(parts, psi, psi, obs, [noise], config)
    for name in psi:
        assert torch.allclose(adapted[name], psi[name] + 1e-3 * gradients[name], rtol=0, atol=1e-15)


def test_a_row_with_a_broken_gradient_falls_back_and_the_others_do_not_notice():
    parts, config = make_parts(), MpcConfig(H=1, M=2, E=2, step_size=1e-2)
    psi, obs, noise = problem(parts, config, episodes=3)
    sound, _, fallen = adapt(parts, psi, psi, obs, [noise] * 2, config)
    assert not fallen.any()
    obs[1, 0] = float("nan")
    adapted, _, fallen = adapt(parts, psi, psi, obs, [noise] * 2, config)
    assert fallen.tolist() == [False, True, False]
    for name in psi:
        assert torch.equal(adapted[name][1], psi[name][1])
        assert torch.equal(adapted[name][0], sound[name][0])
    later, _, _ = adapt(parts, sound, psi, obs, [noise] * 2, config)  # ψ has moved since: back to ψ₀, not to it
    assert all(torch.equal(later[name][1], psi[name][1]) for name in psi)
    assert not any(torch.equal(sound[name][1], psi[name][1]) for name in psi)


# ------------------------------------------------------------------------------------------ planner


def test_psi_is_carried_over_within_an_episode_or_reset_at_every_step():
    parts = make_parts()
    obs = torch.randn(1, OBS, generator=generator(0, "test/obs"), dtype=DOUBLE)
    carried = AdaptiveMpc(parts, MpcConfig(H=1, M=2, E=1, step_size=1e-2))
    fresh = AdaptiveMpc(parts, MpcConfig(H=1, M=2, E=1, step_size=1e-2, reset="step"))
    first = carried.act(obs)[0]
    assert torch.equal(first, fresh.act(obs)[0])
    second = carried.act(obs)[0]
    assert not torch.equal(second, fresh.act(obs)[0])
    moved = {name: p.clone() for name, p in carried.psi.items()}
    carried.rewind()
    assert torch.equal(carried.act(obs)[0], first)  # begun again: same ψ₀, same noise stream
    assert not torch.equal(moved["net.head.weight"], carried.psi["net.head.weight"])


def test_noise_is_new_at_every_real_step_and_held_over_its_updates():
    planner = AdaptiveMpc(make_parts(), MpcConfig(H=1, M=2, E=3))
    obs = torch.zeros(1, OBS, dtype=DOUBLE)
    first = planner.draw_noise()[0].clone()
    assert not torch.equal(first, planner.draw_noise()[0])
    seen: list[Tensor] = []
    sample = planner.parts.world_model.sample
    planner.parts.world_model.sample = lambda s, a, z: (seen.append(z), sample(s, a, z))[1]
    planner.act(obs)
    seen = seen[-3:]  # before, every part was tried out
    assert torch.equal(seen[0], seen[2])


def test_a_members_noise_depends_on_its_seed_alone():
    both = AdaptiveMpc(make_parts((5, 8)), MpcConfig(H=2, M=3), seeds=(5, 8), episodes=2)
    alone = AdaptiveMpc(make_parts((8,)), MpcConfig(H=2, M=3), seeds=(8,), episodes=2)
    assert torch.equal(both.draw_noise()[0][2:], alone.draw_noise()[0])


def test_no_update_means_the_pretrained_policy():
    parts = make_parts()
    planner = AdaptiveMpc(parts, MpcConfig(H=1, M=2, E=0))
    obs = torch.randn(1, OBS, generator=generator(0, "test/obs"), dtype=DOUBLE)
    assert torch.equal(planner.act(obs)[0], parts.policy(planner.psi0, obs.unsqueeze(1)).squeeze(1))


def test_frozen_parts_never_get_gradients():
    parts, config = make_parts(), MpcConfig(H=2, M=2)
    psi, obs, noise = problem(parts, config)
    adapt(parts, psi, psi, obs, [noise], config)
    for part in (parts.world_model, parts.reward, parts.critic):
        assert all(p.grad is None and not p.requires_grad for p in part.part.parameters())


def test_rewards_of_a_plan_are_scaled_as_the_critics():
    plain, scaled = make_parts(scale=1.0), make_parts(scale=100.0, shift=-1.0)
    obs, action = torch.zeros(1, 3, OBS, dtype=DOUBLE), torch.zeros(1, 3, ACT, dtype=DOUBLE)
    assert torch.allclose(scaled.reward(obs, action), 100 * plain.reward(obs, action) - 1)


def test_ones_own_policy_critic_and_model_can_be_plugged_in():
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Linear(OBS, 8), nn.Tanh(), nn.Linear(8, ACT), nn.Tanh())

    class Drift:
        noise_shape = (OBS,)

        def sample(self, obs, action, noise):
            return obs + 0.1 * action.sum(-1, keepdim=True) + 0.01 * noise

    parts = Parts(
        policy=ModulePolicy(policy),
        world_model=Drift(),
        reward=lambda obs, action: -(action - 0.5).square().sum(-1),
        critic=lambda obs, action: -(action - 0.5).square().sum(-1).unsqueeze(1),
    )
    planner = AdaptiveMpc(parts, MpcConfig(H=2, M=4, E=200, step_size=0.05))
    action = planner(np.ones(OBS, dtype=np.float32))
    assert action.shape == (ACT,)
    assert np.allclose(action, 0.5, atol=0.02)  # what every term of this objective asks for


@pytest.mark.parametrize("missing", ["world_model", "reward"])
def test_a_horizon_without_its_models_is_refused_in_one_line(missing):
    with pytest.raises(UserError, match="needs a world model and a reward"):
        AdaptiveMpc(dataclasses.replace(make_parts(), **{missing: None}), MpcConfig(H=1))
