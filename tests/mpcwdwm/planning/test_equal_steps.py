"""Steps of equal size on parameters, on actions and in a random direction, and the best of N samples.

All in float64, against gradients by finite differences and choices written out by hand.
"""

import pytest
import torch

from mpcwdwm.errors import UserError
from mpcwdwm.planning import planner_config
from tests.support.planners import make, observations, play
from tests.support.plans import spec_with
from tests.support.random_parts import make_parts
from tests.support.trusted_parts import trusted_parts

FIRST = {"planned": "first", "step_unit": "state", "reset": "step", "E": 1, "H": 2, "M": 3}


def return_of(parts, planner, action, penalty=0.0):
    """Ĵ (N,) of acting with `action` (N, act_dim) and with the policy from then on, written out."""
    noise, c = planner.noises[0], planner.config
    state = planner.obs.unsqueeze(1).expand(-1, noise.shape[2], -1)
    total, act = 0.0, action.unsqueeze(1).expand(-1, noise.shape[2], -1)
    for j in range(c.horizon + 1):
        twins = parts.critic(state, act)  # (N, 2, M)
        worth = twins.amin(1) if j == c.horizon else parts.reward(state, act)
        spread = (twins[:, 0] - twins[:, 1]).abs() / 2 / (c.horizon + 1)
        total = total + parts.discount**j * (worth - penalty * spread)
        if j < c.horizon:
            state = parts.world_model.sample(state, act, noise[:, j])
            act = parts.policy(planner.psi0, state)
    return total.mean(1)


def ascent_direction(value, at, step=1e-6):
    """The gradient of `value` at actions (N, act_dim) by central differences, scaled to length 1."""
    columns = []
    for d in range(at.shape[1]):
        shift = step * torch.eye(at.shape[1], dtype=at.dtype)[d]
        columns.append((value(at + shift) - value(at - shift)) / (2 * step))
    gradient = torch.stack(columns, 1)
    return gradient / gradient.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("penalty", [0.0, 0.7])
@pytest.mark.parametrize("size", [0.1, 0.02])
def test_the_first_action_moves_by_the_size_along_its_gradient_with_the_policy_behind_it(size, penalty):
    parts = trusted_parts((0, 1))
    planner = make("action", parts, {**FIRST, "step_size": size, "uncertainty": penalty})
    ((action, value, fallen, pretrained),) = play(planner, observations(1))
    expected = pretrained + size * ascent_direction(lambda a: return_of(parts, planner, a, penalty), pretrained)
    assert expected.abs().max() < 1  # no bound is met
    assert torch.allclose(action, expected, rtol=0, atol=1e-7)
    assert torch.allclose(planner.change, torch.full_like(planner.change, size), rtol=1e-9)
    assert torch.allclose(value, return_of(parts, planner, pretrained, penalty), atol=1e-12)
    assert not fallen.any()


def test_every_update_has_the_size_and_its_own_direction():
    parts = make_parts((0, 1))
    planner = make("action", parts, {**FIRST, "step_size": 0.05, "E": 2})
    ((action, _, _, pretrained),) = play(planner, observations(1))
    expected = pretrained
    for _ in range(2):
        expected = expected + 0.05 * ascent_direction(lambda a: return_of(parts, planner, a), expected)
    assert torch.allclose(action, expected, rtol=0, atol=1e-7)


def test_a_sequence_moves_so_far_that_its_first_action_moves_by_the_size():
    parts = make_parts((0, 1))
    fields = {"H": 2, "M": 3, "E": 1, "reset": "step"}
    planner = make("action", parts, {**fields, "step_unit": "state", "step_size": 0.05})
    raw = make("action", parts, {**fields, "step_size": 1e-7})
    (obs,) = observations(1)
    for each in (planner, raw):
        each.act(obs)
    start = raw.start()
    gradient = (raw.kept["plan"] - start) / 1e-7
    alpha = 0.05 / gradient[:, 0].norm(dim=1)
    moved = start + alpha.view(-1, 1, 1) * gradient
    assert torch.allclose(planner.kept["plan"], moved.clamp(-1, 1), rtol=0, atol=1e-6)
    assert torch.allclose(planner.change, torch.full_like(alpha, 0.05), rtol=1e-9)


def test_an_action_that_leaves_its_bounds_is_set_to_them():
    planner = make("action", make_parts((0, 1)), {**FIRST, "step_size": 50.0})
    ((action, *_),) = play(planner, observations(1))
    assert action.abs().max() == 1
    assert (planner.change < 50).all()


def test_equal_steps_move_actions_equally_far_whatever_is_climbed():
    small = {"step_size": 1e-4, "step_unit": "state", "reset": "step", "E": 1}
    planners = [make("policy", make_parts((0, 1)), small), make("action", make_parts((0, 1)), small)]
    planners.append(make("random", make_parts((0, 1)), {"step_size": 1e-4}))
    for planner in planners:
        for _ in play(planner, observations(2)):
            assert torch.allclose(planner.change, torch.full_like(planner.change, 1e-4), rtol=5e-3)


