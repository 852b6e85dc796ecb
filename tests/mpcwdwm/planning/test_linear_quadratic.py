"""On a linear-quadratic system everything is known: what a plan is worth, and which action is best.

The dynamics are s' = A s + B a + W ε, the reward is −sᵀQs − aᵀRa, the policy −K s, and its critic exact: its
value −sᵀPs − c solves the Bellman equation, a linear system. With H steps before that critic the best sequence
of H + 1 actions follows from H + 1 steps of the Riccati recursion, and its limit is the best action there is.
The policy to be improved is wrong by more than half, and every action stays far inside of its bounds.
"""

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from mpcwdwm.planning import ActionAscent, ActionConfig, AdaptiveMpc, ModulePolicy, MpcConfig, Mppi, MppiConfig, Parts

DOUBLE = torch.float64
A = np.array([[0.95, 0.2], [-0.1, 0.9]])
B = np.array([[0.3, 0.0], [0.1, 0.4]])
Q, R = np.diag([1.0, 0.5]), np.diag([0.5, 0.5])
DISCOUNT = 0.95
STATES = np.array([[0.5, -0.4], [-0.3, -0.6], [0.2, 0.7]])  # one row each
HORIZONS = (0, 1, 3, 10)


def improved(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One step of the Riccati recursion: the best gain before a value of −sᵀPs, and the value of acting so."""
    gain = DISCOUNT * np.linalg.solve(R + DISCOUNT * B.T @ p @ B, B.T @ p @ A)
    return gain, Q + DISCOUNT * A.T @ p @ (A - B @ gain)


def best_gain(p: np.ndarray, steps: int) -> np.ndarray:
    for _ in range(steps):
        gain, p = improved(p)
    return gain


def value_of(gain: np.ndarray) -> np.ndarray:
    """P of the policy −K s, from P = Q + KᵀRK + γ FᵀPF with F = A − BK."""
    closed = A - B @ gain
    equations = np.eye(4) - DISCOUNT * np.kron(closed.T, closed.T)
    return np.linalg.solve(equations, (Q + gain.T @ R @ gain).ravel()).reshape(2, 2)


BEST = best_gain(np.zeros((2, 2)), 2000)
PRETRAINED = 0.4 * BEST + np.array([[0.0, 0.1], [-0.1, 0.0]])
P = value_of(PRETRAINED)


class Linear:
    noise_shape = (2,)

    def __init__(self, spread):
        self.spread = spread

    def sample(self, obs, action, noise):
        return obs @ tensor(A).T + action @ tensor(B).T + self.spread * noise


def tensor(x):
    return torch.tensor(x, dtype=DOUBLE)


def quadratic(x, matrix):
    return ((x @ tensor(matrix)) * x).sum(-1)


def reward(obs, action):
    return -quadratic(obs, Q) - quadratic(action, R)


def system(p=P, spread=0.0) -> Parts:
    """The parts with the critic of a policy of value −sᵀPs − c."""
    c = DISCOUNT / (1 - DISCOUNT) * spread**2 * np.trace(p)

    def critic(obs, action):
        following = Linear(0).sample(obs, action, 0)
        value = -quadratic(following, p) - spread**2 * np.trace(p) - c
        return (reward(obs, action) + DISCOUNT * value).unsqueeze(1)

    policy = nn.Linear(2, 2, bias=False, dtype=DOUBLE)
    policy.weight.data = tensor(-PRETRAINED)
    return Parts(ModulePolicy(policy), critic, Linear(spread), reward, discount=DISCOUNT)


def plan(planner):
    action, value, fallen = planner.act(tensor(STATES))
    assert not fallen.any()
    return action.numpy(), value.numpy()


def actions(gain):
    return -STATES @ gain.T


def error(action, wanted=None):
    """The largest relative error over the rows."""
    wanted = actions(BEST) if wanted is None else wanted
    return (np.linalg.norm(action - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).max()


def planner(kind, parts, horizon, **fields):
    classes = {"policy": (AdaptiveMpc, MpcConfig), "action": (ActionAscent, ActionConfig), "mppi": (Mppi, MppiConfig)}
    # steps as large as the curvature allows, and as many as it takes to converge
    converged = {
        "policy": {"E": 200, "M": 1, "step_size": 0.3},
        "action": {"E": 150, "M": 1, "step_size": 0.15},
        "mppi": {
            "E": 20,
            "temperature": 20.0,
            "min_std": 0.02,
            "last_action": "planned",
            "samples": 1024,
            "elites": 128,
        },
    }
    made, config = classes[kind]
    return made(parts, config(H=horizon, **{**converged[kind], **fields}), episodes=len(STATES))


@cache
def converged(kind, horizon):
    return plan(planner(kind, system(), horizon))[0]


def antithetic(made):
    """Give every second rollout the negative noise of the one before it."""
    draw = made.draw_noise

    def drawn():
        draw()
        made.noises[0][:, :, 1::2] = -made.noises[0][:, :, ::2]

    made.draw_noise = drawn
    return made


def test_the_oracles_agree_with_a_long_simulation():
    state, total = STATES[0], 0.0
    for j in range(600):
        action = -PRETRAINED @ state
        total -= DISCOUNT**j * (state @ Q @ state + action @ R @ action)
        state = A @ state + B @ action
    assert total == pytest.approx(-STATES[0] @ P @ STATES[0], rel=1e-9)
    assert error(actions(PRETRAINED)) > 0.5
    assert np.abs(actions(BEST)).max() < 0.8  # inside of the bounds, so that they do not matter
    assert np.allclose(improved(value_of(BEST))[0], BEST, atol=1e-12)  # a fixed point


@pytest.mark.parametrize("kind", ["policy", "action"])
@pytest.mark.parametrize("horizon", HORIZONS)
def test_before_adaptation_a_plan_is_worth_what_the_bellman_equation_says(kind, horizon):
    """With an exact critic the imagined return of the policy is its value, whatever the horizon."""
    _, value = plan(planner(kind, system(), horizon, E=1))
    assert np.allclose(value, [-s @ P @ s for s in STATES], rtol=1e-12)


def test_with_noise_a_plan_is_worth_that_in_the_mean():
    spread, rollouts = 0.2, 20_000
    _, value = plan(planner("policy", system(spread=spread), 3, E=1, M=rollouts))
    c = spread**2 * np.trace(P) / (1 - DISCOUNT) * DISCOUNT
    expected = np.array([-s @ P @ s for s in STATES]) - c
    assert np.allclose(value, expected, atol=0.02)  # five standard errors of the mean
    assert np.abs(value - expected - c).min() > 0.1  # which could tell that the noise had been forgotten


@pytest.mark.parametrize("kind", ["policy", "action", "mppi"])
def test_a_longer_horizon_brings_the_action_closer_to_the_best(kind):
    errors = [error(converged(kind, horizon)) for horizon in HORIZONS]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.2
    assert errors[-1] < 0.05


@pytest.mark.parametrize("horizon", HORIZONS)
def test_converged_actions_are_those_of_the_riccati_recursion(horizon):
    wanted = actions(best_gain(P, horizon + 1))
    assert error(converged("action", horizon), wanted) < 1e-6
    assert error(converged("mppi", horizon), wanted) < 0.015  # the mean of elites that still spread by 0.02


def test_mppi_that_ends_with_the_policy_plans_one_action_less():
    found = plan(planner("mppi", system(), 1, last_action="policy"))[0]
    assert error(found, actions(best_gain(P, 1))) < 0.015
    assert error(actions(best_gain(P, 1)), actions(best_gain(P, 2))) > 0.1


@pytest.mark.parametrize("kind", ["policy", "action", "mppi"])
def test_the_best_critic_needs_no_horizon(kind):
    found = plan(planner(kind, system(value_of(BEST)), 0))[0]
    assert error(found) < 0.01


@pytest.mark.parametrize("kind", ["action", "mppi"])
def test_noise_that_cancels_over_the_rollouts_leaves_the_plan_alone(kind):
    """In a linear system ±ε have no effect on the best sequence, if both rollouts share it."""
    fields = {"action": {"E": 20}, "mppi": {"E": 5, "policy_samples": 0}}[kind]
    found = [plan(antithetic(planner(kind, system(spread=w), 3, M=2, **fields)))[0] for w in (0.0, 0.3)]
    assert np.allclose(*found, rtol=0, atol=1e-9)


def test_a_policy_adapted_under_noise_still_finds_the_action():
    found = plan(antithetic(planner("policy", system(spread=0.1), 10, M=20, E=80)))[0]
    assert error(found) < 0.05
