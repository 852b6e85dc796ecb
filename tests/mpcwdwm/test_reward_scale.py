"""Rewards in another unit: the same reward model, value and plans, in that unit."""

import dataclasses

import numpy as np
import pytest
import torch

from mpcwdwm.components import component_config
from mpcwdwm.components.component import fit_quality
from mpcwdwm.nn.networks import ScaleFreeNormalizer
from mpcwdwm.planning import AdaptiveMpc, MpcConfig, Parts
from mpcwdwm.planning.parts import SharedValue
from mpcwdwm.training.evaluators import heldout_evaluator
from mpcwdwm.training.loop import Training
from tests.support.imagined_episodes import Given
from tests.support.linear_quadratic import PRETRAINED, A, B, system, tensor
from tests.support.recorded_episodes import recorded

SMALL = {"hidden_dim": 16, "batch_size": 32, "steps": 60, "evaluations": 1}


def learnt(scale):
    """A reward model and a value, learnt from the same steps with rewards times a scale, and what is held out."""
    data = recorded(count=20, length=20)
    data = dataclasses.replace(data, reward=data.reward * np.float32(scale))
    given = {
        "rebrac": Given((0,), actor=lambda obs: -obs @ tensor(PRETRAINED).T.float()),
        "world_model": Given((0,), sample=lambda s, a, noise: s @ tensor(A).T.float() + a @ tensor(B).T.float()),
    }
    reward = Training("reward", component_config("reward", {}, SMALL), data, (0,))
    reward.run(evaluate=heldout_evaluator(reward.part, reward.datasets))
    given["reward"] = reward.part.requires_grad_(False)
    given["reward"].seeds = (0,)
    config = component_config("value", {}, {**SMALL, "episodes": 20, "length": 10, "halt": 2.0, "ensemble": 2})
    value = Training("value", config, data, (0,), bases=given)
    value.run(evaluate=heldout_evaluator(value.part, value.datasets))
    return reward, value


def planned(reward, value):
    """One action of a plan on them, with a step in the action's unit."""
    known = system()
    parts = Parts(
        policy=known.policy,
        world_model=known.world_model,
        reward=lambda obs, action: reward.part.double()(obs, action),
        critic=SharedValue(value.part.double(), 1),
        discount=0.9,
    )
    planner = AdaptiveMpc(parts, MpcConfig(H=3, M=1, E=2, step_size=0.1, step_unit="state", critic_from="value"))
    return planner.act(tensor([[0.5, -0.4]]))[0]


@pytest.fixture(scope="module")
def plain():
    reward, value = learnt(1.0)
    r2 = [training.curves[0][-1]["heldout/r2"] for training in (reward, value)]
    return reward, value, r2, planned(reward, value)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_rewards_times_a_power_of_two_give_the_same_models_and_plans_to_the_bit(plain, scale):
    reward, value, r2, action = plain
    other_reward, other_value = learnt(scale)
    for ours, theirs in ((reward, other_reward), (value, other_value)):
        for name, weights in ours.part.net.state_dict().items():
            assert torch.equal(weights, theirs.part.net.state_dict()[name]), name
    assert [t.curves[0][-1]["heldout/r2"] for t in (other_reward, other_value)] == r2
    obs = torch.randn(1, 50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = (training.part.double()(obs) for training in (value, other_value))
    assert torch.allclose(theirs, scale * ours, rtol=1e-12, atol=0)
    assert torch.allclose(planned(other_reward, other_value), action, rtol=1e-9)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_diffusers_value_is_the_same_to_the_bit_where_returns_are_standardised(scale):
    fields = {"hidden_dim": 8, "multipliers": "1,2", "horizon": 8, "batch_size": 16, "terminal_penalty": 0}
    config = component_config("diffuser", {}, {**fields, "steps": 10, "evaluations": 1, "normalize_return": True})
    data = recorded(count=20, length=20)

    def trained(scale):
        scaled = dataclasses.replace(data, reward=data.reward * np.float32(scale))
        training = Training("diffuser", config, scaled, (0,))
        training.run()
        return training.part

    ours, theirs = trained(1.0), trained(scale)
    for name, weights in ours.value_net.state_dict().items():
        assert torch.equal(weights, theirs.value_net.state_dict()[name]), name
    x = torch.randn(1, 5, *ours.window, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(theirs.value(x, 0), scale * ours.value(x, 0), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_rewards_times_a_power_of_ten_are_learnt_as_well(plain, scale):
    reward, value = learnt(scale)
    found = [training.curves[0][-1]["heldout/r2"] for training in (reward, value)]
    assert found == pytest.approx(plain[2], abs=0.02)
    assert torch.allclose(planned(reward, value), plain[3], atol=0.02)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_constant_rewards_are_divided_by_their_size_or_by_one(scale):
    for rows, divisor in (([3.0, 3.0], 3.0 * scale), ([0.0, 0.0], 1.0), ([1.0, 3.0], scale)):
        normalizer = ScaleFreeNormalizer((1,), 1, torch.float64)
        normalizer.fit(0, scale * torch.tensor(rows, dtype=torch.float64).unsqueeze(-1))
        assert float(normalizer.std) == pytest.approx(divisor)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_fit_is_judged_alike_in_every_unit(scale):
    actual, predicted = torch.tensor([[1.0, 2.0, 4.0]]) * scale, torch.tensor([[1.0, 2.5, 3.5]]) * scale
    assert float(fit_quality(predicted, actual)["heldout/r2"]) == pytest.approx(1 - 0.5 / (14 / 3), rel=1e-5)
    assert torch.isfinite(fit_quality(actual * 0, actual * 0)["heldout/r2"]).all()
