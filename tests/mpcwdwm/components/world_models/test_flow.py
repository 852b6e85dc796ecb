"""Flow and mean flow: samplers against the analytic flow of Gaussian data, derivatives against finite differences."""

import pytest
import torch
from torch.func import jvp

from mpcwdwm.components.world_models.flow import time_feature_rates, time_features
from mpcwdwm.components.world_models.meanflow import average_velocity_target
from mpcwdwm.nn.networks import Mlp, uniform_init
from mpcwdwm.random import generator
from tests.support.world_models import model, normal, randomised

DOUBLE = torch.float64
MEAN, STD = 0.7, 0.3  # of the data in the analytic cases

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


def test_a_derivative_needs_the_activation_it_is_written_for():
    net = Mlp((1,), 2, [4], 1, activation=torch.relu)
    net.initialize(0, generator(0, "test"), uniform_init(), uniform_init())
    with pytest.raises(AssertionError):
        net.with_derivative(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2))
