"""The kinds of world model: samplers against analytic Gaussians, derivatives against finite differences."""

import math

import pytest
import torch
from torch.func import jvp

from mpcwdwm.components import component_class, component_config, load_component
from mpcwdwm.components.component import Batch
from mpcwdwm.components.world_models.flow import time_feature_rates, time_features
from mpcwdwm.components.world_models.meanflow import average_velocity_target, effective_share, tilt_weights
from mpcwdwm.components.world_models.mlp import LOG_VARIANCE_BOUNDS
from mpcwdwm.errors import UserError
from mpcwdwm.nn.networks import Mlp, uniform_init
from mpcwdwm.planning import AdaptiveMpc, MpcConfig
from mpcwdwm.planning.parts import SharedWorldModel
from mpcwdwm.random import generator
from mpcwdwm.training.evaluators import heldout_evaluator
from mpcwdwm.training.loop import Training, train
from tests.support.parts import KINDS, part_of
from tests.support.random_parts import ACT, OBS, make_parts

DOUBLE = torch.float64
MEAN, STD = 0.7, 0.3  # of the data in the analytic cases


def model(kind, seeds=(0,), **fields):
    config = component_config("world_model", {}, {"kind": kind, "hidden_dim": 8, **fields})
    return component_class("world_model", config)(config, 2, 1, seeds, DOUBLE).requires_grad_(False)


def randomised(part, scale=0.5):
    g = generator(1, "test/weights")
    for p in part.parameters():
        p.copy_(torch.randn(p.shape, generator=g, dtype=DOUBLE) * scale)
    part.normalizer.std.fill_(1.7)
    part.target_normalizer.std.fill_(0.6)
    part.target_normalizer.mean.fill_(0.2)
    return part


def normal(*shape, name="x", seed=0):
    return torch.randn(*shape, generator=generator(seed, "test", name), dtype=DOUBLE)


# The analytic flow of Gaussian data: z_t = (1 − t) x + t e has mean (1 − t) MEAN and this deviation.


def spread(t):
    return torch.sqrt((1 - t) ** 2 * STD**2 + t**2)


def exact_velocity(z, t, condition=None):
    """E[e − x | z_t = z]."""
    rate = (t - (1 - t) * STD**2) / spread(t)
    return -MEAN + rate / spread(t) * (z - (1 - t) * MEAN)


def carried(z, r, t):
    """Where the flow takes z from time t to time r."""
    return (1 - r) * MEAN + spread(r) / spread(t) * (z - (1 - t) * MEAN)


def exact_average_velocity(z, r, t, condition=None):
    return (z - carried(z, r, t)) / (t - r)


# ------------------------------------------------------------------------------------------ samplers


def test_flow_sampling_converges_to_the_analytic_map_with_first_order():
    def error(steps):
        part = model("flow", denoising_steps=steps, predict="state")
        part.velocity = exact_velocity
        e = torch.linspace(-2, 2, 41, dtype=DOUBLE).view(1, -1, 1).expand(1, 41, 2)
        sample = part.sample(torch.zeros(1, 41, 2, dtype=DOUBLE), torch.zeros(1, 41, 1, dtype=DOUBLE), e)
        return float((sample - (MEAN + STD * e)).abs().max())

    coarse, fine = error(40), error(80)
    assert 1.8 < coarse / fine < 2.2
    assert fine < 0.05


def test_meanflow_sampling_with_the_analytic_average_velocity_is_exact():
    part = model("meanflow", predict="state")
    part.average_velocity = exact_average_velocity
    e = normal(1, 50, 2)
    sample = part.sample(torch.zeros(1, 50, 2, dtype=DOUBLE), torch.zeros(1, 50, 1, dtype=DOUBLE), e)
    assert torch.allclose(sample, MEAN + STD * e, atol=1e-12)


