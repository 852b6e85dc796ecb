"""The diffusion world model: its sampler against analytic Gaussians and hand-written recursions."""

import math

import pytest
import torch

from mpcwdwm.components import component_config
from mpcwdwm.components.component import Batch
from mpcwdwm.components.world_models.diffusion import REMEMBERED_ROWS, DiffusionConfig, DiffusionModel, alpha_bars
from mpcwdwm.random import generator
from mpcwdwm.training.loop import Training
from tests.support.parts import part_of

DOUBLE = torch.float64
MEAN, STD = 0.7, 0.3


def model(**fields) -> DiffusionModel:
    config = DiffusionConfig(hidden_dim=8, **fields)
    return DiffusionModel(config, 2, 1, [0], DOUBLE).requires_grad_(False)


def with_exact_noise_prediction(part: DiffusionModel, std: float = STD) -> DiffusionModel:
    """Replace ε_θ by the optimal prediction for data N(MEAN, std²), whatever state and action are."""

    def exact(u, k, condition, *, net=None):
        a = part.alpha_bar[k] if isinstance(k, int) else part.alpha_bar[k].unsqueeze(-1)
        return (1 - a).sqrt() * (u - a.sqrt() * MEAN) / (a * std**2 + 1 - a)

    part.predict_noise = exact
    return part


def sampled_std(part: DiffusionModel) -> float:
    """The standard deviation of the samples: with the exact prediction they are linear in the noise."""
    s, a = torch.zeros(1, 1, 2, dtype=DOUBLE), torch.zeros(1, 1, 1, dtype=DOUBLE)
    noise = torch.zeros(1, 1, *part.noise_shape, dtype=DOUBLE)
    weights = torch.autograd.functional.jacobian(lambda z: part.sample(s, a, z)[0, 0, 0], noise)
    return float(weights.norm())


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 50, 1000])
def test_sampling_starts_from_pure_noise_whatever_the_number_of_steps(steps):
    bars = alpha_bars(steps)
    assert bars[0] == 1
    assert bars[-1] <= 0.01
    assert (bars[1:] < bars[:-1]).all()


# ---------------------------------------------------------------------------- the spread of few steps


@pytest.mark.parametrize(
    ("fields", "std", "sampled"),
    [
        ({"denoising_steps": 5, "variance": "posterior"}, 0.35, 0.179),
        ({"denoising_steps": 10, "variance": "posterior"}, 0.35, 0.237),
        ({"denoising_steps": 5, "variance": "beta"}, 0.35, 0.279),
        ({"denoising_steps": 10, "variance": "beta"}, 0.35, 0.356),
        ({"denoising_steps": 10, "variance": "beta"}, 0.1, 0.061),
        ({"denoising_steps": 5, "sampler": "ddim"}, 0.35, 0.190),
    ],
)
def test_few_steps_with_a_fixed_variance_change_the_spread_of_gaussian_data(fields, std, sampled):
    """The figures of docs/algorithm.md, with the exact network."""
    part = with_exact_noise_prediction(model(predict="state", **fields), std)
    assert sampled_std(part) == pytest.approx(sampled, abs=5e-4)


@pytest.mark.parametrize("std", [0.05, 0.35, 1.0, 1.7])
@pytest.mark.parametrize("steps", [{}, {"denoising_steps": 1}, {"denoising_steps": 20}, {"training_steps": 100}])
def test_with_the_learnt_variance_the_samples_spread_as_gaussian_data_whatever_the_number_of_steps(steps, std):
    part = with_exact_noise_prediction(model(predict="state", **steps), std)
    a = part.alpha_bar[1:].unsqueeze(-1)
    part.misfit.copy_(a * std**2 / (a * std**2 + 1 - a))  # of the exact prediction
    start = part.schedule[-1]  # the first noise has a variance of 1, and not that of u_K
    spread = start * std**2 + 1 - start
    known = math.sqrt(start) * std**2 / spread  # slope of E[x | u_K]
    assert sampled_std(part) == pytest.approx(math.sqrt(std**2 + known**2 * (1 - spread)), rel=1e-9)
    assert sampled_std(part) == pytest.approx(std, rel=0.02)


