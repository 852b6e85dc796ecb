"""A policy that learns to act as a planner: what it learns from, against the planner itself, and its rounds."""

import pytest
import torch

from mpcwdwm.components import component_config
from mpcwdwm.components.component import Context
from mpcwdwm.errors import UserError
from mpcwdwm.planning import PLANNERS, assemble, improved
from mpcwdwm.planning.improved import Improved, ImprovedConfig, within
from mpcwdwm.training.buffer import usable_rows
from mpcwdwm.training.loop import Training
from tests.support.parts import bases_of, part_of
from tests.support.plans import spec_with
from tests.support.random_parts import DOUBLE
from tests.support.updates import draws_at

SEEDS = [0, 1]
SMALL = {"hidden_dim": 8, "batch_size": 32, "steps": 300, "evaluations": 1, "states": 300, "imagined": 8, "length": 6}
CLIMBING = {"kind": "action", "preset": "robust", "H": 1, "M": 1}


@pytest.fixture(scope="module")
def rows(dataset):
    return part_of(dataset, 0, 3000)


def training_of(rows, **fields):
    config = component_config("improved", {}, {**SMALL, "lr": 3e-3, **fields})
    return Training("improved", config, rows, SEEDS, bases=bases_of(config, rows, SEEDS), dtype=DOUBLE)


def planner_of(training, rows, episodes, **changes):
    bases = bases_of(training.config, rows, SEEDS)
    parts = assemble({name: base.to(DOUBLE) for name, base in bases.items()}, "rebrac", dataset=rows)
    teacher = training.config.teacher.model_copy(update=changes)
    return PLANNERS[teacher.kind](parts, teacher, seeds=SEEDS, episodes=episodes)


def test_it_learns_the_planners_actions_at_recorded_and_imagined_states(rows):
    training = training_of(rows)
    part = training.part
    assert isinstance(part, Improved)
    counts = part._counts.tolist()
    assert all(300 < count <= 300 + 8 * 6 for count in counts)
    assert part._target.shape == (*part._obs.shape[:2], part.act_dim)
    planner = planner_of(training, rows, 50)
    for start in (0, 250, 295):  # across the boundary of what is planned at a time; the model has no noise here
        some = part._obs[:, start : start + 50]
        planner.reset()
        action, _, fallen = planner.act(some.flatten(0, 1))
        assert not fallen.any()
        found = part._target[:, start : start + 50]
        whole = start + 50 <= min(counts)
        size = (action.view_as(found) - part._base[:, start : start + 50]).norm(dim=-1)
        assert torch.allclose(size[:, : 50 if whole else 5], torch.tensor(0.1, dtype=DOUBLE), atol=0.02)
    training.run()
    off, left = distances(part)
    assert (off < 0.75 * left).all()  # eight units cannot tell all states apart


def distances(part):
    """Mean distance from the planner's actions, of the policy and of the base, of every member."""
    own = part.actor(part._obs).detach()
    pairs = [(own, part._target), (part._base, part._target)]
    counted = torch.arange(own.shape[1]) < part._counts.unsqueeze(1)
    return [((a - b).norm(dim=-1) * counted).sum(1) / part._counts for a, b in pairs]


def test_it_begins_as_the_base_where_their_networks_are_alike_and_else_afresh(rows):
    alike, other = training_of(rows), training_of(rows, hidden_layers=2)
    base = bases_of(alike.config, rows, SEEDS)["rebrac"].to(DOUBLE)
    obs = torch.from_numpy(rows.obs[:20]).double().expand(2, -1, -1)
    assert torch.equal(alike.part.actor(obs), base.actor(obs))
    assert not torch.allclose(other.part.actor(obs), base.actor(obs))


def test_states_are_recorded_ones_and_those_that_the_base_reaches(rows):
    part = training_of(rows, imagined=0).part
    assert part._counts.tolist() == [300, 300]
    recorded = {tuple(row) for row in torch.from_numpy(rows.obs).double().tolist()}
    assert all(tuple(row) in recorded for row in part._obs.flatten(0, 1).tolist())
    more = training_of(rows).part
    assert torch.equal(more._obs[:, :300], training_of(rows).part._obs[:, :300])
    reached = more._obs[0, 300 : int(more._counts[0])]
    starts = [tuple(row) in recorded for row in reached.tolist()]
    assert sum(starts) == 8  # every imagined episode begins at a recorded state, and leaves them
    ends = Training(
        "improved",
        more.config,
        rows,
        SEEDS,
        bases=bases_of(more.config, rows, SEEDS),
        termination=lambda obs: torch.ones_like(obs[..., 0], dtype=torch.bool),
        dtype=DOUBLE,
    ).part
    assert ends._counts.tolist() == [308, 308]  # each ends with its first transition


def test_the_direct_way_climbs_in_small_steps_up_to_its_radius(rows):
    training = training_of(rows, planner=CLIMBING, method="direct", radius=0.05, direct_step=0.02, steps=200)
    part = training.part
    noise = draws_at(training.draws, 0)
    row = noise["state"] % part._counts.unsqueeze(1)
    obs = part._obs.gather(1, row.unsqueeze(-1).expand(-1, -1, part.obs_dim))
    base = part._base.gather(1, row.unsqueeze(-1).expand(-1, -1, part.act_dim))
    target = part.climbed(obs, base, base, noise["plan"])
    assert torch.allclose((target - base).norm(dim=-1), torch.tensor(0.02, dtype=DOUBLE), rtol=1e-9)
    planner = planner_of(training, rows, 32, step_size=0.02)
    action, _, _ = planner.act(obs.flatten(0, 1))  # the same step, since the model here has no noise to differ in
    cosine = torch.nn.functional.cosine_similarity(action.view_as(base) - base, target - base, dim=-1)
    assert cosine.median() > 0.8
    far = base + 0.2 * torch.nn.functional.normalize(torch.ones_like(base), dim=-1)
    assert ((part.climbed(obs, far, base, noise["plan"]) - base).norm(dim=-1) <= 0.05 + 1e-9).all()
    training.run()
    change = (part.actor(part._obs) - part._base).norm(dim=-1)
    assert 0.02 < float(change.detach().mean()) < 0.07  # beyond one step, not beyond the radius but for the fit


