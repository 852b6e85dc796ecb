"""What adaptive MPC ascends beside the return, the step size in units of the action, and the presets.

Every term is held against a version written out by hand, rollout by rollout, in float64.
"""

import dataclasses

import pytest
import torch
from torch import nn

from mpcwdwm.errors import UserError
from mpcwdwm.planning import AdaptiveMpc, ModulePolicy, MpcConfig, Parts, adapt, imagine, objective, planner_config
from mpcwdwm.planning.ascent import ascent
from mpcwdwm.planning.mpc import promised_gain
from mpcwdwm.planning.presets import POLICY
from mpcwdwm.planning.step_size.alpha import action_unit
from mpcwdwm.random import generator
from tests.support.linear_quadratic import STATES, system, tensor
from tests.support.linear_quadratic import planner as linear_planner
from tests.support.plans import spec_with
from tests.support.random_parts import ACT, DOUBLE, OBS, gradient, problem, random
from tests.support.trusted_parts import ALL, by_hand, ending, only, trusted_parts

TERMS = {
    "return": {},
    "advantage": {"objective": "advantage"},
    "anchor": {"anchor": 0.7},
    "critics": {"uncertainty": 0.3},
    "world_model": {"uncertainty": 0.3, "disagreement": "world_model"},
    "critic_penalty": {"critic_penalty": 0.4},
    "all": ALL,
}


# -------------------------------------------------------------------------------------- every term


@pytest.mark.parametrize("terms", TERMS)
def test_every_terms_gradient_equals_finite_differences_with_its_stopped_states_held(terms):
    parts, config = trusted_parts(), MpcConfig(H=2, M=2, **TERMS[terms])
    psi, obs, noise = problem(parts, config, episodes=4)
    ending(parts, psi, obs, noise, config)
    direction = {name: random(*p.shape, purpose=f"test/{name}") for name, p in psi.items()}
    step = 1e-6

    def at(share):
        moved = {name: p + share * direction[name] for name, p in psi.items()}
        return by_hand(parts, moved, psi, obs, noise, config)

    value, gradients = gradient(parts, psi, obs, noise, config)
    along = sum((gradients[n] * direction[n]).flatten(1).sum(1) for n in psi)
    assert torch.allclose(value, at(0.0), rtol=1e-10, atol=1e-12)
    assert torch.allclose(along, (at(step) - at(-step)) / (2 * step), rtol=1e-5, atol=1e-7)
    for chunk in (1, 2):  # the planner's way, with its weight gradients gathered
        again, in_passes = ascent(lambda p, z: objective(parts, p, obs, z, config), psi, noise, chunk)
        assert torch.allclose(again, value, rtol=1e-12)
        assert all(torch.allclose(in_passes[n], gradients[n], rtol=0, atol=1e-11) for n in psi)


@pytest.mark.parametrize("terms", TERMS)
def test_what_a_small_step_promises_is_its_length_times_the_gradients(terms):
    parts, config, alpha = trusted_parts(), MpcConfig(H=2, M=3, step_size=1e-9, **TERMS[terms]), 1e-9
    psi0, obs, noise = problem(parts, config, episodes=2)
    _, gradients = gradient(parts, psi0, obs, noise, config)
    expected = alpha * sum(g.flatten(1).square().sum(1) for g in gradients.values())
    psi, _, _ = adapt(parts, psi0, psi0, obs, [noise], config)
    gain = promised_gain(parts, psi, psi0, obs, noise, config)
    assert torch.allclose(gain, expected, rtol=0.02)
    assert torch.allclose(gain, promised_gain(parts, psi, psi0, obs, noise, config, chunk=2), rtol=1e-4)
    far, _, _ = adapt(parts, psi0, psi0, obs, [noise], config, step_size=1e-2)
    wanted = [by_hand(parts, own, psi0, obs, noise, config) for own in (far, psi0)]
    assert torch.allclose(promised_gain(parts, far, psi0, obs, noise, config), wanted[0] - wanted[1], rtol=1e-8)


