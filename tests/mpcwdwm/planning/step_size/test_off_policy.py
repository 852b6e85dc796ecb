"""Off-policy evaluation of step sizes, against a linear-quadratic system, where the value of every policy is known."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy import stats

from mpcwdwm.components.bc import BcConfig, BehaviorCloning
from mpcwdwm.components.rebrac import Rebrac, RebracConfig
from mpcwdwm.components.reward import Reward, RewardConfig
from mpcwdwm.components.world_models.mlp import MlpConfig, MlpModel
from mpcwdwm.errors import UserError
from mpcwdwm.planning import AdaptiveMpc, MpcConfig, Parts
from mpcwdwm.planning.parts import (
    SharedBehavior,
    SharedCritic,
    SharedReward,
    SharedValue,
    SharedWorldModel,
    StackedPolicy,
)
from mpcwdwm.planning.step_size import off_policy
from mpcwdwm.planning.step_size.choice import ESTIMATORS, choose_step_sizes, chosen_index
from mpcwdwm.planning.step_size.off_policy import NEEDS, imagination, lstd_weights
from mpcwdwm.planning.step_size.windows import Windows, actions_along, heldout_windows, pretrained_actions
from tests.support.linear_quadratic import BEST, DISCOUNT, DOUBLE, PRETRAINED, A, B, P, Q, R, system, tensor, value_of
from tests.support.recorded_episodes import dataset_of, recorded, worst_by_hand


@pytest.fixture(scope="module")
def known() -> tuple[Parts, Windows]:
    parts = dataclasses.replace(system(), dataset=recorded(), behavior=lambda obs: -obs @ tensor(PRETRAINED).T)
    return parts, heldout_windows(parts, (0,), count=24, length=4)


def act(windows, gain):
    return -windows.obs @ tensor(gain).T


def chosen(parts, windows, sizes=(0, 1.0), planner=lambda size, reset: Acts(size), judge="fqe_disjoint", seeds=(0,)):
    return choose_step_sizes(parts, windows, sizes, planner, judge=judge, seeds=seeds, resets=("episode",))


class Acts:
    """A planner that moves the pretrained action the given share of the way to the best."""

    def __init__(self, share=1.0):
        self.gain, self.resets, self.seen = PRETRAINED + share * (BEST - PRETRAINED), 0, []

    def rewind(self):
        self.resets += 1

    def act(self, obs):
        self.seen.append(obs)
        return -obs @ tensor(self.gain).T, None, None


# ---- evidence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", ["step", "episode"])
def test_a_planner_is_led_along_the_stretches(reset, known):
    parts, windows = known
    config = MpcConfig(H=1, M=1, step_size=0.1, reset=reset)
    along = actions_along(AdaptiveMpc(parts, config, episodes=windows.per_member), windows)
    alone = [
        AdaptiveMpc(parts, config, episodes=24).act(obs)[0] for obs in windows.obs.unbind(1)
    ]  # the model has no noise
    same = [torch.allclose(along[:, t], alone[t], rtol=0, atol=1e-12) for t in range(4)]
    assert same == [True] + [reset == "step"] * 3
    assert not torch.allclose(along, pretrained_actions(parts, windows), atol=1e-4)


# ---- fitted Q evaluation ------------------------------------------------------------------------


def products(obs, action):
    x = np.concatenate([np.ones((len(obs), 1)), obs, action], 1)
    i, j = np.triu_indices(x.shape[1])
    return tensor(x[:, i] * x[:, j])


@pytest.mark.parametrize("gain", [PRETRAINED, BEST])
def test_weights_of_the_features_of_a_quadratic_give_the_value_of_a_linear_policy(gain):
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(2, 200, 2))
    after = obs @ A.T + action @ B.T
    reward = -((obs @ Q) * obs).sum(1) - ((action @ R) * action).sum(1)
    transitions = (products(obs, action), products(after, -after @ gain.T), tensor(reward), torch.ones(200).double())
    weights = lstd_weights(*transitions, discount=DISCOUNT, ridge=0.0)
    value = reward - DISCOUNT * ((after @ value_of(gain)) * after).sum(1)
    assert np.allclose(products(obs, action) @ weights, value, rtol=1e-9, atol=1e-9)


def test_weights_by_hand():
    one, mask = torch.ones(4, 1, dtype=DOUBLE), tensor([1.0, 1.0, 0.0, 1.0])
    found = lstd_weights(one, one, torch.ones(4).double(), mask, discount=0.9, ridge=7.0)  # none on the constant
    assert found.item() == pytest.approx(1 / (1 - 0.9 * 0.75))
    phi, reward = torch.stack([one[:, 0], tensor([1.0, -1.0, 1.0, -1.0])], 1), tensor([1.0, -1.0, 1.0, -1.0])
    found = lstd_weights(phi, 0 * phi, reward, mask, discount=0.9, ridge=0.25)
    assert torch.allclose(found, tensor([0.0, 1 / 1.25]))
    assert lstd_weights(phi[:0], phi[:0], reward[:0], mask[:0], discount=0.9, ridge=0.25).isnan().all()
    assert lstd_weights(0 * phi, 0 * phi, reward, mask, discount=0.9, ridge=0.0).isnan().all()


def test_fitted_q_evaluation_gives_the_difference_of_the_policies_values(known, monkeypatch):
    parts, windows = known
    monkeypatch.setattr(off_policy, "FQE_RIDGE", 1e-12)
    base = pretrained_actions(parts, windows)
    states = windows.obs.view(-1, 2).numpy()
    scores = []
    for share in (1.0, 0.5, -0.5):
        gain = PRETRAINED + share * (BEST - PRETRAINED)
        true = -((states @ (value_of(gain) - P)) * states).sum(1).mean()
        scores.append(ESTIMATORS["fqe_disjoint"](parts, windows, base, act(windows, gain)).item())
        assert scores[-1] == pytest.approx(true, rel=1e-3)  # rewards are recorded in float32
    assert scores[0] > scores[1] > 0 > scores[2]
    assert ESTIMATORS["fqe_disjoint"](parts, windows, base, base).item() == 0


def test_disjoint_episodes_take_the_weights_of_the_others(known):
    """Rewards that are noise: what is fitted to it is repeated on the same episodes, not on others."""
    parts, windows = known
    noise = torch.randn(windows.reward.shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    chance = dataclasses.replace(windows, reward=noise)
    single = dataclasses.replace(windows, episode=torch.zeros_like(windows.episode))
    base = pretrained_actions(parts, windows)
    taken = chance.action  # whatever was done is what the candidate does
    kept = ESTIMATORS["fqe_disjoint"](parts, chance, base, taken).item()
    halves = off_policy._halves(windows)[0]
    swapped = dataclasses.replace(chance, reward=torch.where(halves.unsqueeze(-1), 0.0, noise))
    assert ESTIMATORS["fqe_disjoint"](parts, swapped, base, taken).item() != kept
    assert ESTIMATORS["fqe_disjoint"](parts, single, base, taken).isnan().all()
    halves = off_policy._halves(windows)[0]
    by_half = [set(windows.episode[halves == side].tolist()) for side in (False, True)]
    assert all(by_half)
    assert not by_half[0] & by_half[1]


# ---- the other judges ---------------------------------------------------------------------------


def test_the_critic_is_asked_for_its_gain(known):
    parts, windows = known
    s, a, b = (x.reshape(-1, 2) for x in (windows.obs, act(windows, BEST), act(windows, PRETRAINED)))
    gain = (parts.critic(s.unsqueeze(0), a.unsqueeze(0)) - parts.critic(s.unsqueeze(0), b.unsqueeze(0))).mean()
    found = ESTIMATORS["critic"](parts, windows, act(windows, PRETRAINED), act(windows, BEST))
    assert found.item() == pytest.approx(gain.item(), rel=1e-12)
    assert found > 0


def simulated(state, gain, steps, fallen):
    total, alive = 0.0, True
    for j in range(steps):
        alive = alive and not (j and fallen(state))
        action = -gain @ state
        total -= alive * DISCOUNT**j * (state @ Q @ state + action @ R @ action)
        state = A @ state + B @ action
    return total


def test_imagination_sums_the_rewards_of_those_who_stand(known, monkeypatch):
    monkeypatch.setattr(off_policy, "IMAGINED_STEPS", 8)
    parts, windows = known
    fallen = {"never": lambda s: np.abs(s[..., 0]) > 1e9, "often": lambda s: np.abs(s[..., 0]) > 0.1}
    for rule in fallen.values():
        ending = dataclasses.replace(parts, termination=lambda s, rule=rule: torch.from_numpy(rule(s.numpy())))
        planner = Acts()
        found = imagination(ending, windows, planner, (0,))
        starts = windows.obs[:, 0].numpy()
        difference = [simulated(s, BEST, 8, rule) - simulated(s, PRETRAINED, 8, rule) for s in starts]
        assert found.item() == pytest.approx(np.mean(difference) - stats.sem(difference), rel=1e-9)
        assert planner.resets == 1


def test_imagination_counts_a_bound_behind_a_state_that_leaves_the_data(known, monkeypatch):
    monkeypatch.setattr(off_policy, "IMAGINED_STEPS", 8)
    monkeypatch.setattr(off_policy, "HALT", 0.5)
    parts, windows = known
    mean, std = parts.dataset.obs.astype(float).mean(0), parts.dataset.obs.astype(float).std(0)
    bound = worst_by_hand(parts.dataset, 40, DISCOUNT) / (1 - DISCOUNT)  # no episode is longer
    assert bound < -1

    def by_hand(state, gain):
        total = 0.0
        for j in range(8):
            action = -gain @ state
            total -= DISCOUNT**j * (state @ Q @ state + action @ R @ action)
            state = A @ state + B @ action
            if (np.abs(state - mean) > 0.5 * std).any():
                return total + DISCOUNT ** (j + 1) * bound, True
        return total, False

    runs = [[by_hand(s, gain) for s in windows.obs[:, 0].numpy()] for gain in (BEST, PRETRAINED)]
    assert {halted for run in runs for _, halted in run} == {False, True}
    gains = [ours - theirs for (ours, _), (theirs, _) in zip(*runs, strict=True)]
    found = imagination(dataclasses.replace(parts, termination=None), windows, Acts(), (0,))
    assert found.item() == pytest.approx(np.mean(gains) - stats.sem(gains), rel=1e-9)


def test_imagination_goes_on_with_the_value_where_there_is_one(known, monkeypatch):
    monkeypatch.setattr(off_policy, "IMAGINED_STEPS", 8)
    parts, windows = known
    networks = SharedValue(lambda obs: torch.stack([obs.square().sum(-1), 3 * obs.square().sum(-1)], 1), 1)
    endless = dataclasses.replace(parts, termination=None)
    valued = dataclasses.replace(endless, critic=networks)

    def end(state, gain):
        for _ in range(8):
            state = (A - B @ gain) @ state
        return 2 * DISCOUNT**8 * state @ state

    found = imagination(valued, windows, Acts(), (0,))
    starts = windows.obs[:, 0].numpy()
    gains = [
        simulated(s, BEST, 8, lambda _: False)
        + end(s, BEST)
        - simulated(s, PRETRAINED, 8, lambda _: False)
        - end(s, PRETRAINED)
        for s in starts
    ]
    assert found.item() == pytest.approx(np.mean(gains) - stats.sem(gains), rel=1e-9)
    assert found.item() != pytest.approx(imagination(endless, windows, Acts(), (0,)).item(), rel=1e-3)


@pytest.mark.parametrize("terminate", [True, False])
def test_imagination_ends_rollouts_only_where_the_planner_does(terminate, known):
    parts = dataclasses.replace(known[0], termination=lambda obs: torch.ones_like(obs[..., 0], dtype=torch.bool))

    def scores(parts, **fields):
        config = MpcConfig(H=1, M=1, step_size="auto", step_unit="state", candidates=2, **fields)
        planner = AdaptiveMpc(parts, config)
        planner.act(tensor([[0.5, 0.5]]))
        return planner.choice.scores["imagination"]

    endless = scores(dataclasses.replace(parts, termination=None))
    assert (scores(parts, terminate=terminate) == endless) != terminate


def test_a_value_of_states_cannot_judge_actions(known):
    parts, windows = known
    valued = dataclasses.replace(parts, critic=SharedValue(lambda obs: obs.sum(-1).unsqueeze(1), 1))
    with pytest.raises(UserError, match="judge: critic needs critic"):
        chosen(valued, windows, judge="critic")


def test_imagination_is_under_the_same_noise_for_all(known):
    _, windows = known
    noisy = system(spread=0.5)
    stays, goes, again = Acts(0.0), Acts(), Acts()
    assert imagination(noisy, windows, stays, (5,)).item() == pytest.approx(0, abs=1e-12)
    assert torch.equal(imagination(noisy, windows, goes, (5,)), imagination(noisy, windows, again, (5,)))
    assert torch.equal(goes.seen[9], again.seen[9])
    assert not torch.allclose(
        imagination(noisy, windows, Acts(), (5,)), imagination(noisy, windows, Acts(), (6,)), atol=1e-6
    )


# ---- members --------------------------------------------------------------------------------------


def learnt(seeds, dataset) -> Parts:
    """Untrained components on a dataset; a member's weights follow from its seed."""
    rebrac = Rebrac(RebracConfig(hidden_dim=8, reward_scale=2.0), 3, 2, seeds, DOUBLE)
    model = MlpModel(MlpConfig(hidden_dim=8, ensemble=1), 3, 2, seeds, DOUBLE)
    reward = Reward(RewardConfig(hidden_dim=8), 3, 2, seeds, DOUBLE)
    bc = BehaviorCloning(BcConfig(hidden_dim=8), 3, 2, seeds, DOUBLE)
    for part in (rebrac, model, reward, bc):
        part.requires_grad_(False)
    count = len(seeds)
    return Parts(
        policy=StackedPolicy(rebrac.actor),
        critic=SharedCritic(rebrac.critic, count),
        world_model=SharedWorldModel(model, count),
        reward=SharedReward(reward, count, rebrac.reward_affine),
        members=count,
        behavior=SharedBehavior(bc.actor, count),
        dataset=dataset,
        reward_affine=rebrac.reward_affine,
    )