def test_what_lies_outside_of_the_ball_is_moved_to_its_surface():
    base = torch.zeros(3, 2)
    action = torch.tensor([[3.0, 4.0], [0.03, 0.04], [0.0, 0.0]])
    assert torch.allclose(within(action, base, 0.1), torch.tensor([[0.06, 0.08], [0.03, 0.04], [0.0, 0.0]]))


def test_a_second_round_improves_on_the_first_with_a_value_of_its_own(rows):
    brief = {"steps": 60, "states": 100, "imagined": 4}
    once, twice = (training_of(rows, rounds=rounds, **brief) for rounds in (1, 2))
    once.run()
    obs = twice.part._obs[:, :100]
    assert torch.allclose(twice.part._base[:, :100], once.part.actor(obs).detach(), atol=1e-12)
    assert torch.allclose(twice.part.actor(obs), twice.part._base[:, :100], atol=1e-12)  # it begins as the first
    step = (twice.part._target - twice.part._base)[:, :100].norm(dim=-1)
    assert torch.allclose(step, torch.tensor(0.1, dtype=DOUBLE), atol=0.02)
    again = once.part._target[:, :100] - once.part._base[:, :100]
    assert not torch.allclose(again, (twice.part._target - twice.part._base)[:, :100], atol=1e-3)


def test_the_value_of_a_second_round_is_that_of_the_first_rounds_policy(rows):
    training = training_of(rows, rounds=2, steps=60, states=100, imagined=4)
    bases = {name: base.to(DOUBLE) for name, base in bases_of(training.config, rows, SEEDS).items()}
    context = Context([rows] * 2, [usable_rows(rows, "all", heldout=None)] * 2)
    found = training.part.next_round(bases, context)
    assert found["rebrac"] is not bases["rebrac"]
    assert found["world_model"] is bases["world_model"]
    policy = {name: found[name] for name in ("rebrac", "world_model", "reward")}
    expected = Training("value", bases["value"].config, rows, SEEDS, bases=policy, dtype=DOUBLE)
    expected.run()
    assert largest(found["value"], expected.part) < 1e-12
    other = Training(
        "value", bases["value"].config, rows, SEEDS, bases={**policy, "rebrac": bases["rebrac"]}, dtype=DOUBLE
    )
    other.run()
    assert largest(found["value"], other.part) > 1e-6  # the base's own value is another


def largest(one, other):
    """The largest difference of two components' weights."""
    return max(float((a - b).abs().max()) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_every_state_is_planned_as_at_an_episodes_start(rows, monkeypatch):
    monkeypatch.setattr(improved, "PLANNED_ROWS", 20)
    carried = {"H": 0, "step_size": 1e-2, "reset": "episode"}  # of which a planner keeps ψ from step to step
    part = training_of(rows, planner=carried, imagined=0, states=20).part
    bases = {name: base.to(DOUBLE) for name, base in bases_of(part.config, rows, SEEDS).items()}
    parts = assemble(bases, "rebrac", dataset=rows)
    twice = part.planned(parts, torch.cat([part._obs, part._obs], 1))
    assert torch.allclose(twice[:, :20], twice[:, 20:], rtol=0, atol=1e-12)
    assert (twice[:, :20] - part._base).norm(dim=-1).min() > 1e-6


def test_what_it_builds_on_is_what_its_planner_needs():
    assert ImprovedConfig().builds_on == ("rebrac", "world_model", "reward", "value")
    config = component_config(
        "improved", {}, {"planner": {"kind": "action", "base": "bc", "critic_from": "iql", "H": 1}}
    )
    assert (config.builds_on, config.improves) == (("bc", "world_model", "reward", "iql"), "bc")
    assert component_config("improved", {}, config.to_dict()) == config
    assert "mpcwdwm.planning.mppi" in component_config("improved", {}, {"planner": {"kind": "mppi"}}).code_roots


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ("planner: {kind: none}", "improves nothing"),
        ("planner: {kind: random}", "improves nothing"),
        ("planner: {preset: robust, E: 0}", "improves nothing"),
        ("planner: {kind: action, preset: robust, base: improved}", "built on itself"),
        ("planner: [{preset: robust}, {preset: robust, base: improved}]", "built on itself"),
        ("planner: {kind: action, preset: [robust]}", "planner"),
        ("planner: {preset: robust, base: bc, anchor: 1.0}, rounds: 2", "anchor to the improved policy"),
        ("planner: {kind: action, preset: robust, step_size: auto}, method: direct", "by direct_step"),
        ("planner: {kind: nonsense}", "unknown planner kind 'nonsense'"),
        ("planner: {kind: action, horison: 3}", "unknown key 'horison'.*did you mean 'horizon'"),
        ("planner: {kind: action, H: -1}", "H should be greater than or equal to 0"),
        ("planner: 3", "planner should be a mapping, not 3"),
        ("method: direct", "give planner: {kind: action, preset: robust}"),
        ("planner: {kind: action}, rounds: 2", "give a planner with critic_from: value"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line_of_the_yaml(tmp_path, fields, says):
    with pytest.raises(UserError, match=rf"s\.yaml:.*components\.improved.*{says}") as caught:
        spec_with(tmp_path, "{kind: none, base: improved}", f"components: {{improved: {{{fields}}}}}\n")
    assert "\n" not in str(caught.value)
