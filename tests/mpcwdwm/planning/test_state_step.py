"""Steps in units of the state's own action: at every real state each update moves the action by the same distance.

All in float64, against central differences and updates written out by hand.
"""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from mpcwdwm.errors import UserError
from mpcwdwm.planning import AdaptiveMpc, ModulePolicy, MpcConfig, adapt, imagine
from mpcwdwm.planning.step_size import alpha as step_size_module
from mpcwdwm.planning.step_size.alpha import alpha_at_state, sizes, slope_of_policy
from mpcwdwm.planning.trust.region import action_change
from tests.support.planners import Broken
from tests.support.plans import spec_with
from tests.support.random_parts import ACT, DOUBLE, OBS, gradient, make_parts, problem, random
from tests.support.trusted_parts import only, trusted_parts

STATE = {"H": 2, "M": 3, "step_unit": "state", "reset": "step"}


def modules_policy():
    """Two members, each with a buffer of its own beside its parameters."""

    class Net(nn.Sequential):
        def __init__(self, seed):
            torch.manual_seed(seed)
            super().__init__(nn.Linear(OBS, 8), nn.Tanh(), nn.Linear(8, ACT), nn.Tanh())
            self.register_buffer("scale", torch.tensor(0.5 + seed))
            self.double()

        def forward(self, obs):
            return super().forward(obs * self.scale)

    return ModulePolicy(Net(0), Net(1))


POLICIES = {"stacked": lambda: make_parts((0, 1)).policy, "module": modules_policy}


def alpha_by_hand(policy, psi, direction, obs, size, step=1e-6):
    """The α of every row, its action's slope along the direction by central differences."""
    up, down = (
        policy({n: p + sign * step * direction[n] for n, p in psi.items()}, obs.unsqueeze(1)) for sign in (1, -1)
    )
    return size / ((up - down) / (2 * step)).flatten(1).norm(dim=1)


# ---------------------------------------------------------------------------------------- its size


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("size", [0.03, torch.tensor([0.01, 0.02, 0.05, 0.4], dtype=DOUBLE)], ids=["one", "per row"])
def test_alpha_is_the_size_over_the_actions_slope_along_the_gradient(kind, size):
    policy = POLICIES[kind]()
    psi, obs = policy.initial(2), random(4, OBS)
    direction = {n: random(*p.shape, purpose=f"test/{n}") for n, p in psi.items()}
    alpha = alpha_at_state(slope_of_policy(policy, psi, direction, obs), size)
    assert alpha.shape == (4,)
    assert not alpha.requires_grad
    assert torch.allclose(alpha, alpha_by_hand(policy, psi, direction, obs, size), rtol=1e-6)
    larger = alpha_at_state(slope_of_policy(policy, psi, {n: 7 * g for n, g in direction.items()}, obs), size)
    assert torch.allclose(larger, alpha / 7, rtol=1e-12)


def moved(parts, size, **fields):
    """How far one real step moved every row's action."""
    planner = AdaptiveMpc(parts, MpcConfig(**{**STATE, "step_size": size, **fields}), seeds=(0, 1), episodes=3)
    _, _, fallen = planner.act(random(6, OBS))
    assert not fallen.any()
    return planner.change.clone()


def scaled(scale):
    """The parts, with rewards and critic in another unit."""
    parts = make_parts((0, 1))
    critic, reward = parts.critic, parts.reward
    parts.critic, parts.reward = lambda o, a: scale * critic(o, a), lambda o, a: scale * reward(o, a)
    return parts


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_every_action_moves_by_the_step_size_up_to_its_square_whatever_the_gradients_size(scale):
    lengths = (1e-3, 5e-4, 2.5e-4, 1.25e-4)
    off = [moved(scaled(scale), size) - size for size in lengths]
    assert all((error.abs() < 0.05 * size).all() for error, size in zip(off, lengths, strict=True))
    assert all((small.abs() < 0.3 * large.abs()).all() for large, small in pairwise(off))  # a quarter, in the limit
    assert off[-1].abs().min() > 0
    raw = moved(make_parts((0, 1)), 1e-5, step_unit="raw")
    assert raw.max() > 2 * raw.min()  # an α for all rows does not


