"""Trust region and gate: how far adaptation may go, and where it acts at all, against independent versions."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from mpcwdwm.evaluation.evaluate import evaluate
from mpcwdwm.planning import AdaptiveMpc, MpcConfig, Parts, adapt
from mpcwdwm.planning.trust.gate import ErrorSlopes, error_slopes, slope
from mpcwdwm.planning.trust.region import shrunk
from mpcwdwm.random import generator
from tests.support.linear_quadratic import PRETRAINED, Linear, reward, system, tensor
from tests.support.planners import Broken, hopper_parts
from tests.support.random_parts import DOUBLE, OBS, make_parts, problem, random
from tests.support.recorded_episodes import random_episodes
from tests.support.trusted_parts import by_hand, trusted_parts

REBRAC = {"H": 2, "M": 6}


def reached(parts, psi0, obs, noise, config, rollouts=4):
    """The real state and those to which the pretrained policy leads, of a row's first rollouts: (N, B, obs_dim)."""
    found = [obs]
    for m in range(min(rollouts, config.rollouts)):
        state, ended = obs.unsqueeze(1), torch.zeros(len(obs), dtype=torch.bool)
        for j in range(config.horizon):
            state = parts.world_model.sample(state, parts.policy(psi0, state), noise[:, j, m : m + 1])
            if parts.termination is not None:
                ended = ended | parts.termination(state[:, 0])
            found.append(torch.where(ended.unsqueeze(1), obs, state[:, 0]))
    return torch.stack(found, 1)


def change(parts, psi0, psi, states):
    return (parts.policy(psi, states) - parts.policy(psi0, states)).square().sum(-1).sqrt()


# ------------------------------------------------------------------------------------ trust region


@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize(("alpha", "bound"), [(1e-2, 0.1), (1.0, 0.5), (1e4, 0.5), (1e6, 0.01)])
def test_a_step_of_any_length_is_cut_to_one_that_uses_the_bound(alpha, bound, updates):
    parts, config = make_parts((0, 1)), MpcConfig(**REBRAC, step_size=alpha, trust_region=bound)
    psi0, obs, noise = problem(parts, config, episodes=2)
    parts.termination = lambda state: state[..., 0] > 0.5
    states = reached(parts, psi0, obs, noise, config)
    psi, _, fallen = adapt(parts, psi0, psi0, obs, [noise] * updates, config)
    free, _, _ = adapt(parts, psi0, psi0, obs, [noise] * updates, config.model_copy(update={"trust_region": None}))
    most = change(parts, psi0, psi, states).amax(1)
    assert not fallen.any()
    assert (change(parts, psi0, free, states).amax(1) > bound).all()
    assert (most <= bound).all()
    assert (most > 0.4 * bound).all() if updates > 1 else (most > 0.5 * bound).all()


def test_what_keeps_to_the_bound_is_left_alone_to_the_bit():
    parts, config = make_parts((0, 1)), MpcConfig(**REBRAC, step_size=1e-3)
    psi0, obs, noise = problem(parts, config, episodes=2)
    free, _, _ = adapt(parts, psi0, psi0, obs, [noise], config)
    most = change(parts, psi0, free, reached(parts, psi0, obs, noise, config)).amax(1)
    bound = float(most.sort().values[1:3].mean())  # two rows keep to it, two do not
    kept, _, _ = adapt(parts, psi0, psi0, obs, [noise], config.model_copy(update={"trust_region": bound}))
    for row in range(4):
        same = all(torch.equal(kept[name][row], free[name][row]) for name in free)
        assert same == bool(most[row] <= bound)


def test_a_shortened_step_keeps_its_direction():
    parts, config = make_parts((0, 1)), MpcConfig(**REBRAC, step_size=1.0, trust_region=0.05)
    psi0, obs, noise = problem(parts, config, episodes=2)
    kept, _, _ = adapt(parts, psi0, psi0, obs, [noise], config)
    free, _, _ = adapt(parts, psi0, psi0, obs, [noise], config.model_copy(update={"trust_region": None}))
    for row in range(4):
        short, long = (torch.cat([(p[n] - psi0[n])[row].flatten() for n in p]) for p in (kept, free))
        share = short.norm() / long.norm()
        assert 0 < share < 1
        assert torch.allclose(short, share * long, rtol=1e-6, atol=1e-12)


