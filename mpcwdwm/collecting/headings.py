"""The ant's four legs are alike: seen from the heading it is to walk in, it always walks forwards.

Legs lie at 45°, 135°, 225° and 315° of the torso. Turned by a quarter with its legs renumbered, the torso is the same
robot. Of the four torsos that describe one state, the one is taken whose front lies within 45° of the heading; a policy
then needs to walk forwards only. It is changed for another one when the heading leaves this front quarter by
`HYSTERESIS`. All vectors are given in the heading's frame, so that turning state and heading together changes nothing.

A state is (29,): qpos (x, y, z; quaternion w, x, y, z; hip and ankle of legs 1 … 4) and qvel (velocity in the world's
frame; spin in the torso's frame; joints), as Gymnasium's ant has them.
"""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["ACT_DIM", "HYSTERESIS", "INPUT_DIM", "STATE_DIM", "applied", "front_quarter", "inputs", "torso_axes"]

STATE_DIM, INPUT_DIM, ACT_DIM = 29, 29, 8
QUARTERS = 4
QUARTER = math.pi / 2  # [rad]
HYSTERESIS = 0.17  # beyond the front quarter's bound [rad]
# The ankles of legs 2 and 3 turn about the opposite of the axis that the symmetry makes of leg 1's.
ANKLE_SIGNS = np.array([1.0, -1.0, -1.0, 1.0])
FIRST_MOTOR = 3  # (from 0) the leg whose motors come first in the model
JOINT_SPEED = 0.1  # scale of speeds [s], so that inputs are of size one

Array = NDArray[np.float64]
Quarters = NDArray[np.int64]


def torso_axes(states: Array) -> Array:
    """Return the torso's axes in the world's frame: (n, 29) → (n, 3, 3), an axis in each column."""
    w, x, y, z = (states[:, 3:7] / np.linalg.norm(states[:, 3:7], axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def front_quarter(states: Array, headings: Array, present: Quarters | None = None) -> Quarters:
    """Return which quarter of the torso (0 … 3, counted anticlockwise) faces the heading.

    Args:
        states: (n, 29).
        headings: directions in the world's frame [rad]: (n,).
        present: (n,) quarters that are kept until the heading leaves them by `HYSTERESIS`; None: the nearest.
    """
    axes = torso_axes(states)
    ahead = np.stack([np.cos(headings), np.sin(headings)], axis=1)
    sideways = np.einsum("nij,ni->nj", axes[:, :2, :2], ahead)  # the heading along the torso's first two axes
    angle = np.arctan2(sideways[:, 1], sideways[:, 0])
    nearest = np.rint(angle / QUARTER).astype(np.int64) % QUARTERS
    if present is None:
        return nearest
    off = (angle - present * QUARTER + math.pi) % (2 * math.pi) - math.pi
    return np.where(np.abs(off) > QUARTER / 2 + HYSTERESIS, nearest, present)


def inputs(states: Array, headings: Array, quarters: Quarters) -> Array:
    """Return what the policy sees, in the heading's frame: (n, 29).

    Height; the front's and the torso's upward axis; velocity; spin; angles and speeds of hip and ankle of the four
    legs, anticlockwise from the front.
    """
    axes = torso_axes(states)
    turn = quarters * QUARTER
    front = axes[:, :, 0] * np.cos(turn)[:, None] + axes[:, :, 1] * np.sin(turn)[:, None]
    spin = np.einsum("nij,nj->ni", axes, states[:, 18:21])
    vectors = (front, axes[:, :, 2], states[:, 15:18], JOINT_SPEED * spin)
    angles, speeds = _renumbered(states[:, 7:15], quarters), _renumbered(states[:, 21:29], quarters)
    seen = [states[:, 2:3], *(_from_heading(vector, headings) for vector in vectors), angles, JOINT_SPEED * speeds]
    return np.concatenate(seen, axis=1)


def applied(actions: Array, quarters: Quarters) -> Array:
    """Return the motors' actions (n, 8) that do to the robot what `actions`, of renumbered legs, mean."""
    rows = np.arange(len(actions))[:, None]
    canonical = actions.reshape(-1, QUARTERS, 2)
    legs = canonical[rows, (np.arange(QUARTERS) - quarters[:, None]) % QUARTERS]
    signed = np.stack([legs[..., 0], legs[..., 1] * ANKLE_SIGNS], axis=2)
    return np.roll(signed, -FIRST_MOTOR, axis=1).reshape(len(actions), ACT_DIM)


def _renumbered(joints: Array, quarters: Quarters) -> Array:
    """Return hip and ankle of each leg, anticlockwise from the front: (n, 8) of legs 1 … 4 → (n, 8)."""
    legs = joints.reshape(-1, QUARTERS, 2)
    signed = np.stack([legs[..., 0], legs[..., 1] * ANKLE_SIGNS], axis=2)
    rows = np.arange(len(joints))[:, None]
    return signed[rows, (np.arange(QUARTERS) + quarters[:, None]) % QUARTERS].reshape(len(joints), -1)


def _from_heading(vectors: Array, headings: Array) -> Array:
    """Return vectors (n, 3) of the world's frame in the frame whose first axis is the heading."""
    cos, sin = np.cos(headings), np.sin(headings)
    x, y, z = vectors.T
    return np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=1)