def test_every_update_measures_its_own_gradient_where_the_last_one_led():
    parts, size = make_parts((0, 1)), 0.05
    config = MpcConfig(**{**STATE, "E": 2, "step_size": size})
    psi0, obs, noise = problem(parts, config, episodes=2)
    found, _, _ = adapt(parts, psi0, psi0, obs, [noise, noise], config)
    psi, alphas = psi0, []
    for _ in range(2):
        _, direction = gradient(parts, psi, obs, noise, config)
        alphas.append(alpha_by_hand(parts.policy, psi, direction, obs, size))
        psi = {n: p + alphas[-1].view(-1, *[1] * (p.dim() - 1)) * direction[n] for n, p in psi.items()}
    assert all(torch.allclose(found[n], psi[n], rtol=1e-6, atol=1e-9) for n in psi)
    assert ((alphas[0] / alphas[1] - 1).abs() > 1e-3).all()
    once, _, _ = adapt(parts, psi0, psi0, obs, [noise], config)
    state = obs.unsqueeze(1)
    first, second = (action_change(parts, psi0, own, state)[:, 0] for own in (once, found))
    assert (second > 1.3 * first).all()


def test_a_carried_policy_moves_on_from_where_it_is():
    planner = AdaptiveMpc(
        make_parts((0, 1)), MpcConfig(**{**STATE, "step_size": 1e-3, "reset": "episode"}), seeds=(0, 1)
    )
    obs, before = random(2, OBS), None
    for step in range(1, 4):
        action = planner.act(obs)[0].clone()
        before = planner.pretrained_action() if before is None else before
        assert torch.allclose((action - before).norm(dim=1), torch.full((2,), 1e-3, dtype=DOUBLE), rtol=0.05), step
        before = action


# ------------------------------------------------------------------------------- rows that stand out


def test_a_row_without_gradient_stays_and_a_row_that_breaks_falls_back_alone():
    sound, parts = moved(make_parts((0, 1)), 0.01), make_parts((0, 1))
    rewards, critic = parts.reward, parts.critic
    still = (torch.arange(6) == 1).view(-1, 1)
    parts.reward = lambda o, a: torch.where(still, 0.0, rewards(o, a))
    parts.critic = lambda o, a: torch.where(still.unsqueeze(1), 0.0, critic(o, a))
    change = moved(parts, 0.01)
    others = torch.arange(6) != 1
    assert change[1] == 0
    assert torch.allclose(change[others], sound[others], rtol=1e-9)

    for what in ("nan", "inf", "gradient"):
        for updates in (1, 2):
            whole, broken = make_parts((0, 1)), make_parts((0, 1))
            broken.reward = failing = Broken(broken.reward, row=4, what=what)
            failing.on = True
            config = MpcConfig(**{**STATE, "E": updates, "step_size": 0.01})
            ours, theirs = (AdaptiveMpc(each, config, seeds=(0, 1), episodes=3) for each in (broken, whole))
            action, _, fallen = ours.act(random(6, OBS))
            expected = theirs.act(random(6, OBS))[0]
            assert fallen.tolist() == [row == 4 for row in range(6)]
            assert torch.equal(action[4], ours.pretrained_action()[4])
            kept = torch.arange(6) != 4
            assert torch.allclose(action[kept], expected[kept], rtol=0, atol=1e-12)
            assert all(torch.equal(ours.psi[name][4], p[4]) for name, p in ours.psi0.items())


def test_a_members_steps_do_not_depend_on_its_neighbours():
    config = MpcConfig(**{**STATE, "step_size": 0.02})
    both = AdaptiveMpc(trusted_parts((5, 8)), config, seeds=(5, 8), episodes=3)
    action = both.act(random(6, OBS))[0]
    for member, seed in enumerate((5, 8)):
        alone = AdaptiveMpc(only(member), config, seeds=(seed,), episodes=3)
        assert torch.allclose(alone.act(random(6, OBS)[3 * member :][:3])[0], action[3 * member :][:3], atol=1e-12)


