"""MPPI against a twin written by hand, and what becomes of candidates that end or break."""

import numpy as np
import pytest
import torch

from mpcwdwm.planning import MppiConfig
from mpcwdwm.planning.mppi import refit
from mpcwdwm.planning.returns import sequence_returns
from mpcwdwm.random import generator
from tests.support.planners import make, observations
from tests.support.random_parts import ACT, DOUBLE, make_parts


@pytest.mark.parametrize("execute", ["mean", "best"])
@pytest.mark.parametrize("last_action", ["policy", "planned"])
def test_two_iterations_of_mppi_equal_those_written_by_hand(execute, last_action):
    """TD-MPC2's update in NumPy, a loop over candidates and rollouts; only the networks are shared."""
    parts = make_parts((0, 1))
    fields = {"E": 2, "policy_std": 0.3, "execute": execute, "last_action": last_action, "max_std": 0.7}
    planner = make("mppi", parts, fields)
    planner.act(observations(1)[0])  # a step before, so that the mean is not zero
    before, (obs,) = planner.kept["mean"].numpy().copy(), observations(2)[1:]
    action, value, _ = planner.act(obs)
    noise, exploration, drawn = (x.clone() for x in planner.noises)
    horizon, length, rollouts = 2, 2 + (last_action == "planned"), 2

    def pi(s):  # (N, obs_dim) → (N, act_dim)
        return parts.policy(planner.psi0, s.unsqueeze(1)).squeeze(1)

    def step(s, a, j, m):
        return parts.world_model.sample(s.unsqueeze(1), a.unsqueeze(1), noise[:, j, m : m + 1]).squeeze(1)

    plans = np.zeros((4, 12, length, ACT))
    for p in range(3):
        s = obs
        for j in range(length):
            a = (pi(s) + (0.3 if p else 0.0) * exploration[:, p, j]).clamp(-1, 1)
            plans[:, p, j] = a.numpy()
            s = step(s, a, j, p % rollouts) if j < length - 1 else s
    mean, std = before, np.full_like(before, 0.7)
    for e in range(2):
        plans[:, 3:] = np.clip(mean[:, None] + std[:, None] * drawn[:, e].numpy(), -1, 1)
        returns = np.zeros((4, 12))
        for c in range(12):
            for m in range(rollouts):
                s = obs
                for j in range(horizon):
                    a = torch.from_numpy(plans[:, c, j])
                    returns[:, c] += 0.9**j * parts.reward(s.unsqueeze(1), a.unsqueeze(1))[:, 0].numpy() / rollouts
                    s = step(s, a, j, m)
                a = torch.from_numpy(plans[:, c, horizon]) if length > horizon else pi(s)
                q = parts.critic(s.unsqueeze(1), a.unsqueeze(1))[:, :, 0].numpy().min(1)
                returns[:, c] += 0.9**horizon * q / rollouts
        for row in range(4):
            elite = np.argsort(-returns[row])[:5]
            score = np.exp(2.0 * (returns[row, elite] - returns[row, elite].max()))
            score /= score.sum()
            mean[row] = np.einsum("e,ela->la", score, plans[row, elite])
            variance = np.einsum("e,ela->la", score, (plans[row, elite] - mean[row]) ** 2)
            std[row] = np.clip(np.sqrt(variance), 0.05, 0.7)
            wanted = mean[row, 0] if execute == "mean" else plans[row, elite[0], 0]
            worth = score @ returns[row, elite]
            if e == 1:
                assert np.allclose(action[row].numpy(), wanted, rtol=0, atol=1e-10)
                assert float(value[row]) == pytest.approx(worth, rel=1e-10)
                shifted = np.concatenate([mean[row, 1:], np.zeros((1, ACT))])
                assert np.allclose(planner.kept["mean"][row].numpy(), shifted, rtol=0, atol=1e-10)


def test_the_spread_of_the_elites_becomes_the_next_std_within_its_bounds():
    config = MppiConfig(samples=6, policy_samples=0, elites=3, temperature=0.7, min_std=0.1, max_std=0.5)
    plans = torch.randn(2, 6, 1, 40, generator=generator(0, "test/plans"), dtype=DOUBLE) * 0.4
    returns = torch.randn(2, 6, generator=generator(1, "test/plans"), dtype=DOUBLE)
    returns[1, 4] = returns[1].max() + 5.0  # so much better that the elites hardly spread
    fit = refit(plans, returns, config)
    for row in range(2):
        elite = returns[row].argsort(descending=True)[:3]
        weight = np.exp(0.7 * (returns[row, elite] - returns[row].max()).numpy())
        mean = np.average(plans[row, elite].numpy(), axis=0, weights=weight)
        std = np.sqrt(np.average((plans[row, elite].numpy() - mean) ** 2, axis=0, weights=weight))
        assert (std < 0.1).any()
        assert np.allclose(fit.std[row].numpy(), np.clip(std, 0.1, 0.5), atol=1e-12)
        assert torch.equal(fit.best[row], plans[row, elite[0]])


def test_a_candidate_without_a_finite_return_counts_for_nothing():
    config = MppiConfig(samples=5, policy_samples=0, elites=4)
    plans = torch.randn(1, 5, 2, ACT, generator=generator(0, "test/plans"), dtype=DOUBLE)
    plans[0, 1] = float("nan")
    returns = torch.tensor([[1.0, float("nan"), 3.0, float("inf"), 2.0]], dtype=DOUBLE)
    fit = refit(plans, returns, config)
    sound = refit(plans[:, [0, 2, 4]], returns[:, [0, 2, 4]], config.model_copy(update={"elites": 3}))
    assert torch.allclose(fit.mean, sound.mean, atol=1e-15)
    assert torch.allclose(fit.std, sound.std, atol=1e-15)
    assert torch.equal(fit.best, plans[:, 2])
    assert not fit.failed.any()
    assert refit(plans, returns.fill_(float("nan")), config).failed.all()


def test_sequences_that_end_early_go_on_with_the_policy():
    """The policy's own sequence in a deterministic model is worth what the policy is."""
    from mpcwdwm.planning import MpcConfig, objective

    parts, config, (obs,) = make_parts((0, 1)), MpcConfig(H=2, M=1), observations(1)
    psi0 = parts.policy.initial(2)
    noise = torch.randn(4, 2, 1, *parts.world_model.noise_shape, generator=generator(0, "test/noise"), dtype=DOUBLE)
    state, plan = obs.unsqueeze(1), []
    for j in range(3):
        plan.append(parts.policy(psi0, state))
        if j < 2:
            state = parts.world_model.sample(state, plan[-1], noise[:, j])
    plans = torch.stack(plan, 2)  # (N, 1, 3, act_dim)
    expected = objective(parts, psi0, obs, noise, config)
    for length in (1, 2, 3):
        found = sequence_returns(parts, psi0, plans[:, :, :length], obs, noise, config)
        assert torch.allclose(found.squeeze(1), expected, rtol=0, atol=1e-12)
