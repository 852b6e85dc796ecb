"""A linear-quadratic system, of which everything is known: what a plan is worth, and which action is best.

The dynamics are s' = A s + B a + W ε, the reward is −sᵀQs − aᵀRa, the policy −K s, and its critic exact: its
value −sᵀPs − c solves the Bellman equation, a linear system. With H steps before that critic the best sequence
of H + 1 actions follows from H + 1 steps of the Riccati recursion, and its limit is the best action there is.
The policy to be improved is wrong by more than half, and every action stays far inside of its bounds.
"""

import numpy as np
import torch
from torch import nn

from mpcwdwm.planning import ActionAscent, ActionConfig, AdaptiveMpc, ModulePolicy, MpcConfig, Mppi, MppiConfig, Parts

DOUBLE = torch.float64
A = np.array([[0.95, 0.2], [-0.1, 0.9]])
B = np.array([[0.3, 0.0], [0.1, 0.4]])
Q, R = np.diag([1.0, 0.5]), np.diag([0.5, 0.5])
DISCOUNT = 0.95
STATES = np.array([[0.5, -0.4], [-0.3, -0.6], [0.2, 0.7]])  # one row each


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
