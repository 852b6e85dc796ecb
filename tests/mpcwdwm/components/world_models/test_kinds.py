"""What holds for every kind of world model: samples, stacked members, averaged weights, artifacts, what is learnt."""

import pytest
import torch

from mpcwdwm.components import component_class, component_config, load_component
from mpcwdwm.components.component import Batch
from mpcwdwm.planning import AdaptiveMpc, MpcConfig
from mpcwdwm.planning.parts import SharedWorldModel
from mpcwdwm.random import generator
from mpcwdwm.training.loop import Training, train
from tests.support.parts import KINDS, part_of
from tests.support.random_parts import ACT, OBS, make_parts
from tests.support.updates import update
from tests.support.world_models import model, normal, randomised

DOUBLE = torch.float64

LEARNT = {  # kind → settings, and how far off the spread may be after a few hundred updates
    "diffusion": ({}, 0.06),
    "flow": ({"denoising_steps": 20}, 0.08),
    "meanflow": ({"lr": 1e-2}, 0.2),  # learns the spread slowly, from its own derivative; collapsed it would be 0
    "mlp": ({}, 0.04),
}


@pytest.mark.parametrize("kind", LEARNT)
def test_a_trained_model_has_the_moments_of_gaussian_data(kind):
    """State and action tell nothing: what is sampled is N(0.7, 0.6²), whatever the kind."""
    settings, tolerance = LEARNT[kind]
    fields = {"hidden_dim": 32, "hidden_layers": 2, "lr": 3e-3, "predict": "state", **settings}
    part = model(kind, **fields).requires_grad_(True)
    rows, g = 256, generator(0, "test/learnt")
    flat = torch.zeros(1, rows, dtype=DOUBLE)
    for step in range(500):
        obs, x, action = (torch.randn(1, rows, n, generator=g, dtype=DOUBLE) for n in (2, 2, 1))
        batch = Batch(obs, action, flat, 0.7 + 0.6 * x, action, flat)
        update(part, batch, {name: recipe.sample(1, g, DOUBLE) for name, recipe in part.noise(rows).items()}, step)
    obs, action, noise = (normal(1, 4000, *shape, name=str(shape)) for shape in ((2,), (1,), part.noise_shape))
    with torch.no_grad():
        sample = part.sample(obs, action, noise)
    assert abs(float(sample.mean()) - 0.7) < 0.05
    assert abs(float(sample.std()) - 0.6) < tolerance


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("predict", ["delta", "state"])
def test_a_sample_is_a_differentiable_function_of_obs_and_action(name, predict):
    part = randomised(model(**KINDS[name], predict=predict))
    s, a, z = normal(1, 3, 2, name="s"), normal(1, 3, 1, name="a"), normal(1, 3, *part.noise_shape, name="z")
    assert torch.equal(part.sample(s, a, z), part.sample(s, a, z))
    assert part.sample(s, a, z).shape == (1, 3, 2)
    s.requires_grad_(True), a.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda s, a: part.sample(s, a, z), (s, a), eps=1e-6, atol=1e-6)
    gradients = torch.autograd.grad(part.sample(s, a, z).sum(), (s, a))
    assert all(float(g.abs().min()) > 0 for g in gradients)


@pytest.mark.parametrize("name", KINDS)
def test_stacked_members_sample_as_each_alone(name):
    both = model(**KINDS[name], seeds=(4, 9))
    s, a, z = normal(2, 5, 2, name="s"), normal(2, 5, 1, name="a"), normal(2, 5, *both.noise_shape, name="z")
    stacked = both.sample(s, a, z)
    for member, seed in enumerate((4, 9)):
        own = slice(member, member + 1)
        alone = model(**KINDS[name], seeds=(seed,)).sample(s[own], a[own], z[own])
        assert torch.allclose(stacked[own], alone, atol=1e-12)


