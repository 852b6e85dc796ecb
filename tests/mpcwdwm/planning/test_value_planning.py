"""Plans that end with the value fitted in imagination, and sweeps that train it before."""

from dataclasses import replace

import pytest
import torch

from mpcwdwm.components import component_config
from mpcwdwm.components.loading import stacked
from mpcwdwm.components.value import Value, ValueConfig
from mpcwdwm.errors import UserError
from mpcwdwm.planning import MpcConfig, Parts, imagine, objective, planner_config
from mpcwdwm.planning.assemble import assemble
from mpcwdwm.planning.parts import SharedValue
from mpcwdwm.training.loop import Training
from tests.support.parts import PARTS, bases_of, part_of
from tests.support.planners import IMAGINING, make, observations, play
from tests.support.plans import BASE, plan, rows, spec_with
from tests.support.random_parts import ACT, DOUBLE, OBS, gradient, make_parts, problem, roughen
from tests.support.small_components import UNIT
from tests.support.trusted_parts import ending

SEEDS = (0, 1)
NAMES = ("rebrac", "world_model", "reward", "value")
TINY = {"hidden_dim": 8, "batch_size": 16, "steps": 5, "evaluations": 1}
REDUCED = {"min": lambda v: v.amin(1), "mean": lambda v: v.mean(1), "first": lambda v: v[:, 0]}


@pytest.fixture(scope="module")
def trained(dataset):
    """What parts are made of, component → one member per seed as `train` returns it."""
    data, done = part_of(dataset, 0, 2000), {}
    fields = {"rebrac": UNIT, "value": {**PARTS["value"][1], "ensemble": 3, "discount": 0.95}}
    for name in NAMES:
        config = component_config(name, fields.get(name, {}), TINY)
        training = Training(name, config, data, SEEDS, bases=bases_of(config, data, list(SEEDS)))
        training.run()
        done[name] = training.trained()
    return done


# ----------------------------------------------------------------------------------------- the parts