def test_meanflows_target_of_the_analytic_average_velocity_is_itself():
    z = normal(200, 1)
    r, t = torch.rand(2, 200, 1, generator=generator(0, "test/times"), dtype=DOUBLE).sort(0).values
    v = exact_velocity(z, t)
    u, du_dt = jvp(exact_average_velocity, (z, r, t), (v, torch.zeros_like(r), torch.ones_like(t)))
    assert torch.allclose(average_velocity_target(v, r, t, du_dt), u, atol=1e-9)
    assert float((v - u).abs().mean()) > 0.1  # neither term alone would do
    assert torch.equal(average_velocity_target(v, t, t, du_dt), v)


def test_the_derivative_meanflow_learns_from_is_the_one_along_the_path():
    """d/dt of u(z + v dt, c, r, t + dt) by the whole model, against torch's forward mode and finite differences."""
    part = randomised(model("meanflow", seeds=(0, 1))).requires_grad_(True)
    g = generator(0, "test/rates")
    z, v, c = (torch.randn(2, 30, n, generator=g, dtype=DOUBLE) for n in (2, 2, 3))
    r, t = torch.rand(2, 2, 30, 1, generator=g, dtype=DOUBLE).sort(0).values
    u, du_dt = part.with_derivative(z, v, r, t, c)
    assert torch.allclose(u, part.average_velocity(z, r, t, c), atol=1e-12)
    assert not du_dt.requires_grad
    assert u.requires_grad
    _, forward = jvp(lambda z, t: part.average_velocity(z, r, t, c), (z, t), (v, torch.ones_like(t)))
    assert torch.allclose(du_dt, forward, rtol=1e-10)
    h = 1e-5
    ahead, behind = (part.average_velocity(z + s * v, r, t + s, c) for s in (h, -h))
    assert torch.allclose(du_dt, (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-6)
    weights = list(part.net.parameters())  # what is regressed has the plain gradient
    ours = torch.autograd.grad(u.square().sum(), weights)
    plain = torch.autograd.grad(part.average_velocity(z, r, t, c).square().sum(), weights)
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(ours, plain, strict=True))


def test_time_features_change_as_their_rates_say():
    t = torch.linspace(0, 1, 11, dtype=DOUBLE).unsqueeze(-1)
    slope = (time_features(t + 1e-6) - time_features(t - 1e-6)) / 2e-6
    assert torch.allclose(time_feature_rates(t), slope, atol=1e-8)


def test_meanflows_times_are_ordered_and_a_share_of_them_equal():
    part = model("meanflow", equal_times=0.25)
    r, t = part.times(normal(1, 400, 2))
    assert (r <= t).all()
    assert torch.equal(r[:, :100], t[:, :100])
    assert (r[:, 100:] < t[:, 100:]).all()
    assert float(r.min()) > 0
    assert float(t.max()) < 1
    logit = torch.logit(torch.cat([r[:, 100:], t[:, 100:]]))
    assert abs(float(logit.mean()) - part.config.time_mean) < 0.2
    assert abs(float(logit.std()) - part.config.time_std) < 0.2


def test_a_respaced_sample_takes_the_named_number_of_steps_of_the_longer_schedule():
    part, whole = model("diffusion", denoising_steps=4, training_steps=100), model("diffusion", denoising_steps=100)
    assert part.visited == (0, 25, 50, 75, 100)
    assert part.schedule == tuple(whole.schedule[k] for k in part.visited)
    assert part.noise(8)["k"].high == 100
    assert part.noise_shape == (4, 2)
    asked = []
    part.predict_noise = lambda u, k, condition: (asked.append(k), torch.zeros_like(u))[1]
    part.sample(torch.zeros(1, 1, 2, dtype=DOUBLE), torch.zeros(1, 1, 1, dtype=DOUBLE), normal(1, 1, 4, 2))
    assert asked == [100, 75, 50, 25]