def test_a_length_that_is_not_found_in_time_is_shorter_rather_than_longer():
    """An action that jumps over the bound at some length, another one for every row: the search ends at either side."""
    jumps = torch.linspace(0.1, 0.9, 40, dtype=DOUBLE).unsqueeze(1)

    def policy(psi, obs):
        return torch.where(psi["x"] < jumps, 0.01 * psi["x"], 5.0).unsqueeze(2).expand(*obs.shape[:2], 1)

    start, states = {"x": torch.zeros(40, 1, dtype=DOUBLE)}, torch.zeros(40, 3, 2, dtype=DOUBLE)
    found = shrunk(Parts(policy), start, {"x": torch.ones(40, 1, dtype=DOUBLE)}, states, 1.0)["x"]
    assert ((found < jumps) & (found > 0.5 * jumps)).all()


def test_every_one_of_several_steps_is_kept_to_the_trust_region():
    parts, config = make_parts((0, 1)), MpcConfig(**REBRAC, step_size=1e-2, trust_region=0.05)
    psi0, obs, noise = problem(parts, config, episodes=2)
    psi = psi0
    for _ in range(3):
        psi, _, _ = adapt(parts, psi, psi0, obs, [noise], config)
    together, _, _ = adapt(parts, psi0, psi0, obs, [noise] * 3, config)
    assert all(torch.allclose(together[name], psi[name], rtol=0, atol=1e-13) for name in psi)


def test_a_policy_that_is_carried_over_never_leaves_the_trust_region():
    parts, bound = make_parts((0, 1)), 0.1
    planner = AdaptiveMpc(parts, MpcConfig(**REBRAC, step_size=3e-2, trust_region=bound), seeds=(0, 1), episodes=2)
    free = AdaptiveMpc(parts, MpcConfig(**REBRAC, step_size=3e-2), seeds=(0, 1), episodes=2)
    furthest = torch.zeros(4, dtype=DOUBLE)
    for step in range(20):
        obs = torch.randn(4, OBS, generator=generator(step, "test/obs"), dtype=DOUBLE)
        planner.act(obs)
        states = reached(parts, planner.psi0, obs, planner.noises[0], planner.config)
        assert (change(parts, planner.psi0, planner.psi, states) <= bound * (1 + 1e-9)).all()
        assert (planner.change <= bound * (1 + 1e-9)).all()
        free.act(obs)
        furthest = torch.maximum(furthest, free.change)
    assert (furthest > 3 * bound).all()


def test_a_row_that_overflows_in_the_trust_region_is_restored_alone():
    parts, config = make_parts((0, 1)), MpcConfig(**REBRAC, step_size=1e-2, trust_region=0.05)
    psi0, obs, noise = problem(parts, config, episodes=2)
    sound, _, _ = adapt(parts, psi0, psi0, obs, [noise], config)
    sizes = torch.full((4,), 1e-2, dtype=DOUBLE)
    sizes[2] = 1e307  # α ∇Ĵ is beyond the largest number
    broken, _, _ = adapt(parts, psi0, psi0, obs, [noise], config, step_size=sizes)
    others = torch.tensor([0, 1, 3])
    assert all(torch.equal(broken[name][others], sound[name][others]) for name in psi0)
    planner = AdaptiveMpc(parts, config, seeds=(0, 1), episodes=2)
    planner.alpha = sizes
    action, _, fallen = planner.act(obs)
    assert action.isfinite().all()
    assert not fallen[others].any()
    assert planner.change[2] <= 0.05
    parts.reward = nan = Broken(parts.reward, row=1, what="nan")
    nan.on = True
    mended, _, fallen = adapt(parts, psi0, psi0, obs, [noise], config)
    assert fallen.tolist() == [False, True, False, False]
    for name in psi0:
        assert torch.equal(mended[name][1], psi0[name][1])
        assert torch.equal(mended[name][0], sound[name][0])


# ------------------------------------------------------------------------------------ error slopes