def test_a_value_among_the_parts_ends_plans_in_its_own_unit_whatever_the_action(trained):
    with_value = assemble(trained, "rebrac")
    without = assemble({name: trained[name] for name in NAMES[:3]}, "rebrac")
    assert isinstance(with_value.critic, SharedValue)
    assert (with_value.discount, without.discount) == (0.95, UNIT["discount"])
    obs, action = torch.randn(6, 4, 11), torch.rand(6, 4, 3)  # three episodes of each member
    values = with_value.critic(obs, action)
    assert values.shape == (6, 3, 4)
    alone, rewards = ([stacked([member]) for member in trained[name]] for name in ("value", "reward"))
    for row in range(6):
        one = obs[row].unsqueeze(0)
        assert torch.allclose(values[row], alone[row // 3](one)[0], atol=1e-5)
        own = rewards[row // 3](one, action[row].unsqueeze(0))[0]
        assert torch.allclose(with_value.reward(obs, action)[row], own, atol=1e-5)  # the data's, not ReBRAC's
    assert torch.allclose(without.reward(obs, action), 2 * with_value.reward(obs, action) + 0.5, atol=1e-5)
    assert torch.equal(with_value.critic(obs, -action), values)
    assert (values[:, 0] - values[:, 1]).abs().min() > 0  # networks of their own


# ----------------------------------------------------------------------------------------- the plans


def valued(networks=3) -> Parts:
    """The parts of `make_parts`, with an ensemble of values instead of the critic."""
    value = Value(ValueConfig(hidden_dim=8, ensemble=networks), OBS, ACT, (0, 1), DOUBLE)
    roughen(value, 7)
    value.return_normalizer.std.mul_(3.0)
    return replace(make_parts((0, 1)), critic=SharedValue(value.requires_grad_(False), 2), discount=0.8)


@pytest.mark.parametrize("critic", REDUCED)
def test_a_plan_ends_with_the_ensemble_reduced_as_critic_says_and_with_nothing_where_it_has_ended(critic):
    parts, config = valued(), MpcConfig(H=2, M=6, critic=critic, critic_from="value")
    psi, obs, noise = problem(parts, config, episodes=2)
    ending(parts, psi, obs, noise, config)
    imagined, part = imagine(parts, psi, obs, noise, config), parts.critic.part
    last = imagined.obs[-1]
    by_member = torch.stack([part(last[[m, 2 + m]])[:, :, :] for m in range(2)], 1).flatten(0, 1)  # (4, E, M)
    total = 0.8**2 * imagined.alive[-1] * REDUCED[critic](by_member)
    for j in range(2):
        total = total + 0.8**j * imagined.alive[j] * parts.reward(imagined.obs[j], imagined.action[j])
    assert torch.allclose(objective(parts, psi, obs, noise, config), total.mean(1), rtol=1e-10)
    spread = by_member.amax(1) - by_member.amin(1)
    assert spread.min() > 0.01  # so that it matters how they are reduced


@pytest.mark.parametrize("critic", REDUCED)
@pytest.mark.parametrize("terms", [{}, {"uncertainty": 0.3}], ids=str)
def test_the_gradient_with_a_value_equals_finite_differences(critic, terms):
    parts, config = valued(), MpcConfig(H=3, M=3, critic=critic, critic_from="value", **terms)
    psi, obs, noise = problem(parts, config, episodes=2)
    _, gradients = gradient(parts, psi, obs, noise, config)
    g, step = torch.Generator().manual_seed(1), 1e-6
    direction = {n: torch.randn(p.shape, generator=g, dtype=DOUBLE) for n, p in psi.items()}
    up, down = (
        objective(parts, {n: p + sign * step * direction[n] for n, p in psi.items()}, obs, noise, config)
        for sign in (1, -1)
    )
    along = sum((gradients[n] * direction[n]).flatten(1).sum(1) for n in psi)
    assert torch.allclose(along, (up - down) / (2 * step), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", IMAGINING)
def test_every_kind_of_planner_climbs_a_value(kind):
    fields = {"critic_from": "value"}
    plain, other = (play(make(kind, parts, fields), observations(2)) for parts in (valued(), valued(networks=1)))
    for (action, value, fallen, pretrained), (different, *_) in zip(plain, other, strict=True):
        assert value.isfinite().all()
        assert not fallen.any()
        assert ((action - pretrained).abs().amax(1) > 1e-4).all()
        assert not torch.allclose(action, different)


def test_a_planned_action_that_only_a_critic_would_judge_stays_as_the_policy_had_it():
    fields = {"critic_from": "value", "E": 3, "reset": "step"}
    planner = make("action", valued(), fields)
    planner.act(observations(1)[0])
    plan, start = planner.kept["plan"], planner.start()
    assert torch.equal(plan[:, -1], start[:, -1].clamp(-1, 1))
    assert ((plan[:, :-1] - start[:, :-1]).abs().amax((1, 2)) > 1e-4).all()


def test_what_a_value_cannot_answer_is_refused_at_its_line(tmp_path):
    assert planner_config({"critic_from": "value"}).needs == ("world_model", "reward", "value")
    assert planner_config({"base": "bc", "critic_from": "value"}).base == "bc"  # which has no critic of its own
    for planner, message in (
        ("{critic_from: value, horizon: [1, 0]}", "horizon 0 needs a critic of actions"),
        ("{kind: action, critic_from: value, horizon: 0}", "horizon 0 needs a critic of actions"),
        ("{critic_from: value, objective: advantage}", "objective: advantage needs a critic of actions"),
        ("{critic_from: [rebrac, value], objective: advantage}", "objective: advantage needs a critic of actions"),
    ):
        with pytest.raises(UserError, match=rf"s\.yaml:5: planners\.mine: .*{message}") as caught:
            spec_with(tmp_path, planner)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------- the sweep

VALUED = BASE.replace("{kind: policy, horizon: [1, 3], updates: [1, 2]}", "{critic_from: value, H: [1, 3]}")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def units(made, component):
    return {unit.seed: unit for unit in made.components if unit.component == component}


def test_a_sweep_trains_the_value_behind_what_it_is_imagined_with(tmp_path):
    made = plan(tmp_path, VALUED)
    assert [unit.component for unit in made.components] == [
        c for c in ("rebrac", "bc", "world_model", "reward", "value") for _ in "01"
    ]
    for seed, unit in units(made, "value").items():
        assert unit.parts == {name: units(made, name)[seed].key for name in ("rebrac", "world_model", "reward")}
        assert unit.configs == {name: units(made, name)[seed].config for name in unit.parts}
    for cell in made.cells:
        if cell.planner:
            assert set(cell.parts) == {"rebrac", "world_model", "reward", "value"}
            assert cell.parts["value"] == units(made, "value")[cell.seed].key
    assert len(units(made, "value")) == 2  # the same for every point of the grid
    assert "value" not in {unit.component for unit in plan(tmp_path, BASE).components}


@pytest.mark.parametrize(
    ("setting", "changed"),
    [
        ("world_model.denoising_steps=3", {"world_model"}),
        ("reward.hidden_dim=8", {"reward"}),
        ("rebrac.actor_bc_coef=0.7", {"rebrac"}),
        ("value.discount=0.99", set()),
        ("bc.steps=7", {"bc"}),
    ],
)
def test_what_a_value_is_imagined_with_is_in_its_key_and_nothing_else(tmp_path, setting, changed):
    before, after = plan(tmp_path, VALUED), plan(tmp_path, VALUED, sets=[f"components.{setting}"])
    old, new = ({unit.key for unit in [*made.components, *made.cells]} for made in (before, after))
    found = {key.split("-hopper")[0] for key in old - new}
    follows = {"bc": {"frozen_bc"}, "rebrac": {"frozen_rebrac", "value", "policy_rebrac"}}
    (cause,) = changed or {"value"}
    assert found == {cause, *follows.get(cause, {"value", "policy_rebrac"})}


def test_every_base_of_a_planner_has_the_value_of_its_own_policy(tmp_path):
    axes = VALUED.replace("H: [1, 3]", "H: 1, base: [rebrac, iql]")
    for text in (axes, axes + "components: {value: {of: [rebrac, iql]}}\n"):
        made = plan(tmp_path, text)
        cells = [cell for cell in made.cells if cell.planner]
        assert [(cell.base, cell.seed) for cell in cells] == [("rebrac", 0), ("rebrac", 1), ("iql", 0), ("iql", 1)]
        values = {unit.key: unit for unit in made.components if unit.component == "value"}
        assert len(values) == 4
        for cell in cells:
            value = values[cell.parts["value"]]
            assert value.config["of"] == cell.base
            assert value.parts[cell.base] == cell.parts[cell.base]
            assert set(value.parts) == {cell.base, "world_model", "reward"}
    assert len(rows(made)) == len(set(rows(made))) == 4


def test_a_value_of_another_policy_than_the_planners_is_refused_at_its_line(tmp_path):
    text = VALUED.replace("H: [1, 3]", "base: iql") + "components: {value: {of: rebrac}}\n"
    with pytest.raises(UserError, match=r"s\.yaml:6: planners\.mpc adapts iql, .*value") as caught:
        plan(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_selection_trains_the_value_that_every_candidate_uses(tmp_path):
    made = plan(tmp_path, VALUED + "evaluation: {select: {seeds: [8], env_seed: 5}}\n")
    assert made.awaiting_choice == 2
    assert set(units(made, "value")) == set(units(made, "world_model")) == {0, 1, 8}
