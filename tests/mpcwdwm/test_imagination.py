"""One unrolling: what it rolls, and that nothing behind an end reaches value or gradient."""

import pytest
import torch
from torch import nn

from mpcwdwm.imagination import unroll
from mpcwdwm.planning import AdaptiveMpc, ModulePolicy, MpcConfig, Parts

DOUBLE = torch.float64


def test_each_step_is_taken_from_the_last_state_with_its_own_action():
    start = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=DOUBLE)
    rolled = unroll(start, 3, lambda j, s: s + j, lambda j, s, a: 2 * s + a * j)
    state = start
    for j in range(3):
        assert torch.equal(rolled.obs[j], state)
        assert torch.equal(rolled.action[j], state + j)
        state = 2 * state + (state + j) * j
    assert torch.equal(rolled.obs[3], state)
    assert [len(rolled.obs), len(rolled.action), len(rolled.alive)] == [4, 3, 4]
    assert all((alive == 1).all() for alive in rolled.alive)


def test_behind_an_end_nothing_overflows_in_value_or_gradient():
    weight = torch.tensor(1.5, dtype=DOUBLE, requires_grad=True)
    start = torch.tensor([[1.0], [0.25]], dtype=DOUBLE)

    def explodes(j, state, action):  # above 2 the next state is infinite, and so is its slope
        return torch.where(state > 2, torch.exp(1e5 * (state - 2)), state + action)

    rolled = unroll(start, 5, lambda _, s: weight * s, explodes, lambda s, a, after: after[..., 0] > 2)
    assert [alive.tolist() for alive in rolled.alive] == [[1, 1], [0, 1], [0, 1], [0, 0], [0, 0], [0, 0]]
    assert all(state.isfinite().all() for state in rolled.obs)
    value = sum((alive * state.squeeze(-1)).sum() for alive, state in zip(rolled.alive, rolled.obs, strict=True))
    growth = 1 + weight
    expected = 1 + 0.25 * (1 + growth + growth**2)
    assert value.item() == pytest.approx(expected.item())
    (found,) = torch.autograd.grad(value, weight)
    (by_hand,) = torch.autograd.grad(expected, weight)
    assert found.item() == pytest.approx(by_hand.item())


class Overflowing:
    """s' = 3 s + a; from a state above 2, infinity."""

    noise_shape = (1,)

    def sample(self, obs, action, noise):
        return torch.where(obs > 2, torch.exp(1e5 * (obs - 2)), 3 * obs + action)


@pytest.mark.parametrize(("terminate", "falls"), [(True, False), (False, True)])
def test_a_row_whose_rollout_ended_before_it_overflows_does_not_fall_back(terminate, falls):
    torch.manual_seed(0)
    parts = Parts(
        ModulePolicy(nn.Linear(1, 1, dtype=DOUBLE)),
        world_model=Overflowing(),
        reward=lambda obs, action: -obs.square().sum(-1) - action.square().sum(-1),
        termination=lambda obs: obs[..., 0] > 2,
    )
    config = MpcConfig(H=4, M=2, step_size=0.01, reset="step", critic_from="none", terminate=terminate)
    action, value, fallen = AdaptiveMpc(parts, config).act(torch.ones(1, 1, dtype=DOUBLE))
    assert fallen.tolist() == [falls]
    assert value.isfinite().tolist() == [not falls]
    pretrained = AdaptiveMpc(parts, config.model_copy(update={"updates": 0})).act(torch.ones(1, 1, dtype=DOUBLE))[0]
    assert torch.equal(action, pretrained) == falls
