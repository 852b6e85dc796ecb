"""Planners on a linear-quadratic system, against the Bellman equation and the Riccati recursion."""

from functools import cache

import numpy as np
import pytest

from tests.support.linear_quadratic import (
    BEST,
    DISCOUNT,
    PRETRAINED,
    STATES,
    A,
    B,
    P,
    Q,
    R,
    best_gain,
    improved,
    planner,
    system,
    tensor,
    value_of,
)

HORIZONS = (0, 1, 3, 10)


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
