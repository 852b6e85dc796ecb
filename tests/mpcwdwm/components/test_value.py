"""The value of a policy in imagination: what is learnt, against a linear system and updates written out by hand.

With a linear policy and model and a quadratic reward the value is known: a constant less sᵀPs.
"""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import silu

from mpcwdwm.components import component_config
from mpcwdwm.errors import UserError
from mpcwdwm.training.evaluators import heldout_evaluator
from mpcwdwm.training.loop import Training
from tests.support.imagined_episodes import SMALL, episodes_of, grown, rows, training_of
from tests.support.linear_quadratic import DISCOUNT, DOUBLE, Q, R, quadratic, tensor
from tests.support.parts import PARTS, bases_of, part_of
from tests.support.updates import draws_at, update

# --------------------------------------------------------------------------------- what is learnt

A, B = np.array([[0.99, 0.12], [-0.12, 0.98]]), np.array([[0.1, 0.0], [0.05, 0.1]])  # slow: a plan sees little
K = np.array([[0.05, 0.1], [-0.1, 0.1]])  # the policy is −K s
EXPLORATION, SPREAD, ALIVE = 0.1, 0.02, 1.0  # of the actions, of the model; a reward for every step


def linear(obs, matrix):
    return obs @ tensor(matrix).T


LINEAR = {
    "actor": lambda obs: -linear(obs, K),
    "sample": lambda obs, action, noise: linear(obs, A) + linear(action, B) + SPREAD * noise,
    "reward": lambda obs, action: ALIVE - quadratic(obs, Q) - quadratic(action, R),
}


def value_of_steps(count):
    """P and c of the mean return of so many steps, c − sᵀPs: one step of the Bellman equation after the other."""
    closed, own, p, c = A - B @ K, Q + K.T @ R @ K, np.zeros((2, 2)), 0.0
    for _ in range(count):
        shaken = EXPLORATION**2 * np.trace(B.T @ p @ B) + SPREAD**2 * np.trace(p)
        c = ALIVE - EXPLORATION**2 * np.trace(R) + DISCOUNT * (c - shaken)
        p = own + DISCOUNT * closed.T @ p @ closed
    return p, c


def judged_by(predicted, obs, steps):
    """Return the share of the variance of the true value explained, of every member."""
    p, c = value_of_steps(steps)
    true = c - quadratic(obs, p)
    return 1 - (predicted - true).square().mean(1) / true.var(1, correction=0)


def test_the_learnt_value_is_the_exact_one_also_behind_the_last_imagined_step():
    """Episodes of 20 steps see two thirds of the discounted future; the rest is the value's own."""
    training = training_of(
        LINEAR,
        exploration=EXPLORATION,
        episodes=400,
        length=20,
        steps=1000,
        hidden_dim=32,
        batch_size=256,
        lr=5e-3,
        ema=0.98,
    )
    training.run(evaluate=heldout_evaluator(training.part, training.datasets))
    obs = (2 * torch.rand(2, 1000, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)) - 1).requires_grad_()
    learnt = training.part(obs).mean(1)
    (slope,) = torch.autograd.grad(learnt.sum(), obs)
    p, _ = value_of_steps(2000)
    assert (judged_by(learnt.detach(), obs.detach(), 2000) > 0.99).all()
    truncated, cut = value_of_steps(20)
    assert (judged_by(cut - quadratic(obs.detach(), truncated), obs.detach(), 2000) < 0).all()  # without what is behind
    exact, far = -2 * obs.detach() @ tensor(p), obs.detach().norm(dim=-1) > 0.3
    cosine = torch.nn.functional.cosine_similarity(slope, exact, dim=-1)[far]
    assert cosine.min() > 0.98
    assert (slope[far].norm(dim=-1) / exact[far].norm(dim=-1) - 1).abs().mean() < 0.1
    for point in (curve[-1] for curve in training.curves):
        assert point["heldout/r2"] > 0.95
        assert (point["value/ended"], point["value/imagined_length"]) == (0.0, 20.0)