def test_training_measures_what_the_network_does_not_know_of_the_noise():
    part = with_exact_noise_prediction(model(predict="state"), 0.35)
    g, rows = generator(0, "test/misfit"), 512
    flat, obs = torch.zeros(1, rows, dtype=DOUBLE), torch.zeros(1, rows, 2, dtype=DOUBLE)
    for _ in range(200):
        after = MEAN + 0.35 * torch.randn(1, rows, 2, generator=g, dtype=DOUBLE)
        drawn = {name: recipe.sample(1, g, DOUBLE) for name, recipe in part.noise(rows).items()}
        part.loss(Batch(obs, flat.unsqueeze(-1), flat, after, flat.unsqueeze(-1), flat), drawn)
    a = part.alpha_bar[1:].unsqueeze(-1)
    assert torch.allclose(part.misfit[0], a * 0.35**2 / (a * 0.35**2 + 1 - a), rtol=0.15)
    assert sampled_std(part) == pytest.approx(0.35, rel=0.04)


def test_a_steps_misfit_moves_by_the_number_of_its_rows():
    part, rows = model(denoising_steps=3), 40
    g = generator(0, "test/remember")
    k, error = torch.randint(0, 2, (1, rows), generator=g), torch.rand(1, rows, 2, generator=g, dtype=DOUBLE)
    part._remember(k, error)
    for step in range(3):
        own = [error[0, row] for row in range(rows) if int(k[0, row]) == step]
        kept = (1 - 1 / REMEMBERED_ROWS) ** len(own)
        expected = kept + (1 - kept) * sum(own) / len(own) if own else torch.ones(2, dtype=DOUBLE)
        assert torch.allclose(part.misfit[0, step], expected, rtol=1e-12)
    assert (part.misfit[0, 2] == 1).all()  # no row was of the third


# --------------------------------------------------------------------------------- the other samplers


@pytest.mark.parametrize("fields", [{"sampler": "ddim"}, {"variance": "posterior"}, {"variance": "beta"}])
def test_samples_of_an_exact_model_have_the_datas_moments(fields):
    steps, n = 300, 20_000
    part = with_exact_noise_prediction(model(denoising_steps=steps, predict="state", **fields))
    noise = torch.randn(1, n, steps, 2, generator=generator(0, "test"), dtype=DOUBLE)
    last = part.schedule[-1]  # start from the exact q(u_K), so that only the sampler is judged
    noise[..., 0, :] = math.sqrt(last) * MEAN + math.sqrt(last * STD**2 + 1 - last) * noise[..., 0, :]
    sample = part.sample(torch.zeros(1, n, 2, dtype=DOUBLE), torch.zeros(1, n, 1, dtype=DOUBLE), noise)
    assert abs(float(sample.mean()) - MEAN) < 0.01
    assert abs(float(sample.std()) - STD) < 0.01


def test_ddim_converges_to_the_analytic_map_with_first_order():
    """With the exact ε the limit of DDIM maps the noise z to MEAN + STD·z (from ᾱ_K ≈ 0)."""

    def error(steps: int) -> float:
        part = with_exact_noise_prediction(model(denoising_steps=steps, sampler="ddim", predict="state"))
        z = torch.linspace(-2, 2, 41, dtype=DOUBLE).view(1, -1, 1, 1).expand(1, 41, steps, 2)
        sample = part.sample(torch.zeros(1, 41, 2, dtype=DOUBLE), torch.zeros(1, 41, 1, dtype=DOUBLE), z)[0, :, 0]
        start = math.sqrt(part.schedule[-1])  # the prior is not exactly N(0, 1) at ᾱ_K = 0.0064
        spread = math.sqrt(start**2 * STD**2 + 1 - start**2)
        return float((sample - (MEAN + STD * (z[0, :, 0, 0] - start * MEAN) / spread)).abs().max())

    coarse, fine = error(40), error(80)
    assert 1.7 < coarse / fine < 2.3