LEARNT = {  # kind → settings, and how far off the spread may be after a few hundred updates
    "diffusion": ({"denoising_steps": 50, "variance": "beta"}, 0.06),
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
        part.update(batch, {name: recipe.sample(1, g, DOUBLE) for name, recipe in part.noise(rows).items()}, step)
    obs, action, noise = (normal(1, 4000, *shape, name=str(shape)) for shape in ((2,), (1,), part.noise_shape))
    with torch.no_grad():
        sample = part.sample(obs, action, noise)
    assert abs(float(sample.mean()) - 0.7) < 0.05
    assert abs(float(sample.std()) - 0.6) < tolerance


# ------------------------------------------------------------------------------------ every kind alike


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


# ------------------------------------------------------------------------------------- the MLP ensemble


def test_the_noise_draws_the_member_and_the_gaussian_sample():
    part = randomised(model("mlp", ensemble=3))
    s, a = normal(1, 1, 2, name="s").expand(1, 5000, 2), normal(1, 1, 1, name="a").expand(1, 5000, 1)
    members = part.predict_members(s, a)  # (1, 3, 5000, 2)
    assert members.shape == (1, 3, 5000, 2)
    still = torch.cat([normal(1, 5000, 1), torch.zeros(1, 5000, 2, dtype=DOUBLE)], -1)
    sample = part.sample(s, a, still)[0]
    which = (sample.unsqueeze(0) - members[0]).abs().amax(-1) < 1e-12  # (3, 5000)
    assert (which.sum(0) == 1).all()  # always exactly one member's mean
    assert all(abs(float(share) - 1 / 3) < 0.03 for share in which.double().mean(1))
    # the Gaussian: standardised, its deviation is exp(log-variance / 2) of the drawn member
    _, log_variance = part.split(part.net(part.condition(s, a).unsqueeze(-3)))
    moved = still.clone()
    moved[..., 1:] = 2.0
    step = (part.sample(s, a, moved)[0] - sample) / (2 * 0.6)  # 0.6: the target normaliser's deviation
    expected = (0.5 * log_variance[0]).exp().gather(0, which.long().argmax(0).view(1, -1, 1).expand(1, -1, 2))[0]
    assert torch.allclose(step, expected, atol=1e-12)


def test_the_mean_of_the_ensemble_needs_no_draw():
    part = randomised(model("mlp", ensemble=4, probabilistic=False, member="mean"))
    s, a = normal(1, 6, 2, name="s"), normal(1, 6, 1, name="a")
    sample = part.sample(s, a, normal(1, 6, 1))
    assert torch.equal(sample, part.sample(s, a, normal(1, 6, 1, seed=1)))
    assert torch.allclose(sample, part.predict_members(s, a).mean(1), atol=1e-12)


def test_the_probabilistic_loss_is_the_gaussian_negative_log_likelihood():
    part = randomised(model("mlp", ensemble=2))
    s, a, to = normal(1, 7, 2, name="s"), normal(1, 7, 1, name="a"), normal(1, 7, 2, name="to")
    flat = torch.zeros(1, 7, dtype=DOUBLE)
    loss, _ = part.loss(Batch(s, a, flat, to, a, flat), {})
    mean, log_variance = part.split(part.net(part.condition(s, a).unsqueeze(-3)))
    gaussian = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = -gaussian.log_prob(part.target(s, to).unsqueeze(-3)) - 0.5 * math.log(2 * math.pi)
    assert torch.allclose(loss, expected.mean((-3, -2, -1)))


def test_log_variances_stay_within_their_bounds_and_are_unchanged_far_inside():
    part = model("mlp")
    raw = torch.linspace(-100, 100, 201, dtype=DOUBLE).view(1, 1, -1, 1)
    _, bounded = part.split(torch.cat([raw, raw], -1))
    low, high = LOG_VARIANCE_BOUNDS
    assert float(bounded.min()) >= low - 1e-9
    assert float(bounded.max()) <= high + 1e-4
    _, inside = part.split(torch.full((1, 1, 1, 2), -5.0, dtype=DOUBLE))
    assert abs(float(inside) + 5) < 0.02


# ---------------------------------------------------------------------------------------------- the tilt


def test_tilt_weights_follow_the_policys_density_and_have_mean_one():
    action, policy_action = normal(2, 50, 3, name="a"), normal(2, 50, 3, name="pi")
    weights = tilt_weights(action, policy_action, 0.4, 0.7)
    density = torch.distributions.Normal(policy_action, 0.7).log_prob(action).sum(-1).exp()
    expected = density**0.4 / (density**0.4).mean(-1, keepdim=True)
    assert torch.allclose(weights, expected)
    assert torch.allclose(weights.mean(-1), torch.ones(2, dtype=DOUBLE))


def test_the_effective_share_counts_the_rows_that_matter():
    assert effective_share(torch.ones(1, 8)).tolist() == [1.0]
    assert effective_share(torch.tensor([[4.0, 4.0, 0, 0, 0, 0, 0, 0]])).tolist() == [0.25]


@pytest.fixture(scope="module")
def policy(dataset, tmp_path_factory):
    from mpcwdwm.components.artifact import write_artifact

    folders = []
    config = component_config("rebrac", {}, {"hidden_dim": 8, "batch_size": 16, "steps": 2})
    for trained in train("rebrac", config, part_of(dataset, 0, 2000), [5, 6]):
        folders.append(tmp_path_factory.mktemp("rebrac"))
        write_artifact(folders[-1], trained.tensors, trained.facts, trained.curve)
    return folders


TILTED = {"kind": "meanflow", "tilt": 0.1, "hidden_dim": 8, "batch_size": 64, "steps": 30, "evaluations": 1}


def test_a_tilted_model_learns_with_its_base_and_does_not_keep_it(dataset, policy):
    data = part_of(dataset, 0, 2000)
    tilted, plain = (
        Training(
            "world_model",
            component_config("world_model", {}, {**TILTED, **fields}),
            data,
            [5, 6],
            bases={"rebrac": load_component(policy)},
            dtype=DOUBLE,
        )
        for fields in ({}, {"tilt": 0.0})
    )
    for training in (tilted, plain):
        training.run()
    point = tilted.curves[0][-1]
    assert 1 / 64 <= point["world_model/effective_share"] < 1
    assert "world_model/effective_share" not in plain.curves[0][-1]
    assert tilted.part.state_dict().keys() == plain.part.state_dict().keys()
    assert not torch.allclose(tilted.part.net.head.weight, plain.part.net.head.weight)
    alone = Training(
        "world_model", tilted.config, data, [6], bases={"rebrac": load_component(policy[1:])}, dtype=DOUBLE
    )
    alone.run()
    assert torch.allclose(alone.part.net.head.weight[0], tilted.part.net.head.weight[1], atol=1e-9)


def test_a_checkpoint_made_with_another_base_is_not_continued(dataset, policy, tmp_path):
    config, data = component_config("world_model", {}, TILTED), part_of(dataset, 0, 2000)
    first, again = (
        Training("world_model", config, data, [5, 6], bases={"rebrac": load_component(policy)}) for _ in "12"
    )
    first.run(until=5)
    first.save(tmp_path / "checkpoint")
    assert again.load(tmp_path / "checkpoint")
    changed = load_component(policy)
    changed.actor.net.head.bias += 1
    other = Training("world_model", config, data, [5, 6], bases={"rebrac": changed})
    assert not other.load(tmp_path / "checkpoint")


def test_a_tilt_needs_its_base_with_the_same_seeds(dataset, policy):
    config, data = component_config("world_model", {}, TILTED), part_of(dataset, 0, 2000)
    with pytest.raises(UserError, match="builds on a trained rebrac"):
        Training("world_model", config, data, [5, 6])
    with pytest.raises(UserError, match=r"seeds \[5, 6\], the training \[5\]"):
        Training("world_model", config, data, [5], bases={"rebrac": load_component(policy)})


# ---------------------------------------------------------------------------------------- held-out episodes


def test_windows_lie_within_one_held_out_episode(dataset):
    data = part_of(dataset, 0, 10_000)
    starts = data.heldout_starts(5)
    assert len(starts) > 50
    for j in range(5):
        assert (data.episode[starts + j] == data.episode[starts]).all()
        assert data.heldout[starts + j].all()
        assert data.has_next_obs[starts + j].all()
    episodes = [length for length in data.lengths[data.heldout_episodes] if length >= 5]
    ends_without_next = int((~data.has_next_obs & data.heldout).sum())
    assert sum(length - 4 for length in episodes) - ends_without_next <= len(starts) <= sum(episodes)
    assert len(data.heldout_starts(20_000)) == 0


def test_the_open_loop_error_of_a_model_that_adds_its_action_is_known(dataset):
    """The model s' = s + a·1 along recorded actions, compared with a loop over the rows of the file."""
    data = part_of(dataset, 0, 10_000)
    config = component_config("world_model", {}, {"kind": "flow", "hidden_dim": 8, "batch_size": 16, "steps": 5})
    training = Training("world_model", config, data, [0], dtype=DOUBLE)
    training.part.sample = lambda obs, action, noise: obs + action.sum(-1, keepdim=True)
    (found,) = heldout_evaluator(training.part, training.datasets, horizon=3)(training.part)
    starts = data.heldout_starts(3)
    picked = starts[torch.randperm(len(starts), generator=generator(0, "heldout/windows"))[:1024]].tolist()
    std = training.part.normalizer.std[0, 0].numpy()
    total = still = 0.0
    for row in picked:
        moved = data.obs[row] + data.action[row : row + 3].sum(dtype=float)
        total += (((moved - data.next_obs[row + 2]) / std) ** 2).mean() / len(picked)
        still += (((data.obs[row] - data.next_obs[row + 2]) / std) ** 2).mean() / len(picked)
    assert found["heldout/rmse_3_steps"] == pytest.approx(math.sqrt(total), rel=1e-5)
    assert found["heldout/rmse_3_steps_no_change"] == pytest.approx(math.sqrt(still), rel=1e-5)


def test_the_open_loop_is_given_fresh_noise_at_every_step(dataset):
    data = part_of(dataset, 0, 10_000)
    config = component_config("world_model", {}, {"kind": "flow", "hidden_dim": 8, "batch_size": 16, "steps": 5})
    training, seen = Training("world_model", config, data, [0, 1]), []
    training.part.sample = lambda obs, action, noise: (seen.append(noise), obs)[1]
    heldout_evaluator(training.part, training.datasets)(training.part)
    _, *steps = seen  # the first is the one-step error's
    assert len(steps) == 5
    assert not torch.equal(steps[0], steps[1])
    assert not torch.equal(steps[0][0], steps[0][1])


def test_a_derivative_needs_the_activation_it_is_written_for():
    net = Mlp((1,), 2, [4], 1, activation=torch.relu)
    net.initialize(0, generator(0, "test"), uniform_init(), uniform_init())
    with pytest.raises(AssertionError):
        net.with_derivative(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2))


@pytest.mark.parametrize("kind", ["flow", "meanflow", "mlp"])
def test_every_kind_learns_the_robots_dynamics(kind, dataset):
    """A few hundred updates predict a held-out step far better than "the state does not change"."""
    fields = {"kind": kind, "steps": 400, "hidden_dim": 64, "batch_size": 128, "lr": 1e-3, "evaluations": 1}
    config = component_config("world_model", {}, {**fields, **({"ensemble": 2} if kind == "mlp" else {})})
    (trained,) = train("world_model", config, part_of(dataset, 0, 20_000), [0])
    (point,) = trained.curve
    assert point["heldout/rmse"] < 0.75 * point["heldout/rmse_no_change"]
    assert point["heldout/rmse_5_steps"] < 0.9 * point["heldout/rmse_5_steps_no_change"]