def test_the_slope_of_errors_that_grow_with_the_distance_is_found():
    rows, kappa = 20_000, torch.tensor([0.5, 3.0, 0.0], dtype=DOUBLE).unsqueeze(1)
    distance = random(3, rows, purpose="test/distance").square()
    sigma = (0.8 + kappa.square() * distance).sqrt()
    found = slope(sigma * random(3, rows, purpose="test/noise"), distance, 0.0)
    assert torch.allclose(found[:2], kappa[:2, 0], rtol=0.1)
    assert found[2] < 0.15  # 0 within the error of 20,000 rows
    falling = slope((2 - distance.clamp(max=1.9)).sqrt(), distance, 0.0)
    assert falling.tolist() == [0, 0, 0]
    convex = slope(distance, distance, 0.0)  # a line through it would cut the axis below 0, where no variance is
    assert convex.tolist() == pytest.approx([fitted(d, d) for d in distance.numpy()], rel=1e-9)
    exact = slope(1.7 * distance.sqrt(), distance, 0.0)
    assert torch.allclose(exact, torch.full((3,), 1.7, dtype=DOUBLE))


def test_two_standard_errors_cover_the_slope_where_few_rows_know_little():
    members, rows, kappa = 400, 400, 1.5
    distance = random(members, rows, purpose="test/distance").square()
    error = (0.8 + kappa**2 * distance).sqrt() * random(members, rows, purpose="test/noise")
    bare, cautious = (slope(error, distance, margin) for margin in (0.0, 2.0))
    assert (bare >= kappa).double().mean() < 0.6
    assert (cautious >= kappa).double().mean() > 0.85
    assert (cautious > bare).all()
    exact = slope(1.7 * distance.sqrt(), distance, 2.0)  # nothing to doubt
    assert torch.allclose(exact, torch.full((members,), 1.7, dtype=DOUBLE))


def fitted(error, distance):
    """κ by a solver of least squares with bounds."""
    return np.sqrt(nnls(np.stack([np.ones_like(distance), distance], 1), error**2)[0][1])


def linear_data(episodes=40, steps=6):
    """Recorded episodes of the linear-quadratic system, exact, with actions all around the policy's."""
    dataset = random_episodes(2, (steps,) * episodes)
    obs, action = random(episodes * steps, 2), random(episodes * steps, 2, purpose="test/actions")
    for start in range(0, len(obs), steps):  # from state to state
        for j in range(steps - 1):
            obs[start + j + 1] = Linear(0).sample(obs[start + j], action[start + j], 0)
    following = Linear(0).sample(obs, action, 0)
    made = dataclasses.replace(
        dataset,
        obs=obs.numpy(),
        action=action.numpy(),
        next_obs=following.numpy(),
        reward=reward(obs, action).numpy(),
        terminal=np.zeros_like(dataset.terminal),
    )
    vars(made)["heldout_episodes"] = dataset.heldout_episodes
    return made


def linear_parts():
    return dataclasses.replace(system(), dataset=linear_data())


@pytest.mark.parametrize("horizon", [0, 1, 3])
def test_exact_models_have_no_error_that_grows(horizon):
    slopes = error_slopes(linear_parts(), MpcConfig(H=horizon, M=1), (0,))
    assert slopes.model.abs().max() < 1e-12
    assert slopes.critic.abs().max() < 1e-12


def test_an_error_in_proportion_to_the_distance_is_its_slope():
    def away(obs, action):
        return (action + obs @ tensor(PRETRAINED).T).norm(dim=-1)

    parts, config = linear_parts(), MpcConfig(H=1, M=1)
    parts.reward = lambda obs, action: reward(obs, action) + 0.7 * away(obs, action)
    slopes = error_slopes(parts, config, (0,))
    assert slopes.model.tolist() == pytest.approx([0.7], rel=1e-9)
    assert slopes.critic.abs().max() < 1e-12
    exact, parts = parts.critic, linear_parts()
    parts.critic = lambda obs, action: exact(obs, action) + 0.3 * away(obs, action).unsqueeze(1)
    slopes = error_slopes(parts, config, (0,))
    assert slopes.critic.tolist() == pytest.approx([0.3], rel=1e-9)
    assert slopes.model.abs().max() < 1e-12  # at its end the policy acts, where the critic is right
    both = ErrorSlopes(torch.tensor([3.0]), torch.tensor([4.0]))
    assert both.total.tolist() == [5.0]


