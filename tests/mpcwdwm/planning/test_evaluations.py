"""Network evaluations per step, against counts by hand of what each kind of planner asks of its networks."""

import dataclasses

import pytest
import torch
from torch import nn

from mpcwdwm.components.value import Value, ValueConfig
from mpcwdwm.nn.compute_config import ComputeConfig
from mpcwdwm.planning import ModulePolicy
from mpcwdwm.planning.parts import SharedValue
from tests.support.planners import make, observations
from tests.support.random_parts import ACT, DOUBLE, OBS, make_parts, roughen
from tests.support.trusted_parts import trusted_parts

K, TWINS = 3, 2  # denoising steps and critics of the random parts
FROZEN = 1  # the pretrained policy's action, with which every plan is compared


def rollout(h, m, terminal=TWINS):
    """Forward evaluations of M rollouts of H steps: all begin with one action of the policy, at one state."""
    policy, transitions, rewards = 1 + h * m, h * m * K, h * m
    return policy + transitions + rewards + terminal * m


def evaluations(kind, fields, parts=None, episodes=2, steps=1, **options):
    parts = parts or make_parts((0, 1))
    planner = make(kind, parts, fields, episodes=episodes, **options)
    for obs in observations(steps, rows=parts.members * episodes):
        planner.act(obs)
    return planner.evaluations


def test_a_frozen_policy_is_evaluated_once():
    assert evaluations("none", {}) == 1


@pytest.mark.parametrize(("h", "m", "e"), [(1, 1, 1), (2, 3, 2), (3, 5, 1), (0, 2, 2), (2, 3, 0)])
def test_ascent_on_the_policy_goes_forward_and_back_through_every_rollout(h, m, e):
    assert evaluations("policy", {"H": h, "M": m, "E": e}) == 2 * e * rollout(h, m) + FROZEN + 1  # ψ acts


def test_a_step_size_per_state_takes_the_action_and_its_slope():
    fields = {"H": 2, "M": 3, "E": 2, "step_unit": "state", "step_size": 0.1}
    assert evaluations("policy", fields) == 2 * (2 * rollout(2, 3) + 2) + FROZEN + 1


def test_every_network_of_a_value_counts():
    parts = make_parts((0, 1))
    value = Value(ValueConfig(ensemble=5, hidden_dim=8), OBS, ACT, (0, 1), DOUBLE)
    roughen(value, 7)
    parts.critic = SharedValue(value.requires_grad_(False), 2)
    fields = {"H": 2, "M": 3, "E": 1, "critic_from": "value"}
    of_states = 2 * rollout(2, 3, terminal=5) - 3  # the last actions reach no value, so nothing goes back
    assert evaluations("policy", fields, parts) == of_states + FROZEN + 1


def test_ascent_on_actions_rolls_the_policy_once_and_then_the_plan():
    h, m, e = 2, 3, 2
    start = 1 + h * m + h * m * K
    # back: not to the policy, which the plan has replaced
    plan = h * m * K + h * m + TWINS * m
    assert evaluations("action", {"H": h, "M": m, "E": e, "reset": "step"}) == start + 2 * e * plan + FROZEN


def test_ascent_on_the_first_action_lets_the_policy_act_behind_it():
    h, m = 2, 3
    # back through the policy's later actions, too; the start is one action at the real state
    one_step = h * m * (1 + K + 1) + TWINS * m
    assert (
        evaluations("action", {"H": h, "M": m, "E": 1, "planned": "first", "reset": "step"})
        == 2 * one_step + 1 + FROZEN
    )


def test_sampling_goes_forward_alone():
    h, m, e, samples, own = 2, 2, 2, 12, 3
    fields = {"H": h, "M": m, "E": e, "samples": samples, "policy_samples": own}
    seeds = 1 + (h - 1) * own * (1 + K)  # H actions lie H − 1 transitions apart
    candidates = samples * m * (h * K + h + 1 + TWINS)  # the critic gets the policy's action
    assert evaluations("mppi", fields) == FROZEN + seeds + e * candidates + FROZEN


def test_guided_sampling_counts_windows_and_their_values_way_back():
    m, steps, guided, guide_steps = 3, 4, 2, 2
    value = m * guided * guide_steps
    assert evaluations("diffuser", {"M": m, "warm_start": False}) == 2 * value + m * steps + m + FROZEN


def test_terms_against_errors_and_the_gate_are_counted_as_they_are_computed():
    plain = evaluations("policy", {"H": 2, "M": 3, "E": 1}, trusted_parts())
    gated = evaluations("policy", {"H": 2, "M": 3, "E": 1, "gate": 1.0}, trusted_parts())
    compared = (1 + 2 * 3) + 2 * 3 * K  # states that the pretrained policy reaches, its own actions there
    changes = 2 * (1 + 2 * 3)  # the action of ψ and of ψ₀ at these and the real state
    assert gated == plain + 2 * rollout(2, 3) + compared + changes + 1


def test_the_count_is_that_of_any_number_of_episodes_passes_and_steps():
    fields = {"H": 2, "M": 5, "E": 2, "trust_region": 0.05, "gate": 0.5}
    whole = evaluations("policy", fields, trusted_parts(), episodes=1)
    assert evaluations("policy", fields, trusted_parts(), episodes=3) == whole
    assert evaluations("policy", {**fields, "memory_gb": 1e-9}, trusted_parts(), steps=3) == whole
    eager = ComputeConfig(capture="eager")
    assert evaluations("policy", fields, trusted_parts(), compute=eager) == whole


def test_counting_changes_no_action(monkeypatch):
    fields = {"H": 2, "M": 3, "E": 2, "trust_region": 0.05}
    obs = observations(1)[0]
    counted, uncounted = (make("policy", make_parts((0, 1)), fields) for _ in range(2))
    action = counted.act(obs)[0].clone()
    monkeypatch.setattr("mpcwdwm.planning.evaluations.counting", lambda: False)
    monkeypatch.setattr("mpcwdwm.planning.ascent.counting", lambda: False)
    assert torch.equal(action, uncounted.act(obs)[0])


def test_modules_of_the_users_own_count_by_their_inputs():
    h, m, e = 2, 3, 1
    parts = make_parts((0, 1))
    policy = [nn.Sequential(nn.Linear(OBS, 4), nn.Tanh(), nn.Linear(4, ACT), nn.Tanh()).double() for _ in range(2)]
    model = nn.Sequential(nn.Linear(OBS + ACT, 8), nn.Tanh(), nn.Linear(8, OBS)).double()

    class Own:
        noise_shape = (OBS,)

        def sample(self, obs, action, noise):
            return obs + model(torch.cat([obs, action], -1)) + 0.1 * noise

    mine = dataclasses.replace(parts, policy=ModulePolicy(*policy), world_model=Own())
    one_step = (1 + h * m) + h * m + h * m + TWINS * m  # K is 1
    assert evaluations("policy", {"H": h, "M": m, "E": e}, mine) == 2 * e * one_step + FROZEN + 1
