"""The tilt of a mean flow towards the policy: its weights, and the base it needs."""

import pytest
import torch

from mpcwdwm.components import component_config
from mpcwdwm.components.loading import stacked
from mpcwdwm.components.world_models.meanflow import effective_share, tilt_weights
from mpcwdwm.errors import UserError
from mpcwdwm.training.loop import Training, train
from tests.support.parts import part_of
from tests.support.world_models import normal

DOUBLE = torch.float64


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
def policy(dataset):
    """A policy of two seeds, as `train` returns it."""
    config = component_config("rebrac", {}, {"hidden_dim": 8, "batch_size": 16, "steps": 2})
    return train("rebrac", config, part_of(dataset, 0, 2000), [5, 6])


TILTED = {"kind": "meanflow", "tilt": 0.1, "hidden_dim": 8, "batch_size": 64, "steps": 30, "evaluations": 1}


def test_a_tilted_model_learns_with_its_base_and_does_not_keep_it(dataset, policy):
    data = part_of(dataset, 0, 2000)
    tilted, plain = (
        Training(
            "world_model",
            component_config("world_model", {}, {**TILTED, **fields}),
            data,
            [5, 6],
            bases={"rebrac": stacked(policy)},
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
    alone = Training("world_model", tilted.config, data, [6], bases={"rebrac": stacked(policy[1:])}, dtype=DOUBLE)
    alone.run()
    assert torch.allclose(alone.part.net.head.weight[0], tilted.part.net.head.weight[1], atol=1e-9)


def test_a_checkpoint_made_with_another_base_is_not_continued(dataset, policy, tmp_path):
    config, data = component_config("world_model", {}, TILTED), part_of(dataset, 0, 2000)
    first, again = (Training("world_model", config, data, [5, 6], bases={"rebrac": stacked(policy)}) for _ in "12")
    first.run(until=5)
    first.save(tmp_path / "checkpoint")
    assert again.load(tmp_path / "checkpoint")
    changed = stacked(policy)
    changed.actor.net.head.bias += 1
    other = Training("world_model", config, data, [5, 6], bases={"rebrac": changed})
    assert not other.load(tmp_path / "checkpoint")


def test_a_tilt_needs_its_base_with_the_same_seeds(dataset, policy):
    config, data = component_config("world_model", {}, TILTED), part_of(dataset, 0, 2000)
    with pytest.raises(UserError, match="builds on a trained rebrac"):
        Training("world_model", config, data, [5, 6])
    with pytest.raises(UserError, match=r"seeds \[5, 6\], the training \[5\]"):
        Training("world_model", config, data, [5], bases={"rebrac": stacked(policy)})