def test_with_a_constant_negative_reward_the_learnt_value_does_not_rise_towards_the_edge_of_the_data():
    """States grow until they leave the data; every state is worth −1 / (1 − γ), also where there is nothing behind."""
    data = rows()
    data = dataclasses.replace(data, reward=np.full_like(data.reward, -1))
    growing = {
        **LINEAR,
        "sample": lambda obs, action, noise: 1.2 * obs,
        "reward": lambda obs, action: -1 + 0 * obs[..., 0],
    }
    fields = {"episodes": 200, "length": 20, "halt": 3.0, "steps": 400, "batch_size": 256, "lr": 5e-3, "ema": 0.95}
    training = training_of(growing, data=data, **fields)
    training.run(evaluate=heldout_evaluator(training.part, training.datasets))
    assert all(point["value/ended"] > 0.5 for (point,) in training.curves)
    spread = float(training.part.extent.std.mean())
    radius = torch.linspace(0, 4 * spread, 50, dtype=DOUBLE)
    directions = tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    obs = (radius.view(-1, 1, 1) * directions).view(1, -1, 2).expand(2, -1, -1)
    learnt, forever = training.part(obs).mean(1), -1 / (1 - DISCOUNT)
    assert ((learnt / forever - 1).abs() < 0.02).all()


def on_paper(part, net, obs):
    """The networks written out: (S, E, B) from (S, B, obs_dim)."""
    scale = part.normalizer.state_dict(), part.return_normalizer.state_dict()
    x = ((obs - scale[0]["mean"]) / scale[0]["std"]).unsqueeze(1)
    for layer in net.hidden:
        x = silu(x @ layer.weight + layer.bias)
    return (x @ net.head.weight + net.head.bias).squeeze(-1) * scale[1]["std"] + scale[1]["mean"]