# ----------------------------------------------------------------------------------- the advantage


def of_row(gradients):
    return gradients["weight"].flatten(1).norm(dim=1)


@pytest.mark.parametrize("horizon", [0, 1, 3, 10])
def test_with_exact_model_and_critic_the_planning_advantage_asks_for_nothing(horizon):
    """The policy gradient theorem; the plain return asks for much there."""
    parts = system()
    psi0, obs, noise = parts.policy.initial(len(STATES)), tensor(STATES), torch.zeros(3, horizon, 1, 2, dtype=DOUBLE)
    plain, config = MpcConfig(H=horizon, M=1), MpcConfig(H=horizon, M=1, objective="advantage")
    much = of_row(gradient(parts, psi0, obs, noise, plain)[1])
    assert (of_row(gradient(parts, psi0, obs, noise, config)[1]) < 1e-9 * much).all()
    if horizon > 0:  # at 0 nothing but the critic is heard
        wrong = of_row(gradient(system(p=torch.eye(2).numpy()), psi0, obs, noise, config)[1])
        elsewhere = {"weight": psi0["weight"] + 0.2}
        away = of_row(gradient(parts, elsewhere, obs, noise, config)[1])
        assert (wrong > 0.05 * much).all()
        assert (away > 0.01 * of_row(gradient(parts, elsewhere, obs, noise, plain)[1])).all()
    planner = linear_planner("policy", parts, horizon, E=1, objective="advantage")
    action = planner.act(obs)[0]
    assert torch.allclose(action, planner.pretrained_action(), rtol=0, atol=1e-12)
    assert torch.allclose(planner.psi["weight"], psi0["weight"], rtol=0, atol=1e-12)


# -------------------------------------------------------------------------------------- the anchor


def test_where_rebracs_own_loss_is_stationary_the_anchored_plan_stays():
    """β‖π(s) − a‖² − Q(s, π(s)) / mean|Q| over recorded actions a; the plan knows their mean alone."""
    beta, obs = 0.4, random(1, OBS)
    actions = 0.5 * random(6, ACT, purpose="test/actions")

    def critic(s, a):
        return (3.0 - (a - 0.8).square().sum(-1) + torch.sin(a[..., 0] * s[..., 0])).unsqueeze(1)

    def loss(own):
        q = critic(obs.expand(6, 1, OBS), own.expand(6, 1, ACT))[:, 0, 0]
        return (beta * (own - actions).square().sum(-1) - q / q.detach().abs().mean()).mean()

    own = torch.zeros(ACT, dtype=DOUBLE)
    for _ in range(200):  # plain descent: the loss is nearly quadratic
        own = own - 0.3 * torch.autograd.functional.jacobian(loss, own)
    assert torch.autograd.functional.jacobian(loss, own).norm() < 1e-12
    policy = nn.Linear(OBS, ACT, bias=False, dtype=DOUBLE)
    policy.weight.data = torch.outer(own, obs[0]) / obs.square().sum()
    parts = Parts(ModulePolicy(policy), critic, behavior=lambda s: actions.mean(0).expand(*s.shape[:2], -1))
    psi, noise = parts.policy.initial(1), torch.zeros(1, 0, 1, 1, dtype=DOUBLE)
    still, moving = (
        gradient(parts, psi, obs, noise, MpcConfig(H=0, M=1, anchor=strength))[1]["weight"].norm()
        for strength in (beta, 0.0)
    )
    assert still < 1e-10
    assert moving > 0.1


def test_a_strong_anchor_pulls_the_action_to_the_cloned_one():
    parts = trusted_parts((0,))
    config = MpcConfig(H=0, M=1, E=100, anchor=1e3, step_size=1e-5)
    psi0, obs, noise = problem(parts, config)
    psi, _, _ = adapt(parts, psi0, psi0, obs, [noise] * 100, config)
    goal, state = parts.behavior(obs.unsqueeze(1)), obs.unsqueeze(1)
    before, after = ((parts.policy(own, state) - goal).norm() for own in (psi0, psi))
    assert after < 0.05 * before


