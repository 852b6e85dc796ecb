"""Training in imagination: branches written out by hand, and a system of which the best action is known."""

import pytest
import torch

from mpcwdwm.components import component_class, component_config
from mpcwdwm.components.mopo import first_rows
from mpcwdwm.errors import UserError
from mpcwdwm.training.buffer import usable_rows
from mpcwdwm.training.loop import Training
from tests.support.imagined_episodes import Given, rows
from tests.support.linear_quadratic import DOUBLE
from tests.support.parts import bases_of, part_of
from tests.support.updates import draws_at

SEEDS = (0, 1)
SMALL = {"hidden_dim": 16, "batch_size": 32, "steps": 40, "evaluations": 1, "rollout_length": 4, "real_share": 0.25}
TARGET = 0.4  # the best action, in every entry


class Spread(Given):
    """A model with an opinion on how far it can be trusted."""

    def disagreement(self, obs, action):
        return (1 + obs[..., 0].square()) * action[..., 0].abs()

    def parameters(self, recurse=True):
        return iter([torch.zeros(1, dtype=DOUBLE)])


FUNCTIONS = {
    "sample": lambda obs, action, noise: 0.8 * obs + 0.3 * action + 0.05 * noise,
    "reward": lambda obs, action: 1 - (action - TARGET).square().sum(-1),
}


def training_of(termination=None, model=Spread, **fields):
    config = component_config("mopo", {}, {**SMALL, **fields})
    bases = {
        "world_model": model(SEEDS, sample=FUNCTIONS["sample"]),
        "reward": Given(SEEDS, reward=FUNCTIONS["reward"]),
    }
    return Training("mopo", config, rows(), SEEDS, bases=bases, termination=termination, dtype=DOUBLE)


def ended(obs):
    return obs[..., 0].abs() < 0.25  # states shrink, so that branches end at their first step and later


@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_branches_are_those_written_out_by_hand(penalty):
    training = training_of(ended, penalty=penalty, exploration=0.3)
    part = training.part
    noise = draws_at(training.draws, 0)
    start = training.buffer.gather(noise["rows"]).obs[:, -6:]
    batch, spread = part.imagined(start, noise)
    n, c, found, late, spreads = start.shape[1], part.config, 0, 0, []
    for row in range(n):
        state = start[:, row]
        for j in range(4):
            place = j * n + row
            action = (part.actor(state.unsqueeze(1))[:, 0] + 0.3 * noise["exploration"][:, j, row]).clamp(-1, 1)
            following = FUNCTIONS["sample"](state, action, noise["model"][:, j, row])
            own = (1 + state[:, 0] ** 2) * action[:, 0].abs() if penalty else torch.zeros(2, dtype=DOUBLE)
            over = ended(following)
            assert torch.allclose(batch.obs[:, place], state)
            assert torch.allclose(batch.action[:, place], action)
            kept = torch.where(over.unsqueeze(-1), state, following)  # nothing behind an end is looked at
            assert torch.allclose(batch.next_obs[:, place], kept)
            assert torch.allclose(batch.reward[:, place], FUNCTIONS["reward"](state, action) - penalty * own)
            assert torch.equal(batch.mask[:, place], (~over).double())
            state = torch.where(over.unsqueeze(-1), start[:, row], following)  # it begins again where it began
            found, late = found + int(over.sum()), late + int(over.sum()) * (0 < j < 3)
            spreads.append(own)
    assert 0 < late < found < 8 * n
    assert torch.allclose(spread, torch.stack(spreads).mean(0))
    assert c.branches * 4 + c.recorded == 32