def test_an_update_descends_each_networks_own_error_on_its_own_share_of_the_episodes():
    fields = {"ensemble": 3, "share": 0.5, "episodes": 20, "ema": 0.9}
    training, changed = grown(**fields), grown(**fields)
    for each in (training, changed):
        each.run(until=2)  # until the averaged networks are others
    draws, before = draws_at(training.draws, 2), copy.deepcopy(training.part)
    table, learns = before._table, before._learns
    assert 0.3 < float(learns.mean()) < 0.7

    # by hand: for every network the mean squared error over the rows of its own episodes
    total = torch.zeros((), dtype=DOUBLE)
    values, last = on_paper(before, before.net, table.obs), on_paper(before, before.averaged, table.last).detach()
    drawn = [(draws["state"][m] % table.counts[m]).tolist() for m in range(2)]
    for m in range(2):
        for e in range(3):
            own = [row for row in drawn[m] if learns[m, e, table.episode[m, row]]]
            errors = [
                values[m, e, row] - table.returns[m, row] - table.left[m, row] * last[m, e, table.episode[m, row]]
                for row in own
            ]
            total = total + (torch.stack(errors) / before.return_normalizer.std[m, 0, 0]).square().mean()
    gradients = torch.autograd.grad(total, list(before.net.parameters()))
    assert {bool(table.left[m, row]) for m in range(2) for row in drawn[m]} == {True, False}

    # the returns of an episode that is some network's and not another's
    episodes = {int(table.episode[1, row]) for row in drawn[1]}
    (one_of, *_) = [k for k in episodes if set(learns[1, :, k].tolist()) == {0.0, 1.0}]
    changed.part._table.returns[1][table.episode[1] == one_of] += 100.0
    for each in (training, changed):
        update(each.part, each.buffer.gather(draws["rows"]), {"state": draws["state"]}, 2)
    for parameter, gradient in zip(training.part.net.parameters(), gradients, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(training.part.net.parameters(), changed.part.net.parameters(), strict=True):
        unmoved = [torch.equal(ours.grad[1, e], theirs.grad[1, e]) for e in range(3)]
        assert unmoved == (learns[1, :, one_of] == 0).tolist()
        assert torch.equal(ours.grad[0], theirs.grad[0])
    nets = (before.averaged, training.part.net, training.part.averaged)
    for old, new, mean in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.allclose(mean, 0.9 * old + 0.1 * new, rtol=1e-12)


def test_step_sizes_fall_to_nothing_along_half_a_cosine():
    part = grown(lr=0.2, steps=100).part
    rates = [part.learning_rates(step)["net"] for step in (0, 25, 50, 75, 100)]
    assert rates == pytest.approx([0.2, 0.2 * (1 + 0.5**0.5) / 2, 0.1, 0.2 * (1 - 0.5**0.5) / 2, 0.0])


@pytest.mark.parametrize("most", [4096, 7])
def test_what_is_judged_is_not_learnt_and_what_is_learnt_is_not_judged(most, monkeypatch):
    monkeypatch.setattr("mpcwdwm.components.value.HELDOUT_STATES", most)
    runs = {name: grown() for name in ("plain", "judged", "learnt")}
    runs["judged"].part._judged.returns.add_(5.0)
    judged = runs["plain"].part._judged
    found = {name: {} for name in runs}
    for name, training in runs.items():
        training.run(until=30)
        if name == "learnt":
            training.part._table.returns.zero_()
        found[name] = training.part.heldout(None, {})
    weights = [list(runs[name].part.state_dict().values()) for name in ("plain", "judged")]
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
    assert (found["plain"]["heldout/rmse"] - found["judged"]["heldout/rmse"]).abs().min() > 0.1
    assert torch.equal(found["plain"]["heldout/r2"], found["learnt"]["heldout/r2"])

    part = runs["plain"].part
    values = on_paper(part, part.averaged, judged.obs).detach().mean(1)
    behind = on_paper(part, part.averaged, judged.last).detach().mean(1)
    for m in range(2):
        picked = [i * int(judged.counts[m]) // most for i in range(most)]  # each member's own, evenly spread
        target = (judged.returns[m] + judged.left[m] * behind[m][judged.episode[m]])[picked]
        error = (values[m][picked] - target).square().mean()
        variance = (target - target.mean()).square().mean()
        assert found["plain"]["heldout/rmse"][m] == pytest.approx(float(error.sqrt()), rel=1e-9)
        assert found["plain"]["heldout/r2"][m] == pytest.approx(float(1 - error / variance), rel=1e-9)


def test_the_curve_says_how_long_episodes_were_and_how_many_ended():
    part = grown().part
    found = part.heldout(None, {})
    for m in range(2):
        whole = [*episodes_of(part._table, m), *episodes_of(part._judged, m)]
        assert float(found["value/imagined_length"][m]) == pytest.approx(np.mean([len(obs) for obs, _, _ in whole]))
        assert float(found["value/ended"][m]) == pytest.approx(np.mean([not left.any() for _, _, left in whole]))


# ------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("missing", ["iql", "world_model", "reward"])
def test_a_missing_base_or_one_of_other_seeds_is_named_in_one_line(missing, dataset):
    data, config = part_of(dataset, 0, 2000), component_config("value", {}, {**SMALL, "of": "iql"})
    assert config.builds_on == ("iql", "world_model", "reward")
    bases, others = (bases_of(config, data, seeds) for seeds in ([0, 1], [0, 2]))
    for given, message in (
        ({name: base for name, base in bases.items() if name != missing}, f"builds on a trained {missing}"),
        ({**bases, missing: others[missing]}, rf"the {missing} has seeds \[0, 2\], the training \[0, 1\]"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            Training("value", config, data, [0, 1], bases=given)
        assert "\n" not in str(caught.value)


def test_a_checkpoint_made_with_other_bases_is_not_continued(dataset, tmp_path):
    data, config = part_of(dataset, 0, 2000), component_config("value", {}, {**SMALL, **PARTS["value"][1]})
    first = Training("value", config, data, [0], bases=bases_of(config, data, [0]))
    first.run(until=5)
    first.save(tmp_path / "checkpoint")
    for changed in (None, "rebrac", "world_model", "reward"):
        bases = bases_of(config, data, [0])
        if changed:
            next(bases[changed].parameters()).data += 0.1
        again = Training("value", config, data, [0], bases=bases)
        assert again.load(tmp_path / "checkpoint") == (changed is None)


def test_what_is_timed_has_updates_of_the_same_size_and_little_to_imagine():
    config = component_config("value", {}, {"episodes": 500, "length": 300, "hidden_dim": 32})
    brief = config.brief()
    same = {**config.to_dict(), "episodes": brief.episodes, "length": brief.length}
    assert brief.to_dict() == same
    assert brief.episodes * brief.length <= 1000
