"""Imagined episodes from which a value is learnt, against plain loops: where they start, how they go on and end.

The bases are functions: a system that only grows, whose episodes can be written down.
"""

import dataclasses

import numpy as np
import pytest
import torch

from mpcwdwm.components import component_config
from mpcwdwm.components.component import Context
from mpcwdwm.components.value import Episodes, returns_to_go
from mpcwdwm.nn.networks import MIN_STD
from mpcwdwm.training.loop import Training
from tests.support.imagined_episodes import (
    FALLEN,
    GROWING,
    GROWTH,
    HALT,
    LENGTH,
    SMALL,
    Given,
    episodes_of,
    grown,
    rows,
    training_of,
)
from tests.support.linear_quadratic import DISCOUNT, DOUBLE, tensor
from tests.support.parts import PARTS, bases_of, part_of
from tests.support.recorded_episodes import worst_by_hand

TENTH = 0.1  # of the imagined episodes is judged and not learnt from


# ----------------------------------------------------------------------------------------- returns


def test_a_return_to_go_is_the_discounted_sum_up_to_the_end_and_nothing_behind_it():
    reward, length = tensor([[1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0], [3.0, 5.0, 7.0, 9.0]]), [4, 2, 1]
    alive = tensor([[float(t <= n - (n < 4)) for t in range(5)] for n in length])  # ends with transition n
    episodes = Episodes(torch.zeros(1, 3, 5, 2), reward.unsqueeze(0), alive.unsqueeze(0))

    def by_hand(episode, t):
        if t == length[episode]:
            return 0.0
        return float(reward[episode, t]) + 0.5 * by_hand(episode, t + 1)

    expected = [[by_hand(e, t) if t < length[e] else 0.0 for t in range(4)] for e in range(3)]
    assert expected[:2] == [[4.0, 6.0, 8.0, 8.0], [2.0, 2.0, 0.0, 0.0]]
    assert returns_to_go(episodes, 0.5)[0].tolist() == expected


# ------------------------------------------------------------------------------ imagined episodes


def episode_by_hand(start, mean, std):
    """The states of one episode of the growing system before its end, and why it ended, if it did."""
    states = [start]
    while len(states) <= LENGTH:
        state = GROWTH * states[-1]
        if states[-1][1] < -0.9:
            return states, "broken"
        if state[0] > FALLEN:
            return states, "fallen"
        if (np.abs((state - mean) / std) > HALT).any():
            return states, "lost"
        states.append(state)
    return states[:LENGTH], None


def test_tables_hold_each_episode_up_to_its_end_by_rule_bound_or_failure_and_nothing_behind_it():
    part, ends, known = grown(worst_steps=7).part, [], rows()
    learnt_from = known.obs[~known.heldout].astype(float)
    mean, std = learnt_from.mean(0), learnt_from.std(0) + MIN_STD
    bound = worst_by_hand(known, 7, DISCOUNT, kept=~known.heldout) / (1 - DISCOUNT)
    assert bound < 0
    for table, share in ((part._table, 1 - TENTH), (part._judged, TENTH)):
        assert table.last.shape[1] == round(60 * share)
        for member in range(2):
            for e, (obs, returns, left) in enumerate(episodes_of(table, member)):
                states, end = episode_by_hand(obs[0].numpy(), mean, std)
                ends.append(end)
                # what leaves the data is worth a bound from below: the worst recorded steps for ever
                worth, expected = bound if end in ("broken", "lost") else 0.0, []
                for state in reversed(states):
                    worth = 1 + state[0] + DISCOUNT * worth
                    expected.insert(0, worth)
                assert np.allclose(obs, states, rtol=1e-12)
                assert np.allclose(returns, expected, rtol=1e-12)
                behind = [0.0 if end else DISCOUNT ** (LENGTH - t) for t in range(len(states))]
                assert np.allclose(left, behind, rtol=1e-12)
                if end is None:  # its value goes on from here
                    assert np.allclose(table.last[member, e], GROWTH * states[-1], rtol=1e-12)
    for member in range(2):  # returns are standardised over what is learnt
        worth = part._table.returns[member, : part._table.counts[member]]
        assert float(part.return_normalizer.mean[member]) == pytest.approx(float(worth.mean()))
        assert float(part.return_normalizer.std[member]) == pytest.approx(float(worth.std(correction=0)))
    assert {end: ends.count(end) >= 3 for end in ("broken", "fallen", "lost", None)} == dict.fromkeys(ends, True)


def test_an_end_keeps_what_follows_finite_and_leaves_the_other_episodes_alone():
    functions = {
        "actor": lambda obs: obs / 8,
        "sample": lambda obs, action, noise: torch.where(obs[..., :1].abs() > 0.7, torch.inf, 2 * obs),
        "reward": lambda obs, action: action[..., 0],
    }
    data = rows()
    part = training_of(functions, data=data, exploration=0.0, episodes=50, length=3, halt=1e6).part
    names = {"rebrac": "actor", "world_model": "sample", "reward": "reward"}
    bases = {name: Given((0, 1), **{function: functions[function]}) for name, function in names.items()}
    used = [torch.from_numpy(np.flatnonzero(~data.heldout))] * 2
    episodes = part.imagine(bases, Context([data] * 2, used, termination=lambda obs: obs[..., 1].abs() > 1.2))
    alive, obs = episodes.alive > 0, episodes.obs
    assert obs.isfinite().all()
    start = obs[:, :, :1]
    path = start * 2.0 ** torch.arange(4).view(-1, 1)  # (S, n, T + 1, 2), were there no end
    assert torch.equal(obs[alive], path[alive])
    ends = (path[:, :, :-1, 0].abs() > 0.7) | (path[:, :, 1:, 1].abs() > 1.2)
    assert torch.equal(alive[:, :, 1:], ~(ends.cumsum(-1) > 0))
    assert 0 < int(alive[..., -1].sum()) < alive[..., -1].numel()
    broken = path[:, :, :-1, 0].abs() > 0.7
    halted = alive[..., :-1] & broken
    assert halted.any()
    lowest = worst_by_hand(data, 40, DISCOUNT, kept=~data.heldout)  # no episode is longer
    assert lowest < 0
    bound = DISCOUNT * lowest / (1 - DISCOUNT) * halted.double()
    expected = obs[:, :, :-1, 0] / 8 + bound
    assert torch.allclose(episodes.reward[alive[..., :-1]], expected[alive[..., :-1]], rtol=1e-12)