def test_one_update_of_either_kind_promises_the_same_order_of_gain():
    """A step on actions along their own gradient promises most; one on ψ of the same size less, but more than 0."""
    parts, (obs,) = make_parts((0, 1)), observations(1)
    fields = {"step_size": 1e-4, "step_unit": "state", "reset": "step", "E": 1}
    action, psi = make("action", parts, {**FIRST, **fields}), make("policy", parts, {**fields, "H": 2, "M": 3})
    gains = []
    for planner in (action, psi):
        moved = planner.act(obs)[0].clone()
        before = return_of(parts, action, action.pretrained_action())
        gains.append(return_of(parts, action, moved) - before)
    assert (gains[0] > 0).all()
    assert (gains[0] >= gains[1] - 1e-12).all()


def test_a_random_step_has_the_size_and_no_preferred_direction():
    parts = make_parts((0, 1))
    planner = make("random", parts, {"step_size": 0.1}, episodes=2000)
    ((action, value, fallen, pretrained),) = play(planner, observations(1, rows=4000))
    inside = action.abs().amax(1) < 1
    step = (action - pretrained)[inside]
    assert inside.float().mean() > 0.5
    assert torch.allclose(step.norm(dim=1), torch.full_like(step[:, 0], 0.1), rtol=1e-9)
    assert step.mean(0).norm() < 0.1 * 4 / len(step) ** 0.5
    assert value.isnan().all()
    assert not fallen.any()


def test_the_best_of_n_is_the_sample_that_the_critic_likes_most():
    parts = make_parts((0, 1))
    planner = make_best(parts, {"samples": 16, "policy_samples": 16, "policy_std": 0.3})
    ((action, value, _, pretrained),) = play(planner, observations(1))
    exploration = planner.noises[1][:, :, 0]  # (N, 16, act_dim)
    candidates = pretrained.unsqueeze(1) + 0.3 * exploration
    candidates[:, 0] = pretrained
    candidates = candidates.clamp(-1, 1)
    q = parts.critic(planner.obs.unsqueeze(1).expand(-1, 16, -1), candidates).amin(1)
    best = q.argmax(1)
    assert torch.allclose(action, candidates[torch.arange(4), best], rtol=0, atol=1e-12)
    assert torch.allclose(value, q.amax(1), atol=1e-12)
    assert (value >= q[:, 0]).all()


def make_best(parts, fields):
    config = planner_config({"kind": "mppi", "preset": "best_of_n", **fields})
    return type(make("mppi", parts))(parts, config, seeds=(0, 1), episodes=2)


def test_presets_of_actions_and_samples_fill_in_what_is_not_given():
    robust = planner_config({"kind": "action", "preset": "robust"})
    policy = planner_config({"preset": "robust"})
    shared = ("horizon", "updates", "critic_from", "critic", "step_unit", "step_size", "reset", "needs")
    assert all(getattr(robust, name) == getattr(policy, name) for name in shared)
    assert (robust.planned, planner_config({"kind": "action"}).planned) == ("first", "sequence")
    best = planner_config({"kind": "mppi", "preset": "best_of_n", "samples": 128, "policy_samples": 128})
    assert (best.horizon, best.updates, best.elites, best.samples) == (0, 1, 1, 128)
    for config in (robust, best):
        assert planner_config(config.to_dict()) == config


def test_what_cannot_be_carried_over_is_refused_at_its_line(tmp_path):
    for fields, says in (
        ("{kind: action, planned: first, reset: episode}", "leaves no plan to go on from"),
        ("{kind: action, step_size: -1}", "step_size"),
        ("{kind: action, uncertainty: 1, critic_from: none, H: 1}", "need a critic"),
        ("{kind: random, step_size: -0.1}", "step_size"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            spec_with(tmp_path, fields)
        assert "\n" not in str(caught.value)


def test_a_penalty_needs_a_model_that_disagrees():
    fields = {**FIRST, "uncertainty": 1.0, "disagreement": "world_model"}
    planner, (obs,) = make("action", make_parts((0, 1)), fields), observations(1)
    with pytest.raises(UserError, match="world model of several networks"):
        planner.act(obs)


def test_a_step_size_for_actions_is_chosen_as_one_for_parameters():
    fields = {"step_size": "auto", "smallest": 0.05, "largest": 0.2, "candidates": 2, "step_unit": "state"}
    found = []
    for kind in ("policy", "action"):
        planner = make(kind, trusted_parts((0, 1)), {**fields, "reset": "step", "H": 1, "M": 1, "E": 1})
        planner.act(observations(1)[0])
        found.append(planner.findings())
        assert [own["step_size"] for own in found[-1]] == [own["judges"]["chosen"] for own in found[-1]]
    assert [own["judges"]["candidates"] for own in found[0]] == [own["judges"]["candidates"] for own in found[1]]
    assert found[0][0]["judges"]["scores"] != found[1][0]["judges"]["scores"]