def judged(seeds, dataset):
    parts = learnt(seeds, dataset)
    windows = heldout_windows(parts, seeds, count=8, length=4)

    def planner(step_size, reset):
        config = MpcConfig(H=1, M=2, step_size=step_size, reset=reset)
        return AdaptiveMpc(parts, config, seeds=seeds, episodes=windows.per_member)

    return chosen(parts, windows, (0, 10.0, 100.0), planner, seeds=seeds)


def test_a_member_is_judged_as_if_it_were_alone():
    made = dataset_of((8,) * 80, "to" * 40)
    dataset = dataclasses.replace(made, obs=np.random.default_rng(0).normal(size=made.obs.shape).astype(np.float32))
    both, alone = judged((0, 1), dataset), judged((1,), dataset)
    assert set(both.scores) == set(NEEDS)
    for name, own in alone.scores.items():
        assert np.allclose(both.scores[name][1], own[0], rtol=1e-6, atol=1e-12), name
        assert own[0][0] == 0
        assert len({0.0, *own[0]}) == 3, name  # the candidates are told apart
        assert not np.allclose(both.scores[name][0], own[0], rtol=1e-3), name
    assert both.chosen[1] == alone.chosen[0]


def test_features_are_what_the_last_layer_of_the_critic_sees():
    dataset = dataset_of((8,) * 80, "to" * 40)
    parts = learnt((0, 1), dataset)
    windows = heldout_windows(parts, (0, 1), count=8, length=4)
    obs, action = windows.by_member(windows.obs), windows.by_member(windows.action)
    hidden = off_policy._hidden_layer(parts.critic.part, obs, action)  # (S, R, 16): the twins beside each other
    assert hidden.shape == (2, 32, 16)
    head = parts.critic.part.net.head
    q = torch.stack([hidden[..., :8], hidden[..., 8:]], 1) @ head.weight + head.bias
    assert torch.allclose(q.squeeze(-1), parts.critic(obs, action))


