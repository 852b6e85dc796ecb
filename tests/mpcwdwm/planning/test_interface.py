"""What a user's own parts get wrong is said in one line, before the first step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import mpcwdwm
from mpcwdwm.errors import UserError
from tests.support.random_parts import ACT, DOUBLE, OBS, make_parts


class Model:
    noise_shape = (OBS,)

    def __init__(self, of=lambda obs: obs, moves=torch.zeros_like):
        self.of, self.moves = of, moves

    def sample(self, obs, action, noise):
        return self.of(obs + 0.1 * noise + self.moves(action).sum(-1, keepdim=True))


class Detached(mpcwdwm.ModulePolicy):
    def __init__(self):
        super().__init__(nn.Linear(OBS, ACT, dtype=DOUBLE))

    @torch.no_grad()
    def __call__(self, psi, obs):
        return super().__call__(psi, obs)


def numbered(model):
    model.noise_shape = OBS
    return model


def detached(obs, action):
    return (obs.sum(-1) + action.sum(-1)).unsqueeze(1).detach()


def module(inputs=OBS, dtype=DOUBLE):
    return mpcwdwm.ModulePolicy(nn.Linear(inputs, ACT, dtype=dtype))


WRONG = {
    "another task's policy": (
        {"policy": lambda: module(17)},
        f"parts.policy does not take .* {OBS} numbers",
    ),
    "float policy": ({"policy": lambda: module(dtype=torch.float32)}, "parameters are torch.float32"),
    "plain module": ({"policy": lambda: nn.Linear(OBS, ACT)}, "parts.policy is a Linear without initial"),
    "plain model": ({"world_model": lambda: nn.Linear(OBS, OBS)}, "parts.world_model is a Linear without noise_shape"),
    "plain critic": ({"critic": lambda: nn.Linear(OBS, 1)}, "parts.critic does not take"),
    "reward (N, B, 1)": (
        {"reward": lambda: lambda obs, action: obs[..., :1]},
        r"reward answers .* should be \(1, 7\)",
    ),
    "float reward": (
        {"reward": lambda: lambda obs, action: obs[..., 0].float()},
        "reward answers in torch.float32",
    ),
    "reward in numpy": (
        {"reward": lambda: lambda obs, action: obs.sum(-1).numpy()},
        "parts.reward answers with a ndarray, it should be a torch.Tensor",
    ),
    "reward that fails": (
        {"reward": lambda: lambda obs, action: {}["speed"]},
        f"parts.reward does not take observations of {OBS} numbers and actions of {ACT} .* KeyError: 'speed'",
    ),
    "critics in the last axis": (
        {"critic": lambda: lambda obs, action: torch.stack([obs.sum(-1)] * 2, -1)},
        r"critic answers with shape \(1, 7, 2\), it should be \(1, any, 7\)",
    ),
    "noise of a number": ({"world_model": lambda: numbered(Model())}, "noise_shape .* has to be a tuple"),
    "termination (N, B, 1)": (
        {"termination": lambda: lambda obs: obs[..., :1] < 0},
        r"termination answers with shape \(1, 7, 1\), it should be \(1, 7\)",
    ),
    "termination of numbers": ({"termination": lambda: lambda obs: obs[..., 0]}, "it should be torch.bool"),
    "detached policy": ({"policy": lambda: Detached()}, "parts.policy is detached from its observations"),
    "detached critic": ({"critic": lambda: detached}, "parts.critic is detached from its observations"),
    "detached model": ({"world_model": lambda: Model(torch.detach)}, "parts.world_model is detached"),
    "critic detached from actions": (
        {"critic": lambda: lambda obs, action: (obs.sum(-1) - action.detach().square().sum(-1)).unsqueeze(1)},
        "parts.critic is detached from its actions",
    ),
    "model detached from actions": (
        {"world_model": lambda: Model(moves=torch.detach)},
        "parts.world_model is detached from its actions",
    ),
    "critic in numpy": (
        {"critic": lambda: lambda obs, action: torch.from_numpy(obs.numpy().sum(-1)).unsqueeze(1)},
        "parts.critic cannot be differentiated: compute it with torch alone",
    ),
    "rounding reward": (
        {"reward": lambda: lambda obs, action: obs.sum(-1) + (20 * action).round().sum(-1)},
        "parts.reward is detached from its actions",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_part_that_does_not_fit_is_named_in_one_line(name):
    changes, message = WRONG[name]
    parts = replace(make_parts(), **{part: made() for part, made in changes.items()})
    with pytest.raises(UserError, match=message) as caught:
        mpcwdwm.AdaptiveMpc(parts, mpcwdwm.MpcConfig(H=1, M=2)).act(torch.zeros(1, OBS, dtype=DOUBLE))
    assert "\n" not in str(caught.value)


UNUSUAL = {
    "a model in which actions do nothing": {"world_model": lambda: Model()},
    "a model whose changes cancel": {"world_model": lambda: Model(moves=lambda a: a * a.new_tensor([1.0, -1.0]))},
    "a value of states": {"critic": lambda: lambda obs, action: obs.sum(-1).unsqueeze(1)},
    "a critic without a slope at its optimum": {
        "critic": lambda: lambda obs, action: -(obs.square().sum(-1) + action.square().sum(-1)).unsqueeze(1)
    },
    "a constant reward": {"reward": lambda: lambda obs, action: obs.new_ones(obs.shape[:2])},
    "a policy with a head that does not act": {"policy": lambda: mpcwdwm.ModulePolicy(TwoHeads())},
}


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.value = nn.Linear(OBS, ACT, dtype=DOUBLE), nn.Linear(OBS, 1, dtype=DOUBLE)

    def forward(self, obs):
        return self.act(obs)


@pytest.mark.parametrize("name", UNUSUAL)
def test_a_part_that_ignores_something_is_not_taken_for_detached(name):
    parts = replace(make_parts(), **{part: made() for part, made in UNUSUAL[name].items()})
    planner = mpcwdwm.AdaptiveMpc(parts, mpcwdwm.MpcConfig(H=2, M=2, step_size=1e-2))
    _, _, fallen = planner.act(torch.zeros(1, OBS, dtype=DOUBLE))
    assert not fallen.any()
    if name.startswith("a policy"):
        assert torch.equal(planner.psi["value.weight"], planner.psi0["value.weight"])
        assert not torch.equal(planner.psi["act.bias"], planner.psi0["act.bias"])


def test_a_sampling_planner_needs_no_gradient():
    parts = replace(make_parts(), critic=detached, world_model=Model(torch.detach))
    action, *_ = mpcwdwm.Mppi(parts, mpcwdwm.MppiConfig(samples=32, elites=4)).act(torch.zeros(1, OBS, dtype=DOUBLE))
    assert action.isfinite().all()


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(OBS), nn.Dropout()])
def test_layers_that_depend_on_the_batch_or_on_chance_have_to_be_in_eval_mode(layer):
    policy = nn.Sequential(layer, nn.Linear(OBS, ACT)).double()
    with pytest.raises(UserError, match=f"{type(layer).__name__} in training mode: call eval"):
        mpcwdwm.ModulePolicy(policy)
    parts = replace(make_parts(), policy=mpcwdwm.ModulePolicy(policy.eval()))
    planner = mpcwdwm.AdaptiveMpc(parts, mpcwdwm.MpcConfig(H=1, M=2))
    assert planner.act(torch.zeros(1, OBS, dtype=DOUBLE))[0].isfinite().all()


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([nn.Linear], "takes torch.nn.Module objects"),
        ([None], "takes torch.nn.Module objects"),
        ([nn.Linear(OBS, ACT), nn.Sequential(nn.Linear(OBS, ACT))], "of one architecture"),
        ([nn.Linear(OBS, ACT), nn.Linear(OBS, ACT + 1)], "of one architecture"),
        ([nn.Flatten()], "has no parameters"),
    ],
)
def test_what_cannot_be_an_adaptable_policy_is_refused_in_one_line(modules, message):
    with pytest.raises(UserError, match=message):
        mpcwdwm.ModulePolicy(*modules)


def test_a_reward_that_is_nowhere_a_number_is_not_taken_for_detached():
    parts = replace(make_parts(), reward=lambda obs, action: torch.nan * obs.sum(-1))
    _, _, fallen = mpcwdwm.AdaptiveMpc(parts, mpcwdwm.MpcConfig(H=1, M=2)).act(torch.zeros(1, OBS, dtype=DOUBLE))
    assert fallen.all()


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        ((np.zeros(OBS), {}), "takes the observation alone, a vector of numbers, not a tuple"),
        ({"observation": np.zeros(OBS)}, "not a dict"),
        (np.zeros((1, OBS)), rf"takes one vector, not one of shape \(1, {OBS}\)"),
    ],
)
def test_an_observation_that_is_no_vector_is_refused_in_one_line(obs, message):
    with pytest.raises(UserError, match=message):
        mpcwdwm.AdaptiveMpc(make_parts(), mpcwdwm.MpcConfig(H=1, M=2))(obs)


def test_an_observation_of_another_length_than_the_first_is_refused_in_one_line():
    planner = mpcwdwm.AdaptiveMpc(make_parts(), mpcwdwm.MpcConfig(H=1, M=2))
    planner(np.zeros(OBS))
    with pytest.raises(UserError, match=rf"takes one vector of {OBS} numbers, not one of shape \({OBS + 1},\)"):
        planner(np.zeros(OBS + 1))


def test_a_planner_refuses_another_ones_config_no_episodes_and_one_observation_for_many_rows():
    with pytest.raises(UserError, match="AdaptiveMpc is configured by MpcConfig, not by MppiConfig"):
        mpcwdwm.AdaptiveMpc(make_parts(), mpcwdwm.MppiConfig())
    with pytest.raises(UserError, match="episodes should be 1 or more, not 0"):
        mpcwdwm.AdaptiveMpc(make_parts(), episodes=0)
    with pytest.raises(UserError, match="this planner has 2 rows: call act"):
        mpcwdwm.AdaptiveMpc(make_parts(), episodes=2)(np.zeros(OBS))