@pytest.mark.parametrize("kind", ["diffusion", "flow", "meanflow", "mlp"])
def test_the_average_of_the_weights_follows_by_hand_and_is_what_samples(kind, dataset):
    config = {"kind": kind, "hidden_dim": 8, "batch_size": 16, "steps": 12}
    data = part_of(dataset, 0, 2000)

    def started(**fields):
        resolved = component_config("world_model", {}, {**config, **fields})
        return Training("world_model", resolved, data, [0, 1], dtype=DOUBLE)

    plain, averaging = started(), started(ema=0.75)
    by_hand = {name: p.detach().clone() for name, p in averaging.part.net.named_parameters()}
    for step in range(1, 13):
        plain.run(until=step)
        averaging.run(until=step)
        for name, p in plain.part.net.named_parameters():
            by_hand[name] = 0.75 * by_hand[name] + 0.25 * p.detach()
    trained = dict(averaging.part.net.named_parameters())
    for name, p in plain.part.net.named_parameters():
        assert torch.equal(p, trained[name])  # averaging changes nothing in what is trained
    for name, p in averaging.part.averaged.named_parameters():
        assert torch.allclose(p, by_hand[name], atol=1e-14)
        assert not torch.equal(p, trained[name])
    s, a = normal(2, 3, data.obs_dim, name="s"), normal(2, 3, data.act_dim, name="a")
    z = normal(2, 3, *averaging.part.noise_shape, name="z")
    sampled = averaging.part.sample(s, a, z)
    assert not torch.allclose(sampled, plain.part.sample(s, a, z))
    plain.part.net.load_state_dict(averaging.part.averaged.state_dict())
    assert torch.equal(sampled, plain.part.sample(s, a, z))


@pytest.mark.parametrize("name", KINDS)
def test_a_finished_model_is_read_back_and_samples_the_same(name, dataset, tmp_path):
    from mpcwdwm.components.artifact import write_artifact

    fields = {**KINDS[name], "hidden_dim": 8, "batch_size": 16, "steps": 5, "evaluations": 1}
    config, data = component_config("world_model", {}, fields), part_of(dataset, 0, 2000)
    training = Training("world_model", config, data, [3])
    training.run()
    (trained,) = training.trained()
    write_artifact(tmp_path, trained.tensors, trained.facts, trained.curve)
    loaded = load_component([tmp_path])
    assert type(loaded) is type(training.part)
    s, a = torch.zeros(1, 4, data.obs_dim), torch.zeros(1, 4, data.act_dim)
    z = normal(1, 4, *loaded.noise_shape).float()
    assert torch.equal(loaded.sample(s, a, z), training.part.sample(s, a, z))


@pytest.mark.parametrize("name", KINDS)
def test_a_planner_adapts_a_policy_through_every_kind(name):
    parts = make_parts((0, 1))
    config = component_config("world_model", {}, {**KINDS[name], "hidden_dim": 8})
    world = component_class("world_model", config)(config, OBS, ACT, (0, 1), DOUBLE).requires_grad_(False)
    parts.world_model = SharedWorldModel(world, 2)
    planner = AdaptiveMpc(parts, MpcConfig(H=2, M=4, E=1, step_size=1e-2), seeds=(0, 1), episodes=3)
    action, value, fallen = planner.act(normal(6, OBS))
    assert action.shape == (6, ACT)
    assert value.isfinite().all()
    assert not fallen.any()
    assert any(not torch.equal(p, planner.psi0[key]) for key, p in planner.psi.items())


@pytest.mark.parametrize("kind", ["flow", "meanflow", "mlp"])
def test_every_kind_learns_the_robots_dynamics(kind, dataset):
    """A few hundred updates predict a held-out step far better than "the state does not change"."""
    fields = {"kind": kind, "steps": 400, "hidden_dim": 64, "batch_size": 128, "lr": 1e-3, "evaluations": 1}
    config = component_config("world_model", {}, {**fields, **({"ensemble": 2} if kind == "mlp" else {})})
    (trained,) = train("world_model", config, part_of(dataset, 0, 20_000), [0])
    (point,) = trained.curve
    assert point["heldout/rmse"] < 0.75 * point["heldout/rmse_no_change"]
    assert point["heldout/rmse_5_steps"] < 0.9 * point["heldout/rmse_5_steps_no_change"]