# --------------------------------------------------------------------------------- critic's penalty


def test_the_critics_penalty_is_what_its_own_recursion_subtracts():
    """V_j = r_j + γ (V_{j+1} − β2 ‖a_{j+1} − E[a|s_{j+1}]‖²), nothing behind a termination."""
    parts, config = trusted_parts(), MpcConfig(H=3, M=2, critic_penalty=0.4, critic="mean")
    psi, obs, noise = problem(parts, config, episodes=4)
    ending(parts, psi, obs, noise, config)
    imagined = imagine(parts, psi, obs, noise, config)
    value = parts.critic(imagined.obs[-1], imagined.action[-1]).mean(1)
    for j in reversed(range(3)):
        state, action = imagined.obs[j + 1], imagined.action[j + 1]
        following = value - 0.4 * (action - parts.behavior(state)).square().sum(-1)
        goes_on = ~parts.termination(state)
        value = parts.reward(imagined.obs[j], imagined.action[j]) + parts.discount * (following * goes_on)
    assert torch.allclose(objective(parts, psi, obs, noise, config), value.mean(1), rtol=1e-9)


@pytest.mark.parametrize(
    ("fields", "lacking", "message"),
    [
        ({"objective": "advantage"}, "critic", "need a critic"),
        ({"uncertainty": 1.0}, "critic", "need a critic"),
        ({"uncertainty": 1.0, "disagreement": "world_model"}, "model", "world model of several networks"),
        ({"anchor": 1.0}, "behavior", "policy cloned from the data"),
        ({"critic_penalty": 1.0}, "behavior", "policy cloned from the data"),
        ({"gate": 1.0}, "dataset", "set parts.dataset"),
        ({"step_unit": "action"}, "dataset", "set parts.dataset"),
    ],
)
def test_what_an_option_lacks_is_said_in_one_line(fields, lacking, message):
    parts = trusted_parts((0,))
    whole = AdaptiveMpc(parts, MpcConfig(H=1, M=2, **fields))
    assert whole.act(random(1, OBS))[0].isfinite().all()
    if lacking == "model":
        parts.world_model = parts.world_model.model
    else:
        setattr(parts, lacking, None)
    with pytest.raises(UserError, match=message) as caught:
        AdaptiveMpc(parts, MpcConfig(H=1, M=2, **fields)).act(random(1, OBS))
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------- the size of a step


def median_change(parts, seeds, dataset, config):
    """Over every held-out state of the dataset, per member."""
    obs = torch.from_numpy(dataset.obs[dataset.heldout]).double()
    planner = AdaptiveMpc(parts, config, seeds=seeds, episodes=len(obs))
    planner.act(obs.repeat(len(seeds), 1))
    return planner.change.view(len(seeds), -1).median(1).values, planner


@pytest.mark.parametrize("updates", [1, 3])
def test_a_step_in_units_of_the_action_moves_it_by_that_much_in_the_median(updates):
    size, parts = 0.01, trusted_parts()
    config = MpcConfig(H=1, M=4, E=updates, step_unit="action", step_size=size, reset="step")
    planner = AdaptiveMpc(parts, config, seeds=(0, 1))
    planner.act(random(2, OBS))
    # asked again on the states it was measured on, which the seed alone decides
    rows = torch.from_numpy(parts.dataset.heldout.nonzero()[0])
    picked = [rows[torch.randint(len(rows), (64,), generator=generator(seed, "step_size"))] for seed in (0, 1)]
    obs = torch.from_numpy(parts.dataset.obs)[torch.cat(picked)].double()
    raw = AdaptiveMpc(parts, MpcConfig(H=1, M=4, E=updates, reset="step"), seeds=(0, 1), episodes=64)
    raw.alpha = planner.alpha.repeat_interleave(64)
    raw.act(obs)
    moved = raw.change.view(2, 64).median(1).values
    assert torch.allclose(moved, torch.full_like(moved, size), rtol=0.05)
    assert planner.alpha[0] != planner.alpha[1]
    everywhere, _ = median_change(parts, (0, 1), parts.dataset, config)  # not only where it was measured
    assert ((everywhere > 0.5 * size) & (everywhere < 2 * size)).all()