@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("terminate", [True, False])
def test_the_measured_errors_are_those_of_a_loop_over_recorded_windows(horizon, terminate, monkeypatch):
    monkeypatch.setattr("mpcwdwm.planning.trust.gate.MARGIN", 0.0)  # what is fitted, without what is added for doubt
    parts, config = trusted_parts(), MpcConfig(H=horizon, M=1, terminate=terminate)

    class Still:  # its noise does nothing, so that every window can be counted alone
        noise_shape = (OBS,)

        def sample(self, obs, action, noise):
            return 0.9 * obs + 0.3 * action.sum(-1, keepdim=True)

    parts.world_model, parts.termination = Still(), lambda state: state[..., 0] > 0.4
    parts.reward_affine = tensor([[2.0, -1.0], [0.5, 0.25]])
    slopes = error_slopes(parts, config, (3, 4))
    data, g, psi0 = parts.dataset, parts.discount, parts.policy.initial(1)
    row = {name: torch.from_numpy(getattr(data, name)).double() for name in ("obs", "action", "next_obs", "reward")}

    def ask(part, *rows):  # both members
        return part(*(r.view(1, 1, -1).expand(2, -1, -1) for r in rows))

    def acted(state):
        return ask(lambda s: parts.policy(psi0, s), state)[:, 0]

    def value(state):
        both = acted(state).unsqueeze(1)
        return parts.critic(state.view(1, 1, -1).expand(2, -1, -1), both).amin(1)[:, 0].numpy()

    errors, distances, td, first = [], [], [], []
    for start in range(16 - horizon + 1):
        rows = list(range(start, start + horizon))
        if data.episode[rows[0]] != data.episode[rows[-1]]:
            continue
        state, total, alive, away = row["obs"][start], np.zeros(2), 1.0, []
        for j, i in enumerate(rows):
            action = row["action"][i]
            scaled = np.array([2.0, 0.5]) * float(row["reward"][i]) + np.array([-1.0, 0.25])
            total = total + g**j * (alive * ask(parts.reward, state, action)[:, 0].numpy() - scaled)
            state = Still().sample(state, action, None)
            alive = alive * (0.0 if terminate and state[0] > 0.4 else 1.0)
            away.append((action - acted(row["obs"][i])).square().sum(1).numpy())
            if j == 0:
                own = ask(parts.critic, row["obs"][i], action).amin(1)[:, 0].numpy()
                after = 0.0 if data.terminal[i] else value(row["next_obs"][i])
                td.append(scaled + g * after - own)
        ended = data.terminal[rows[-1]]
        end = alive * value(state) - (0.0 if ended else value(row["next_obs"][rows[-1]]))
        errors.append(total + g**horizon * end)
        distances.append(np.mean(away, 0))
        first.append(away[0])
    assert data.terminal[:16].any()
    for m in range(2):
        model = fitted(np.array(errors)[:, m], np.array(distances)[:, m])
        critic = fitted(np.array(td)[:, m], np.array(first)[:, m])
        assert slopes.model[m].item() == pytest.approx(model, rel=1e-6, abs=1e-9)
        assert slopes.critic[m].item() == pytest.approx(critic, rel=1e-6, abs=1e-9)
    assert (slopes.total > 0).any()


# ---------------------------------------------------------------------------------------- the gate


KAPPA = (5.0, 0.5)  # of the two members


@pytest.fixture
def known(monkeypatch):
    """Let the models' errors be known: of the first member many times those of the second."""
    errors = ErrorSlopes(0.6 * tensor(KAPPA), 0.8 * tensor(KAPPA))
    monkeypatch.setattr("mpcwdwm.planning.mpc.error_slopes", lambda *_: errors)


def gated(gate, parts=None, **fields):
    config = MpcConfig(**REBRAC, reset="step", step_size=1e-2, gate=gate, **fields)
    return AdaptiveMpc(parts or trusted_parts(), config, seeds=(0, 1), episodes=2)


def test_behind_a_closed_gate_the_pretrained_policy_acts_to_the_bit(known):
    planner, obs = gated(1e12), random(4, OBS)
    action, value, fallen = planner.act(obs)
    assert torch.equal(action, planner.pretrained_action())
    assert planner.change.tolist() == [0.0] * 4
    assert value.isfinite().all()
    assert not fallen.any()
    assert not torch.equal(planner.psi["net.head.weight"], planner.psi0["net.head.weight"])  # adapted all the same