def test_a_trust_region_bounds_the_step_at_real_and_imagined_states():
    parts, bound = make_parts((0, 1)), 0.05
    free, bounded = (moved(parts, 0.5, E=2, trust_region=each) for each in (None, bound))
    assert free.min() > 2 * bound
    assert bounded.max() <= bound * (1 + 1e-9)
    wide, none = (moved(parts, 0.01, trust_region=each) for each in (10.0, None))
    assert torch.allclose(wide, none, rtol=1e-12)
    config = MpcConfig(**{**STATE, "step_size": 0.5, "trust_region": bound})
    psi0, obs, noise = problem(parts, config, episodes=3)
    psi, _, _ = adapt(parts, psi0, psi0, obs, [noise], config)
    states = torch.cat(imagine(parts, psi0, obs, noise, config).obs, 1)
    change = action_change(parts, psi0, psi, states).amax(1)
    assert (change <= bound * (1 + 1e-9)).all()
    assert (change > 0.4 * bound).all()  # and not to nothing


# ---------------------------------------------------------------------------- auto, and configuration


def test_auto_tries_and_takes_its_candidates_in_this_unit(monkeypatch):
    def refuse(*_):
        raise AssertionError("sizes in this unit need no conversion")

    monkeypatch.setattr(step_size_module, "action_unit", refuse)
    tried, choose = {}, step_size_module.choose_step_sizes

    def watched(parts, windows, candidates, stepping, **options):
        for size in candidates[1:]:
            twin = stepping(size, "episode")
            twin.act(random(len(windows.obs), OBS))
            tried[size] = twin.change.clone()
        return replace(choose(parts, windows, candidates, stepping, **options), chosen=[1e-4, 4e-4])

    monkeypatch.setattr(step_size_module, "choose_step_sizes", watched)
    fields = {"step_size": "auto", "judge": "critic", "smallest": 1e-4, "largest": 4e-4, "candidates": 3}
    config = MpcConfig(**{**STATE, **fields})
    planner = AdaptiveMpc(trusted_parts(), config, seeds=(0, 1), episodes=2)
    planner.act(random(4, OBS))
    assert list(tried) == sizes(config)[1:] == [1e-4, 2e-4, 4e-4]
    for size, change in tried.items():
        assert torch.allclose(change, torch.full_like(change, size), rtol=0.1)
    assert planner.alpha.tolist() == [1e-4, 1e-4, 4e-4, 4e-4]
    assert torch.allclose(planner.change, planner.alpha, rtol=0.1)
    assert [found["step_size"] for found in planner.findings()] == [1e-4, 4e-4]


def test_a_size_that_is_given_needs_no_dataset_and_auto_does():
    parts = replace(trusted_parts((0,)), dataset=None)
    given, auto = (MpcConfig(**{**STATE, "step_size": size}) for size in (0.01, "auto"))
    assert (given.uses_dataset, auto.uses_dataset) == (False, True)
    planner = AdaptiveMpc(parts, given)
    planner.act(random(1, OBS))
    assert (planner.alpha, planner.findings()) == (0.01, [None])
    with pytest.raises(UserError, match=r"set parts\.dataset"):
        AdaptiveMpc(parts, auto).act(random(1, OBS))


def test_the_unit_is_chosen_and_misspelt_in_yaml(tmp_path):
    spec = spec_with(tmp_path, "{step_unit: [raw, action, state], step_size: 0.01}")
    configs = [choice.config for choice in spec.tasks[0].planners["mine"]]
    assert [(c.step_unit, c.step_size) for c in configs] == [("raw", 0.01), ("action", 0.01), ("state", 0.01)]
    with pytest.raises(UserError, match=r"s.yaml:5: .*step_unit should be .*\"stat\" \(did you mean 'state'") as caught:
        spec_with(tmp_path, "{step_unit: stat}")
    assert "\n" not in str(caught.value)
