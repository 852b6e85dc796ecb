"""Diffuser's trained part: layers against torch's own, windows and returns against loops, an update by hand."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from mpcwdwm.components import component_config
from mpcwdwm.components.component import Batch
from mpcwdwm.components.diffuser import Diffuser, DiffuserConfig
from mpcwdwm.components.windows import Windows, returns_that_follow
from mpcwdwm.nn.temporal import GroupNorm, TemporalConv, TemporalDoubling, TemporalUnet, TemporalValue
from mpcwdwm.random import generator
from mpcwdwm.training.loop import Training, train
from tests.support.parts import PARTS, part_of
from tests.support.random_parts import DOUBLE, random, roughen

SMALL = {"hidden_dim": 16, "batch_size": 32, "steps": 400, "evaluations": 1, **PARTS["diffuser"][1]}


@pytest.fixture(scope="module")
def small(dataset):
    return part_of(dataset, 0, 3000)


def made(small, **fields):
    config = DiffuserConfig(**{**SMALL, **fields})
    training = Training("diffuser", config, small, [0, 1], dtype=torch.float64)
    return training.part, training


# ------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (5, 1), (3, 2)])
def test_a_convolution_along_time_is_torchs(kernel, stride):
    layer, x = TemporalConv((2,), 4, 6, kernel, DOUBLE, stride=stride), random(2, 3, 8, 4)
    roughen(layer, 0)
    for member, found in enumerate(layer(x)):
        weight = layer.linear.weight[member].T.unflatten(-1, (4, kernel))
        bias = layer.linear.bias[member, 0]
        theirs = functional.conv1d(x[member].mT, weight, bias, stride=stride, padding=kernel // 2)
        assert torch.allclose(found, theirs.mT, rtol=0, atol=1e-12)


def test_doubling_is_torchs_transposed_convolution():
    layer, x = TemporalDoubling((2,), 4, DOUBLE), random(2, 3, 5, 4)
    roughen(layer, 0)
    layer.odd.bias.data.copy_(layer.even.bias.data)
    for member, found in enumerate(layer(x)):
        even, odd = (w.weight[member].unflatten(0, (4, 2)) for w in (layer.even, layer.odd))  # (in, row, out)
        weight = torch.stack([odd[:, 1], even[:, 1], odd[:, 0], even[:, 0]], -1)  # (in, out, kernel)
        theirs = functional.conv_transpose1d(x[member].mT, weight, layer.even.bias[member, 0], stride=2, padding=1)
        assert torch.allclose(found, theirs.mT, rtol=0, atol=1e-12)


def test_group_normalisation_is_torchs():
    layer, x = GroupNorm((2,), 16, DOUBLE), random(2, 3, 5, 16)
    roughen(layer, 0)
    for member, found in enumerate(layer(x)):
        scale, shift = layer.weight[member].flatten(), layer.bias[member].flatten()
        theirs = functional.group_norm(x[member].mT, 8, scale, shift)
        assert torch.allclose(found, theirs.mT, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("horizon", "levels"), [(4, (1, 4, 8)), (8, (1, 2, 4, 8)), (6, (2, 1))])
def test_networks_keep_the_windows_shape_and_give_one_value_each(horizon, levels):
    x, features = random(2, 3, horizon, 5), random(2, 1, 8)
    unet = TemporalUnet((2,), 5, 8, levels, DOUBLE)
    value = TemporalValue((2,), 5, horizon, 8, levels, DOUBLE)
    for net in (unet, value):
        net.initialize(0, generator(0, "test"))
        net.initialize(1, generator(1, "test"))
    assert unet(x, features).shape == x.shape
    assert value(x, features).shape == (2, 3)
    for net in (unet, value):  # every row, and the diffusion step, count
        assert not torch.allclose(net(x, features), net(x, features + 1))
        for row in range(horizon):
            other = x.index_fill(2, torch.tensor([row]), 0.3)
            assert not torch.allclose(net(other, features), net(x, features))


# ------------------------------------------------------------------------------------------ windows


def test_windows_and_returns_equal_those_of_a_loop(small):
    horizon, discount, penalty = 12, 0.9, 50.0
    starts = torch.arange(0, 3000, 7)
    windows = Windows([small, small], [starts, starts[:5]], horizon, discount, penalty, DOUBLE)
    assert len(windows.rows) == 3000  # equal datasets are held once
    found, returns = windows(torch.stack([torch.arange(len(starts)), torch.arange(len(starts))]))
    ended, beyond = 0, 0
    for i, start in enumerate(starts.tolist()):
        wanted, value, step, inside = np.zeros((horizon, 14)), 0.0, start, True
        while inside:
            if step - start < horizon:
                wanted[step - start] = np.concatenate([small.action[step], small.obs[step]])
            value += discount ** (step - start) * (float(small.reward[step]) - penalty * small.terminal[step])
            ended += small.terminal[step]
            step += 1
            inside = step < 3000 and small.episode[step] == small.episode[start]
        beyond += step - start < horizon
        assert np.allclose(found[0, i].numpy(), wanted)
        assert float(returns[0, i]) == pytest.approx(value, rel=1e-9)
        assert torch.equal(found[1, i], found[0, i % 5])
    assert ended
    assert beyond


def test_the_penalty_falls_on_terminals_alone(small):
    endless = dataclasses.replace(small, terminal=np.zeros_like(small.terminal))
    assert torch.equal(returns_that_follow(endless, 0.9, 100.0), returns_that_follow(endless, 0.9, 0.0))
    least = (returns_that_follow(small, 0.9, 0.0) - returns_that_follow(small, 0.9, 100.0))[small.terminal]
    assert torch.allclose(least, torch.full_like(least, 100.0))


# ----------------------------------------------------------------------------------------- training


def test_an_update_descends_the_loss_written_by_hand(small):
    part, training = made(small)
    drawn = {name: values[:, 0] for name, values in training.draws.block(0).items()}
    windows, returns = part.windows(drawn["window"])
    x = (windows - part.normalizer.mean.unsqueeze(1)) / part.normalizer.std.unsqueeze(1)
    step, epsilon = drawn["step"], drawn["epsilon"]
    loss, value_loss = torch.zeros(2, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE)
    for m in range(2):
        for b in range(32):
            kept = part.alpha_bar[step[m, b]]
            noisy = kept.sqrt() * x[m, b] + (1 - kept).sqrt() * epsilon[m, b]
            noisy[0, 3:] = x[m, b, 0, 3:]
            both = noisy.expand(2, 1, -1, -1)
            features = part.features[step[m, b]].expand(2, 1, -1)
            error = (part.net(both, features)[m, 0] - x[m, b]).square().detach()
            error[0, 3:] = 0
            error[0, :3] *= 10
            loss[m] += error.mean() / 32
            value_loss[m] += (part.value_net(both, features)[m, 0] - returns[m, b]).square().detach() / 32
    before = {name: p.clone() for name, p in part.value_net.named_parameters()}
    metrics = part.advance(Batch(*[torch.empty(0)] * 6), drawn, 0)
    assert torch.allclose(metrics["diffuser/loss"], loss, rtol=1e-10)
    assert torch.allclose(metrics["diffuser/value_loss"], value_loss, rtol=1e-10)
    assert any(not torch.equal(p, before[name]) for name, p in part.value_net.named_parameters())
    before = {name: p.clone() for name, p in part.value_net.named_parameters()}
    assert "diffuser/value_loss" not in part.advance(Batch(*[torch.empty(0)] * 6), drawn, 1)
    assert all(torch.equal(p, before[name]) for name, p in part.value_net.named_parameters())


def test_the_average_follows_every_tenth_update_and_begins_late(small):
    part, training = made(small, ema_start=20, ema=0.9)
    training.run(until=20)
    first = part.net.head.linear.weight.detach().clone()
    assert torch.equal(part.averaged.head.linear.weight, first)
    training.run(until=29)
    assert torch.equal(part.averaged.head.linear.weight, first)
    training.run(until=30)
    latest = part.net.head.linear.weight.detach()
    assert torch.allclose(part.averaged.head.linear.weight, 0.9 * first + 0.1 * latest, rtol=0, atol=1e-14)


def test_it_learns_to_denoise_and_to_tell_good_windows(small):
    fields = {"train_on": "train", "lr": 2e-3, "normalize_return": True, "ema": 0.9, "value_every": 1}
    config = component_config("diffuser", {}, {**SMALL, **fields, "evaluations": 2})
    (member,) = train("diffuser", config, small, [0])
    assert member.curve[-1]["diffuser/loss"] < 0.8 * member.curve[0]["diffuser/loss"]
    assert member.curve[-1]["heldout/rmse"] < 0.7
    assert member.curve[-1]["heldout/value_r2"] > 0.3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"horizon": 6}, "horizon 6 is not a multiple of 8, for 4 levels"),
        ({"multipliers": "1;2"}, "whole numbers from 1 in one text"),
        ({"hidden_dim": 9}, "hidden_dim 9 is odd"),
        ({"hidden_dim": 2, "multipliers": "1"}, "needs 4 channels or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        DiffuserConfig(**fields)


def test_the_authors_sizes_are_the_defaults():
    config = DiffuserConfig()
    part = Diffuser(config.model_copy(update={"hidden_dim": 32}), 11, 3, [0])
    assert (config.horizon, config.levels, config.denoising_steps, part.period) == (32, (1, 2, 4, 8), 20, 10)
    assert sum(p.numel() for p in part.net.parameters()) > 3_500_000
