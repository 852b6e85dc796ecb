"""What a user's own parts get wrong is said in one line, before the first step."""

from dataclasses import replace

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
        r"reward answers .* should be \(1, 2\)",
    ),
    "float reward": (
        {"reward": lambda: lambda obs, action: obs[..., 0].float()},
        "reward answers in torch.float32",
    ),
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
