"""What holds for every kind of planner, and the arithmetic of those on actions, against independent versions."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from mpcwdwm.errors import UserError
from mpcwdwm.evaluation.evaluate import evaluate
from mpcwdwm.planning import (
    PLANNERS,
    ActionAscent,
    ActionConfig,
    Mppi,
    MppiConfig,
    planner_config,
)
from mpcwdwm.planning.ascent import climb
from mpcwdwm.planning.frozen import Frozen, FrozenConfig
from mpcwdwm.planning.planner import Planner
from mpcwdwm.random import generator
from sweeps.spec.spec import load_spec
from tests.support import ROOT
from tests.support.planners import IMAGINING, KINDS, MOVING, Broken, hopper_parts, make, observations, play
from tests.support.random_parts import ACT, DOUBLE, OBS, make_parts

# ----------------------------------------------------------------------------------------- every kind


def test_every_kind_is_tested_here():
    assert set(KINDS) == set(PLANNERS)
    assert {kind: PLANNERS[kind].config_class().kind for kind in PLANNERS} == {kind: kind for kind in PLANNERS}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_feel_each_other(kind):
    seen = observations(3)
    apart = [obs.clone() for obs in seen]
    for obs in apart:
        obs[1:] += 1.0
    ours, theirs = (play(make(kind, make_parts((0, 1))), each) for each in (seen, apart))
    for (action, value, *_), (other, other_value, *_) in zip(ours, theirs, strict=True):
        assert torch.allclose(action[0], other[0], rtol=0, atol=1e-12)
        assert torch.allclose(value[0], other_value[0], rtol=0, atol=1e-10, equal_nan=True)
        assert not torch.allclose(action[1:], other[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_new_episodes_begin_as_the_first_did(kind):
    planner = make(kind, make_parts((0, 1)))
    first = play(planner, observations(3))
    planner.rewind()
    for ours, theirs in zip(first, play(planner, observations(3)), strict=True):
        assert torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize("kind", MOVING)
def test_a_plan_differs_from_the_policy_and_stays_within_bounds(kind):
    planner = make(kind, make_parts((0, 1)))
    for action, value, fallen, pretrained in play(planner, observations(3)):
        assert ((action - pretrained).abs().amax(1) > 1e-4).all()
        assert action.abs().max() <= 1
        assert value.isfinite().all() or kind == "random"  # which imagines nothing
        assert not fallen.any()


def test_none_is_the_frozen_policy_to_the_bit():
    parts = make_parts((0, 1))
    psi0 = parts.policy.initial(2)
    for obs, (action, value, fallen, _) in zip(
        observations(3), play(make("none", parts), observations(3)), strict=True
    ):
        assert torch.equal(action, parts.policy(psi0, obs.unsqueeze(1)).squeeze(1))
        assert value.isnan().all()
        assert not fallen.any()


@pytest.mark.parametrize("kind", IMAGINING)
def test_no_update_means_the_pretrained_policy(kind):
    cold = {"warm_start": False} if kind == "mppi" else {"reset": "step"}
    planner = make(kind, make_parts((0, 1)), {"E": 0, **cold})
    for action, value, _, pretrained in play(planner, observations(2)):
        assert torch.allclose(action, pretrained, rtol=0, atol=1e-15)
        assert value.isnan().all()


@pytest.mark.parametrize(
    ("kind", "what"), [(k, w) for k in IMAGINING for w in ("nan", "inf", "gradient") if (k, w) != ("mppi", "gradient")]
)
def test_a_row_that_breaks_acts_with_the_pretrained_policy_and_the_others_do_not_notice(kind, what):
    seen = observations(4)
    sound = play(make(kind, make_parts((0, 1))), seen)
    parts = make_parts((0, 1))
    parts.reward = broken = Broken(parts.reward, row=2, what=what)
    planner = make(kind, parts)
    for step, obs in enumerate(seen):
        broken.on = step == 1
        action, _, fallen = planner.act(obs)
        assert fallen.tolist() == [False, False, step == 1, False]
        if step == 1:
            assert torch.equal(action[2], planner.pretrained_action()[2])
        others = torch.tensor([0, 1, 3])
        assert torch.allclose(action[others], sound[step][0][others], rtol=0, atol=1e-12)
        assert action.isfinite().all()


def test_a_row_that_broke_starts_afresh():
    """After a fallback nothing of the old plan is left, though plans are carried on."""
    for kind in IMAGINING:
        parts = make_parts((0, 1))
        parts.reward = broken = Broken(parts.reward, row=2, what="nan")
        planner, first = make(kind, parts), make(kind, make_parts((0, 1)))
        seen = observations(2)
        broken.on = True
        planner.act(seen[0])
        broken.on = False
        first.act(seen[0])
        first.keep(first.initial())
        assert torch.allclose(planner.act(seen[1])[0][2], first.act(seen[1])[0][2], rtol=0, atol=1e-12), kind


@pytest.mark.parametrize("kind", [*IMAGINING, "none"])
def test_a_plan_that_is_never_finite_ends_in_the_frozen_policys_episodes_with_the_fallbacks_counted(kind):
    parts = hopper_parts(lambda obs, action: obs[..., 0] * float("nan") + action.sum(-1))
    arguments = {"seeds": (0, 1), "episodes": 2, "env_seed": 0}
    frozen = evaluate(parts, None, **arguments)
    planned = evaluate(parts, planner_config({"kind": kind, **KINDS[kind]}), **arguments)
    for ours, theirs in zip(planned, frozen, strict=True):
        assert (ours["return"], ours["length"]) == (theirs["return"], theirs["length"])
        assert ours["fallbacks"] == (0 if kind == "none" else ours["length"])
        assert ours["imagined_return"] is None


def test_an_episodes_imagined_return_is_the_mean_of_the_finite_ones():
    parts = hopper_parts(lambda obs, action: obs[..., 0] * 0 + 1.0)
    config = planner_config({"kind": "policy", "H": 2, "E": 1, "step_size": 0.0, "critic_from": "none"})
    for episode in evaluate(parts, config, seeds=(0, 1), episodes=1, env_seed=0):
        assert episode["imagined_return"] == pytest.approx(1 + 0.99)


def test_a_gradient_that_is_not_finite_restores_the_row():
    """Though its value is finite, and though no later step would show it."""
    start, safe = torch.ones(3, 2, dtype=DOUBLE), torch.zeros(3, 2, dtype=DOUBLE)

    def objective(variables, noise):
        x = variables["x"]
        return x.sum(1) + torch.where(torch.arange(3) == 1, (x * 0.0).sum(1).abs(), 1.0).sqrt()

    climbed, value, fallen = climb(objective, {"x": start}, {"x": safe}, [torch.zeros(3, 1, 1)], 0.5)
    assert value.isfinite().all()
    assert fallen.tolist() == [False, True, False]
    assert climbed["x"].tolist() == [[1.5, 1.5], [0.0, 0.0], [1.5, 1.5]]


def test_an_action_that_is_not_finite_falls_back_even_if_the_planner_did_not_notice():
    class Careless(Planner):
        config_class = FrozenConfig

        def noise_shapes(self):
            return []

        def plan(self):
            action, value, failed = Frozen.plan(self)
            return action.index_fill(0, torch.tensor([2]), float("nan")), value, failed

    planner = Careless(make_parts((0, 1)), seeds=(0, 1), episodes=2)
    action, _, fallen = planner.act(observations(1)[0])
    assert torch.equal(action, planner.pretrained_action())
    assert fallen.tolist() == [False, False, True, False]


# -------------------------------------------------------------------------------- bases and critics


@pytest.mark.parametrize("kind", IMAGINING)
def test_a_plan_without_critic_ends_with_its_last_reward(kind):
    parts = make_parts((0, 1))
    without = make(kind, replace(parts, critic=None))
    declined = make(kind, parts, {"critic_from": "none"})
    cloned = make(kind, replace(parts, critic=None), {"base": "bc"})
    judged = make(kind, parts)
    (a, *_), (b, *_), (c, *_), (d, *_) = (play(p, observations(1))[0] for p in (without, declined, cloned, judged))
    assert torch.equal(a, b)
    assert torch.equal(a, c)
    assert not torch.equal(a, d)


def test_horizon_0_without_a_critic_is_refused_in_one_line(tmp_path):
    parts = make_parts()
    for kind in ("policy", "action"):
        with pytest.raises(UserError, match="horizon 0 needs a critic"):
            make(kind, replace(parts, critic=None), {"H": 0})
    file = tmp_path / "s.yaml"
    for planner in ("{base: bc, horizon: [1, 0]}", "{kind: action, critic_from: none, horizon: 0}"):
        file.write_text(f"name: s\ntasks: [hopper-medium-v2]\nseeds: 1\nplanners:\n  mine: {planner}\n")
        with pytest.raises(UserError, match=r"s.yaml:5: planners.mine: horizon 0 needs a critic") as caught:
            load_spec(file)
        assert "\n" not in str(caught.value)


def test_what_a_planner_needs_follows_from_whose_critic_it_borrows():
    assert planner_config({}).needs == ("world_model", "reward")
    assert planner_config({"kind": "mppi", "base": "bc", "critic_from": "iql"}).needs == (
        "world_model",
        "reward",
        "iql",
    )
    assert planner_config({"kind": "none"}).needs == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"H": 0}, "no action to plan"),
        ({"elites": 600}, "elites is 600, more than the 512 samples"),
        ({"samples": 10, "elites": 5}, "policy_samples is 24, more than the 10"),
        ({"min_std": 3.0}, "min_std is 3.0, above max_std"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MppiConfig(**fields)


# ------------------------------------------------------------------------------------------- action


@pytest.mark.parametrize("horizon", [0, 1, 3])
def test_the_gradient_on_actions_equals_finite_differences(horizon):
    planner = make("action", make_parts((0, 1)), {"H": horizon, "critic": "mean"})
    planner.act(observations(1)[0])
    g, step = generator(1, "test/direction"), 1e-6
    plan, direction = (0.5 * torch.randn(4, horizon + 1, ACT, generator=g, dtype=DOUBLE) for _ in range(2))
    leaf = plan.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(planner.objective_of({"plan": leaf}, planner.noises[0]).sum(), leaf)
    up, down = (planner.objective_of({"plan": plan + sign * step * direction}, planner.noises[0]) for sign in (1, -1))
    assert torch.allclose((gradient * direction).sum((1, 2)), (up - down) / (2 * step), rtol=1e-5, atol=1e-7)
    assert gradient.abs().amin((0, 2)).min() > 0  # every action of the sequence counts


def test_one_update_is_one_step_along_the_gradient_within_the_bounds():
    parts, alpha = make_parts((0, 1)), 0.05
    planner = make("action", parts, {"E": 1, "step_size": alpha, "reset": "step"})
    (obs,) = observations(1)
    action, value, _ = planner.act(obs)
    noise = planner.noises[0]
    state, actions = obs.unsqueeze(1).expand(-1, 3, -1), []
    for j in range(3):  # the policy's sequence, averaged over the rollouts
        actions.append(parts.policy(planner.psi0, state))
        if j < 2:
            state = parts.world_model.sample(state, actions[-1], noise[:, j])
    start = torch.stack([a.mean(1) for a in actions], 1).requires_grad_()
    state, total = obs.unsqueeze(1).expand(-1, 3, -1), 0.0
    for j in range(2):
        a = start[:, j : j + 1].expand(-1, 3, -1)
        total = total + 0.9**j * parts.reward(state, a)
        state = parts.world_model.sample(state, a, noise[:, j])
    total = total + 0.9**2 * parts.critic(state, start[:, 2:].expand(-1, 3, -1)).amin(1)
    (gradient,) = torch.autograd.grad(total.mean(1).sum(), start)
    moved = (start + alpha * gradient).clamp(-1, 1)
    assert torch.allclose(action, moved[:, 0], rtol=0, atol=1e-12)
    assert torch.allclose(value, total.mean(1), atol=1e-12)
    assert torch.allclose(planner.kept["plan"], moved, rtol=0, atol=1e-12)
    far = make("action", parts, {"E": 1, "step_size": 1e6}).act(obs)[0]
    assert (far.abs() == 1).all()


def test_a_plan_that_is_carried_over_is_the_last_one_shifted_with_the_policy_behind_its_end():
    parts = make_parts((0, 1))
    warm, cold = (make("action", parts, {"reset": reset}) for reset in ("episode", "step"))
    first, second = observations(2)
    for planner in (warm, cold):
        planner.act(first)
    plan = warm.kept["plan"].clone()
    assert torch.equal(plan, cold.kept["plan"])
    for planner in (warm, cold):
        planner.obs.copy_(second)
    start, state = warm.start(), second.unsqueeze(1).expand(-1, 3, -1)
    assert torch.allclose(start[:, :2], plan[:, 1:], rtol=0, atol=1e-15)
    for j in range(2):
        state = parts.world_model.sample(state, plan[:, j + 1 : j + 2].expand(-1, 3, -1), warm.noises[0][:, j])
    assert torch.allclose(start[:, 2], parts.policy(warm.psi0, state).mean(1), rtol=0, atol=1e-12)
    assert torch.allclose(cold.start()[:, 0], cold.pretrained_action(), rtol=0, atol=1e-15)


def test_passes_within_memory_give_the_same_plan():
    for kind in ("action", "mppi"):
        fields = {"M": 7, **({"samples": 40} if kind == "mppi" else {})}
        whole, pieces = (make(kind, make_parts((0, 1)), {**fields, "memory_gb": gb}) for gb in (2.0, 3e-5))
        ours, theirs = play(whole, observations(2)), play(pieces, observations(2))
        if kind == "action":
            assert (whole._chunk >= 7, 1 <= pieces._chunk < 7) == (True, True)
        else:
            assert whole._rollouts == 7
            assert whole._samples >= 40
            assert pieces._samples * pieces._rollouts < 280 / 2
        for one, other in zip(ours, theirs, strict=True):
            assert torch.allclose(one[0], other[0], rtol=0, atol=1e-12)


# -------------------------------------------------------------------------------------- one's own


def test_the_custom_planner_of_the_docs_runs(monkeypatch, tmp_path):
    text = (ROOT / "docs" / "planners.md").read_text()
    code = re.search(r"<!-- custom planner -->\n```python\n(.*?)```", text, re.DOTALL).group(1)
    assert len(code.strip().splitlines()) <= 32
    monkeypatch.setattr(PLANNERS, "_things", dict(PLANNERS._things))  # forgotten after the test
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "planners.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_package", raising=False)
    kind = "my_package.planners:Shooting"
    assert issubclass(PLANNERS[kind], Planner)
    assert PLANNERS["shooting"] is PLANNERS[kind]
    monkeypatch.setitem(KINDS, kind, {"H": 2, "M": 3})
    test_rows_do_not_feel_each_other(kind)
    test_new_episodes_begin_as_the_first_did(kind)
    test_a_plan_differs_from_the_policy_and_stays_within_bounds(kind)
    test_a_row_that_breaks_acts_with_the_pretrained_policy_and_the_others_do_not_notice(kind, "nan")
    file = tmp_path / "s.yaml"
    file.write_text(
        "name: s\ntasks: [hopper-medium-v2]\nseeds: 1\n"
        "planners:\n  mine: {kind: 'my_package.planners:Shooting', H: 3, samples: [4, 8]}\n"
    )
    spec = load_spec(file)
    assert [choice.config.samples for choice in spec.tasks[0].planners["mine"]] == [4, 8]


def test_a_planner_drives_a_single_environment():
    for kind, config in (("action", ActionConfig(H=1, M=2)), ("mppi", MppiConfig(H=1, samples=32, elites=4))):
        planner = PLANNERS[kind](make_parts(), config)
        assert isinstance(planner, (ActionAscent, Mppi))
        action = planner(np.ones(OBS, dtype=np.float32))
        assert action.shape == (ACT,)
        assert np.isfinite(action).all()