def test_a_critic_of_another_network_is_evaluated_on_products():
    parts = learnt((0,), dataset_of((8,) * 80, "to" * 40))
    windows = heldout_windows(parts, (0,), count=8, length=4)
    base = pretrained_actions(parts, windows)
    critics = (SharedCritic(torch.nn.Bilinear(3, 2, 2), 1), lambda obs, action: None)
    scores = [
        ESTIMATORS["fqe_disjoint"](dataclasses.replace(parts, critic=critic), windows, base, windows.action)
        for critic in critics
    ]
    assert torch.equal(*scores)
    assert scores[0].isfinite().all()


# ---- the choice ---------------------------------------------------------------------------------


def test_the_highest_score_is_chosen_and_of_equals_the_smaller_step():
    nan, inf = float("nan"), float("inf")
    assert [chosen_index(x) for x in ([0, 2, 1], [0, 3, 3], [0, 0], [0, -1], [0, nan, 1], [0, inf], [nan, nan])] == [
        *(1, 1, 0, 0, 2, 0, 0)
    ]


def test_step_sizes_are_compared_and_one_is_chosen(known, monkeypatch):
    parts, _ = known
    windows, made = heldout_windows(parts, (0,), count=20, length=4), []

    def planner(share, reset):
        made.append((share, reset))
        return Acts(share)

    monkeypatch.setattr(off_policy, "FQE_RIDGE", 1e-12)  # on so few steps a ridge would bias the choice
    found = chosen(parts, windows, (0, 0.5, 1.0, 4.0), planner)
    assert found.chosen == [1.0]
    assert made == [(0.5, "episode"), (1.0, "episode"), (4.0, "episode")]
    assert set(found.scores) == set(NEEDS)
    (plain,) = found.by_member()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["judge"] == "fqe_disjoint"
    assert plain["candidates"] == [0.0, 0.5, 1.0, 4.0]


def test_an_estimator_without_its_parts_is_left_out_or_refused(known):
    parts, windows = known
    less = dataclasses.replace(parts, behavior=None, critic=None)
    assert set(chosen(less, windows).scores) == {"fqe_disjoint", "imagination"}
    with pytest.raises(UserError, match="judge: critic needs critic: critic comes from base"):
        chosen(less, windows, judge="critic")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"judge": "critik"}, r"unknown judge 'critik' .*did you mean 'critic'"),
        ({"smallest": 0.3, "largest": 0.1}, r"do not rise: 0\.0, 0\.3, .*give a largest above the smallest"),
        ({"smallest": 0.1, "largest": 0.1}, "do not rise"),
        ({"smallest": 0.1, "largest": 0.11, "candidates": 9}, "do not rise: .*fewer candidates"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused_with_its_config(fields, said):
    with pytest.raises((UserError, ValueError), match=said):
        MpcConfig(step_size="auto", **fields)