def test_a_members_step_size_does_not_depend_on_its_neighbours():
    config = MpcConfig(H=1, M=2, step_unit="action", step_size=0.02)
    both = AdaptiveMpc(trusted_parts((5, 8)), config, seeds=(5, 8), episodes=3)
    alone = [AdaptiveMpc(only(member), config, seeds=(seed,), episodes=3) for member, seed in enumerate((5, 8))]
    for planner, rows in ((both, 6), *((one, 3) for one in alone)):
        planner.act(random(rows, OBS))
    assert both.alpha.shape == (6,)
    assert torch.allclose(both.alpha[::3], torch.cat([one.alpha[:1] for one in alone]), rtol=1e-6)


def test_an_action_that_nothing_moves_has_the_step_size_0():
    parts = dataclasses.replace(
        trusted_parts((0,)), critic=None, reward=lambda s, a: (s.sum(-1) * 0) + 0 * a.sum(-1)
    )  # fmt: skip
    config = MpcConfig(H=1, M=2, step_unit="action", step_size=0.02)
    planner = AdaptiveMpc(parts, config)
    action, value, fallen = planner.act(random(1, OBS))
    assert action_unit(planner).tolist() == [0.0]
    assert planner.alpha.tolist() == [0.0]
    assert (action.isfinite().all(), value.item(), fallen.any()) == (True, 0.0, False)
    assert torch.equal(action, planner.pretrained_action())


# ---------------------------------------------------------------------------------------- presets


@pytest.mark.parametrize("preset", POLICY)
def test_a_preset_fills_in_what_is_not_given_and_survives_being_resolved(preset):
    named = POLICY[preset]
    alpha = {} if "step_size" in named else {"step_size": 5e-6}  # v2 takes one from a grid
    resolved = planner_config({"preset": preset, **alpha})
    assert all(getattr(resolved, name) == value for name, value in named.items())
    ours = planner_config({"preset": preset, "H": 2, "updates": 4, "reset": "step", "step_size": 1e-7})
    assert (ours.horizon, ours.updates, ours.reset, ours.step_size) == (2, 4, "step", 1e-7)
    assert all(
        getattr(ours, name) == value
        for name, value in named.items()
        if name not in ("horizon", "updates", "reset", "step_size")
    )
    for config in (resolved, ours):
        assert planner_config(config.to_dict()) == config
    assert planner_config({"preset": "none"}) == planner_config({})


def test_presets_are_chosen_and_misspelt_in_yaml(tmp_path):
    spec = spec_with(tmp_path, "{preset: [v1, robust], H: 2}")
    configs = [choice.config for choice in spec.tasks[0].planners["mine"]]
    assert [(c.preset, c.horizon) for c in configs] == [("v1", 2), ("robust", 2)]
    for planner, message in (
        ("{preset: paper}", r"s.yaml:5: planners.mine: preset: paper mixed .*; give v1 .* or v2"),
        ("{preset: v2}", r"s.yaml:5: planners.mine: preset: v2 names no step_size; .* takes 5e-7, 5e-6, 5e-5 or 5e-4"),
        ("{preset: robst}", r"s.yaml:5: .*planners.mine.preset should be .*\"robst\" \(did you mean 'robust'"),
        ("{critic_from: none, objective: advantage}", r"s.yaml:5: planners.mine: .*need a critic"),
        ("{base: bc, uncertainty: 1}", r"s.yaml:5: planners.mine: .*need a critic"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            spec_with(tmp_path, planner)
        assert "\n" not in str(caught.value)