@pytest.mark.parametrize("reward", [-1.0, 2.0])
def test_with_a_constant_reward_to_leave_the_data_never_pays(reward):
    data = rows()
    data = dataclasses.replace(data, reward=np.full_like(data.reward, reward))
    functions = {
        **GROWING,
        "sample": lambda obs, action, noise: GROWTH * obs,
        "reward": lambda o, a: reward + 0 * o[..., 0],
    }
    part = training_of(functions, data=data, episodes=60, length=LENGTH, halt=HALT).part
    forever, halted = reward / (1 - DISCOUNT), 0
    for member in range(2):
        for obs, returns, left in episodes_of(part._table, member):
            if left.any():
                continue
            halted += 1
            if reward < 0:  # as bad as it can be everywhere, at the edge as well
                assert np.allclose(returns, forever, rtol=1e-9)
            else:  # an end is nothing
                assert (returns < forever).all()
                assert np.allclose(returns, [forever * (1 - DISCOUNT ** (len(obs) - t)) for t in range(len(obs))])
    assert halted > 10


@pytest.mark.parametrize("exploration", [0.0, 0.2, 5.0])
def test_actions_are_the_policys_with_noise_of_the_given_width_within_bounds(exploration):
    seen = []

    def sample(obs, action, noise):
        seen.append((obs, action))
        assert noise.shape == obs.shape
        assert 0.8 < float(noise.std()) < 1.2
        return 0.9 * obs

    policy = {**GROWING, "actor": lambda obs: 0.1 * obs.flip(-1), "sample": sample}
    training_of(policy, exploration=exploration, episodes=200, length=5)
    assert len(seen) == 5
    obs, action = (torch.stack(each) for each in zip(*seen, strict=True))
    off = action - 0.1 * obs.flip(-1)
    if exploration == 0:
        assert (off == 0).all()
    elif exploration == 0.2:
        assert float(off.std()) == pytest.approx(0.2, rel=0.03)
        assert (off[0, 0] != off[0, 1]).all()  # of each member
        assert (off[0] != off[1]).all()  # of each step
    else:
        assert action.abs().max() == 1
        assert 0.8 < float((action.abs() == 1).double().mean()) < 0.9  # 84 %


@pytest.mark.parametrize(("train_on", "everywhere"), [("train", False), ("all", True)])
def test_episodes_start_at_rows_that_are_learnt_from(train_on, everywhere):
    data = rows()
    part = grown(train_on=train_on, episodes=600, data=data).part
    first, second = (
        {tuple(obs[0].tolist()) for table in (part._table, part._judged) for obs, _, _ in episodes_of(table, member)}
        for member in range(2)
    )
    starts = first | second
    kept, heldout = (
        {tuple(obs.tolist()) for obs in data.obs[mask].astype(float)} for mask in (~data.heldout, data.heldout)
    )
    assert starts <= kept | heldout
    assert bool(starts & heldout) == everywhere
    assert len(starts & kept) > 0.7 * len(kept)
    assert len(first & second) < 0.8 * len(first)  # every member has its own


def test_a_members_episodes_and_tables_do_not_depend_on_its_neighbours(dataset):
    datasets = [part_of(dataset, 0, 4000), part_of(dataset, 20_000, 23_000), part_of(dataset, 40_000, 45_000)]
    config = component_config("value", {}, {**SMALL, **PARTS["value"][1]})

    def made(datasets, seeds):
        bases = bases_of(config, datasets, seeds)
        return Training("value", config, datasets, seeds, bases=bases, dtype=DOUBLE).part

    seeds = (3, 11, 7)
    stacked = made(datasets, seeds)
    assert len(set(stacked._table.counts.tolist())) == 3  # the shorter are padded
    assert 0 < stacked._facts["value/ended"].min() <= stacked._facts["value/ended"].max() < 1
    for member, seed in enumerate(seeds):
        alone = made([datasets[member]], [seed])
        assert torch.equal(stacked._learns[member], alone._learns[0])
        for ours, theirs in ((stacked._table, alone._table), (stacked._judged, alone._judged)):
            count = int(theirs.counts[0])
            assert int(ours.counts[member]) == count
            for name in ("obs", "returns", "left", "episode"):
                assert torch.allclose(getattr(ours, name)[member, :count], getattr(theirs, name)[0], atol=1e-9), name
            assert torch.allclose(ours.last[member], theirs.last[0], atol=1e-9)
        for name, value in alone.return_normalizer.state_dict().items():
            assert torch.allclose(stacked.return_normalizer.state_dict()[name][member], value[0], rtol=1e-9)
    for table in (stacked._learns, stacked._table.obs[:, :20]):  # and are its own
        assert not any(torch.equal(table[m], table[n]) for m, n in ((0, 1), (0, 2), (1, 2)))
