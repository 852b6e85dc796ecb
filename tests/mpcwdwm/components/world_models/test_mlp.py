"""The MLP ensemble: its members, its Gaussian, and their loss."""

import math

import numpy as np
import pytest
import torch

from mpcwdwm.components.component import Batch
from mpcwdwm.components.world_models.mlp import LOG_VARIANCE_BOUNDS
from mpcwdwm.errors import UserError
from tests.support.world_models import model, normal, randomised

DOUBLE = torch.float64


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


def test_the_networks_disagree_by_the_spread_of_their_standardised_states():
    part = randomised(model("mlp", ensemble=3))
    s, a = normal(1, 6, 2, name="s"), normal(1, 6, 1, name="a")
    states = (part.predict_members(s, a) / part.normalizer.std.unsqueeze(1)).detach().numpy()
    wanted = np.sqrt(states.var(axis=1).mean(axis=-1))
    assert np.allclose(part.disagreement(s, a).detach().numpy(), wanted, rtol=1e-9)
    with pytest.raises(UserError, match=r"needs several networks: .*ensemble: 5"):
        randomised(model("mlp", ensemble=1)).disagreement(s, a)


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