@pytest.mark.parametrize("terms", [{}, {"objective": "advantage"}, {"anchor": 0.5, "trust_region": 0.1}], ids=str)
def test_the_gate_opens_on_the_rows_whose_promise_exceeds_the_models_errors(terms, known):
    obs, never, free = random(4, OBS), gated(0.0, **terms), gated(None, **terms)
    free.act(obs)
    never.act(obs)
    parts, psi0, noise, config = free.parts, free.psi0, free.noises[0], free.config
    gain = by_hand(parts, free.psi, psi0, obs, noise, config) - by_hand(parts, psi0, psi0, obs, noise, config)
    assert torch.equal(never.change > 0, gain > 0)
    assert torch.equal(never.change[gain > 0], free.change[gain > 0])
    moved = change(parts, psi0, free.psi, reached(parts, psi0, obs, noise, config)).square().mean(1).sqrt()
    ratio = gain / (tensor(KAPPA).repeat_interleave(2) * moved)
    positive = ratio[gain > 0].sort().values
    assert len(positive) >= 2
    gate = float(positive[-2:].mean())  # the boldest row only
    planner = gated(gate, **terms)
    action, _, _ = planner.act(obs)
    opened = ratio > gate
    assert opened.sum() == 1
    assert torch.equal(planner.change > 0, opened)
    assert torch.equal(action[~opened], planner.pretrained_action()[~opened])
    assert torch.allclose(action[opened], parts.policy(free.psi, obs.unsqueeze(1))[:, 0][opened], rtol=0, atol=1e-15)


def test_a_row_whose_plan_is_not_finite_is_not_believed(known):
    parts = trusted_parts()
    parts.reward = broken = Broken(parts.reward, row=1, what="nan")
    planner, obs = gated(0.0, parts), random(4, OBS)
    planner.act(obs)
    broken.on = True
    action, _, fallen = planner.act(obs)
    assert fallen.tolist() == [False, True, False, False]
    assert planner.change[1] == 0
    assert torch.equal(action[1], planner.pretrained_action()[1])


@pytest.mark.parametrize("gate", [None, 0.0, 1e12])
def test_an_evaluation_counts_the_steps_on_which_the_adapted_policy_acted(gate, dataset):
    parts = hopper_parts(lambda obs, action: 0.1 * obs[..., 1] - (action - 0.5).square().sum(-1))
    parts.dataset = dataset
    fields = {"H": 2, "M": 3, "step_size": 0.05, "reset": "step"}
    arguments = {"seeds": (0, 1), "episodes": 2, "env_seed": 0}
    steps: list = []

    def seen(planner):
        steps.append(planner)

    frozen = evaluate(parts, None, **arguments)
    found = evaluate(parts, MpcConfig(**fields, gate=gate), on_end=seen, **arguments)
    assert (steps[0].slopes is None) == (gate is None)
    for ours, theirs in zip(found, frozen, strict=True):
        assert (theirs["adapted_share"], theirs["action_change"]) == (0.0, 0.0)
        if gate == 1e12:
            assert (ours["adapted_share"], ours["action_change"], ours["return"]) == (0.0, 0.0, theirs["return"])
        else:  # every plan promises something here
            assert ours["adapted_share"] == 1.0
            assert ours["action_change"] > 0.01
            assert ours["return"] != theirs["return"]
        assert ours["fallbacks"] == 0


def test_an_episodes_share_is_that_of_its_own_steps():
    """A planner that acts otherwise on every third step of the second row alone."""
    parts = hopper_parts(lambda obs, action: action.sum(-1))
    config, step = MpcConfig(H=1, M=1, step_size=0.0), [0]

    def act(planner, obs):
        planner.obs = obs
        action = planner.pretrained_action()
        planner.change.zero_()
        planner.change[1] = 0.25 * (step[0] % 3 == 0)
        step[0] += 1
        return action, torch.zeros(len(obs)), torch.zeros(len(obs), dtype=torch.bool)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AdaptiveMpc, "act", act)
        first, second, *_ = evaluate(parts, config, seeds=(0, 1), episodes=2, env_seed=0)
    assert (first["adapted_share"], first["action_change"]) == (0.0, 0.0)
    counted = len(range(0, second["length"], 3)) / second["length"]
    assert second["adapted_share"] == pytest.approx(counted)
    assert second["action_change"] == pytest.approx(0.25 * counted)