@pytest.mark.parametrize(("sampler", "variance"), [("ddpm", "learnt"), ("ddpm", "posterior"), ("ddim", "posterior")])
@pytest.mark.parametrize("predict", ["delta", "state"])
def test_the_jacobians_equal_the_papers_recursions(sampler, variance, predict):
    """A_K = B_K = 0; A_{k−1} = (∂h/∂u) A_k + ∂h/∂a; B_{k−1} = (∂h/∂u) B_k + ∂h/∂s (method: sampler Jacobians)."""
    steps = 4
    part = model(denoising_steps=steps, sampler=sampler, variance=variance, predict=predict)
    g = generator(0, "test")
    for p in part.parameters():
        p.copy_(torch.randn(p.shape, generator=g, dtype=DOUBLE) * 0.5)
    part.normalizer.std.fill_(1.7)
    part.target_normalizer.std.fill_(0.6)
    s, a = torch.randn(2, generator=g, dtype=DOUBLE), torch.randn(1, generator=g, dtype=DOUBLE)
    noise = torch.randn(1, 1, *part.noise_shape, generator=g, dtype=DOUBLE)

    def h(u, s_, a_, k):
        condition = part.condition(s_.view(1, 1, -1), a_.view(1, 1, -1))
        epsilon = part.predict_noise(u.view(1, 1, -1), k, condition)
        if sampler == "ddim":
            return part.ddim_step(u.view(1, 1, -1), epsilon, k).flatten()
        z = noise[:, :, steps - k + 1] if k > 1 or variance == "learnt" else None
        return part.ddpm_step(u.view(1, 1, -1), epsilon, k, z).flatten()

    u = noise[0, 0, 0]
    over_a, over_s = torch.zeros(2, 1, dtype=DOUBLE), torch.zeros(2, 2, dtype=DOUBLE)
    for k in range(steps, 0, -1):
        h_u, h_s, h_a = torch.autograd.functional.jacobian(lambda *x, k=k: h(*x, k), (u, s, a))
        over_a, over_s = h_u @ over_a + h_a, h_u @ over_s + h_s
        u = h(u, s, a, k)
    over_a, over_s = 0.6 * over_a, 0.6 * over_s + (torch.eye(2, dtype=DOUBLE) if predict == "delta" else 0)

    def f(s_, a_):
        return part.sample(s_.view(1, 1, -1), a_.view(1, 1, -1), noise).flatten()

    f_s, f_a = torch.autograd.functional.jacobian(f, (s, a))
    assert torch.allclose(f_a, over_a, rtol=1e-10)
    assert torch.allclose(f_s, over_s, rtol=1e-10)
    assert over_a.abs().min() > 1e-4


def test_sampling_is_a_function_of_its_noise():
    part = model(denoising_steps=3)
    s, a = torch.zeros(1, 5, 2, dtype=DOUBLE), torch.zeros(1, 5, 1, dtype=DOUBLE)
    noise = torch.randn(1, 5, *part.noise_shape, generator=generator(0, "test"), dtype=DOUBLE)
    assert torch.equal(part.sample(s, a, noise), part.sample(s, a, noise))
    assert not torch.equal(part.sample(s, a, noise), part.sample(s, a, noise + 1))


def test_training_learns_the_robots_dynamics(dataset):
    """A few hundred updates predict a held-out step far better than "the state does not change"."""
    from mpcwdwm.training.evaluators import heldout_evaluator

    config = component_config("world_model", {}, {"steps": 400, "hidden_dim": 64, "batch_size": 256, "lr": 1e-3})
    training = Training("world_model", config, part_of(dataset, 0, 20_000), [0])
    training.run()
    (metrics,) = heldout_evaluator(training.part, training.datasets)(training.part)
    assert metrics["heldout/rmse"] < 0.75 * metrics["heldout/rmse_no_change"]


def test_a_respaced_sample_takes_the_named_number_of_steps_of_the_longer_schedule():
    part, whole = model(denoising_steps=4, training_steps=100), model(denoising_steps=100)
    assert part.visited == (0, 25, 50, 75, 100)
    assert part.schedule == tuple(whole.schedule[k] for k in part.visited)
    assert part.noise(8)["k"].high == 100
    assert part.noise_shape == (5, 2)
    assert model(denoising_steps=4, variance="beta").noise_shape == (4, 2)
    asked = []
    part.predict_noise = lambda u, k, condition: (asked.append(k), torch.zeros_like(u))[1]
    part.sample(
        torch.zeros(1, 1, 2, dtype=DOUBLE), torch.zeros(1, 1, 1, dtype=DOUBLE), torch.randn(1, 1, 5, 2, dtype=DOUBLE)
    )
    assert asked == [100, 75, 50, 25]