def test_a_branch_that_leaves_the_data_ends_at_a_pessimistic_value():
    training = training_of(None, halt=1.0, penalty=0.0)
    part = training.part
    noise = draws_at(training.draws, 0)
    batch, _ = part.imagined(training.buffer.gather(noise["rows"]).obs[:, -6:], noise)
    left = batch.mask == 0
    assert left.any()
    assert not left.all()
    used = [usable_rows(data, "next_action", heldout=None).numpy() for data in training.datasets]
    worst = [data.worst_reward(100, 0.99, own) for data, own in zip(training.datasets, used, strict=True)]
    behind = torch.tensor([0.99 * min(0.0, value) / 0.01 for value in worst], dtype=DOUBLE)
    surplus = batch.reward - FUNCTIONS["reward"](batch.obs, batch.action)
    assert torch.allclose(surplus, left * behind.unsqueeze(1))
    assert torch.equal(batch.next_obs[left], batch.obs[left])  # nothing that is far away reaches the critic


def test_what_is_not_finite_reaches_no_network_whatever_the_rule_says_of_it():
    broken = {**FUNCTIONS, "sample": lambda obs, action, noise: torch.where(obs > 0.2, torch.nan, obs + action)}
    config = component_config("mopo", {}, {**SMALL, "penalty": 0.0, "steps": 6})
    for rule in (None, lambda obs: ~(obs[..., 0] < 0.45)):  # which takes nan for an end
        bases = {"world_model": Spread(SEEDS, sample=broken["sample"]), "reward": Given(SEEDS, reward=broken["reward"])}
        training = Training("mopo", config, rows(), SEEDS, bases=bases, termination=rule, dtype=DOUBLE)
        noise = draws_at(training.draws, 0)
        batch, _ = training.part.imagined(training.buffer.gather(noise["rows"]).obs[:, -6:], noise)
        assert (batch.mask == 0).any()
        assert all(values.isfinite().all() for values in vars(batch).values())
        training.run()
        assert all(parameter.isfinite().all() for parameter in training.part.parameters())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"discount": 1}, "discount"),
        ({"real_share": 1}, "real_share"),
        ({"actor_bc_coef": 0.4}, "actor_bc_coef"),
        ({"rollout_length": 100, "batch_size": 64}, "longer than the 61 imagined transitions"),
    ],
)
def test_what_cannot_be_is_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        component_config("mopo", {}, fields)


def test_a_batch_begins_with_recorded_rows():
    training = training_of()
    batch = training.buffer.gather(draws_at(training.draws, 0)["rows"])
    own = first_rows(batch, training.part.config.recorded)
    assert own.obs.shape[1] == 8
    assert torch.equal(own.reward, batch.reward[:, :8])


def test_it_finds_the_best_action_which_no_recorded_one_is():
    training = training_of(
        steps=1500, batch_size=64, discount=0.5, penalty=0.0, actor_lr=2e-3, critic_lr=3e-3, real_share=0.0
    )
    training.run()
    obs = 2 * torch.rand(2, 200, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)) - 1
    action = training.part.actor(obs).detach()
    assert (action - TARGET).abs().mean() < 0.12


def test_a_penalty_keeps_it_where_the_networks_agree():
    off, on = (
        training_of(steps=600, discount=0.5, penalty=penalty, actor_lr=3e-3, critic_lr=3e-3, real_share=0.0)
        for penalty in (0.0, 3.0)
    )
    for training in (off, on):
        training.run()
    obs = 2 * torch.rand(2, 200, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)) - 1
    far, near = (training.part.actor(obs).detach()[..., 0].abs().mean() for training in (off, on))
    assert near < far / 2


def test_a_model_that_cannot_disagree_is_refused_in_a_line(dataset):
    small = part_of(dataset, 0, 2000)
    for model in ({"kind": "mlp", "ensemble": 1}, {"kind": "flow", "denoising_steps": 2}):
        config = component_config("mopo", {}, SMALL)
        bases = bases_of(config, small, [0])
        own = component_config("world_model", {}, {"hidden_dim": 8, **model})
        bases["world_model"] = component_class("world_model", own)(own, small.obs_dim, small.act_dim, [0])
        with pytest.raises(UserError, match=r"mopo.penalty needs a world model of several networks.*penalty: 0"):
            Training("mopo", config, small, [0], bases=bases)
