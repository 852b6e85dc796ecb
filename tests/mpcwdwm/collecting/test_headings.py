"""The ant's symmetry, in the simulator: renumbered legs and turned worlds are the same robot to the policy."""

import math

import mujoco
import numpy as np
import pytest
from gymnasium.envs.mujoco.mujoco_env import expand_model_path
from numpy.typing import NDArray

from mpcwdwm.collecting.headings import HYSTERESIS, applied, front_quarter, inputs
from mpcwdwm.envs.antmaze import FRAME_SKIP, ant_model
from mpcwdwm.envs.mazes import Maze

Array = NDArray[np.float64]
MODEL = ant_model(expand_model_path("ant.xml"), Maze(("RG",))).compile()
HALF = math.sqrt(0.5)
QUARTER_TURN = np.array([HALF, 0, 0, HALF])  # about the vertical, anticlockwise
# Ankles 2 and 3 of Gymnasium's ant.xml bend the other way: their ranges are -70 to -30 degrees, the others' 30 to 70.
SIGNS = np.array([1, -1, -1, 1])


def product(one: Array, other: Array) -> Array:
    result = np.zeros(4)
    mujoco.mju_mulQuat(result, one, other)
    return result


def renumbered(state: Array) -> Array:
    """The same robot in the same place, described with the torso turned by a quarter and legs renumbered."""
    other = state.copy()
    other[3:7] = product(state[3:7], QUARTER_TURN)
    for joints in (slice(7, 15), slice(21, 29)):
        legs = state[joints].reshape(4, 2).copy()
        legs[:, 1] *= SIGNS
        legs = np.roll(legs, -1, axis=0)
        legs[:, 1] *= SIGNS
        other[joints] = legs.ravel()
    other[18:20] = state[19], -state[18]  # spin in the torso's frame
    return other


def turned(state: Array) -> Array:
    """The state in a world that is turned by a quarter about the origin."""
    other = state.copy()
    other[3:7] = product(QUARTER_TURN, state[3:7])
    other[:2], other[15:17] = (-state[1], state[0]), (-state[16], state[15])
    return other


def walked(state: Array, heading: float, actions: Array) -> tuple[Array, Array]:
    """The last state and everything a policy saw on the way."""
    data = mujoco.MjData(MODEL)
    data.qpos[:], data.qvel[:] = state[:15], state[15:]
    mujoco.mj_forward(MODEL, data)
    quarter, seen, headings = None, [], np.array([heading])
    for action in actions:
        states = np.concatenate([data.qpos, data.qvel])[None]
        quarter = front_quarter(states, headings, quarter)
        seen.append(inputs(states, headings, quarter)[0])
        data.ctrl[:] = applied(action[None], quarter)[0]
        mujoco.mj_step(MODEL, data, FRAME_SKIP)
    return np.concatenate([data.qpos, data.qvel]), np.array(seen)


def tumbling(random: np.random.Generator) -> Array:
    """A state in which nothing is symmetric."""
    state = np.zeros(29)
    state[:15] = MODEL.qpos0
    state[:2] = 0.3, -0.2
    state[2:15] += random.uniform(-0.3, 0.3, 13)
    state[3:7] /= np.linalg.norm(state[3:7])
    state[15:] = 0.5 * random.standard_normal(14)
    return state


@pytest.mark.parametrize("seed", range(3))
def test_both_descriptions_of_a_robot_and_a_turned_world_walk_alike(seed: int) -> None:
    """For 4 s, with contacts: the policy sees the same, and what it does leads to the same place."""
    random = np.random.default_rng(seed)
    state, heading = tumbling(random), random.uniform(-3, 3)
    actions = np.repeat(random.uniform(-1, 1, (8, 8)), 5, axis=0)
    last, seen = walked(state, heading, actions)
    for change, ahead in ((renumbered, heading), (turned, heading + math.pi / 2)):
        found, found_seen = walked(change(state), ahead, actions)
        np.testing.assert_allclose(found_seen, seen, rtol=0, atol=1e-9)
        expected = change(last)
        expected[3:7] *= np.sign(expected[3:7] @ found[3:7])  # q and −q are one rotation
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert np.linalg.norm(last[:2] - state[:2]) > 0.1
    assert (found_seen[1:] != found_seen[:-1]).any()


def test_a_small_turn_of_the_world_changes_nothing_of_what_is_seen() -> None:
    random = np.random.default_rng(0)
    state, angle = tumbling(random), 0.4
    other = state.copy()
    other[3:7] = product(np.array([math.cos(angle / 2), 0, 0, math.sin(angle / 2)]), state[3:7])
    cos, sin = math.cos(angle), math.sin(angle)
    other[15:17] = np.array([[cos, -sin], [sin, cos]]) @ state[15:17]
    one, two = (inputs(s[None], np.array([h]), np.array([2])) for s, h in ((state, 0.3), (other, 0.3 + angle)))
    np.testing.assert_allclose(one, two, atol=1e-12)


def test_the_front_quarter_faces_the_heading_and_is_kept_for_a_while() -> None:
    state = np.zeros((1, 29))
    state[0, 3] = 1.0
    for quarter in range(4):
        ahead = np.array([quarter * math.pi / 2])
        assert front_quarter(state, ahead + 0.7) == front_quarter(state, ahead - 0.7) == quarter
        present = np.array([quarter])
        bound = math.pi / 4 + HYSTERESIS
        assert front_quarter(state, ahead + bound - 0.01, present) == quarter
        assert front_quarter(state, ahead + bound + 0.01, present) == (quarter + 1) % 4
        assert front_quarter(state, ahead - bound - 0.01, present) == (quarter - 1) % 4


def test_the_front_and_its_speed_are_seen_along_the_heading() -> None:
    state = np.zeros((1, 29))
    state[0, 2], state[0, 3:7] = 0.75, (HALF, 0, 0, HALF)  # the torso's first axis along y
    state[0, 15:18] = 0, 2, 0.5
    seen = inputs(state, np.array([math.pi / 2]), np.array([0]))[0]
    np.testing.assert_allclose(seen[:10], [0.75, 1, 0, 0, 0, 0, 1, 2, 0, 0.5], atol=1e-12)


@pytest.mark.parametrize("quarter", range(4))
def test_an_action_moves_the_joint_that_is_seen_in_its_place(quarter: int) -> None:
    state = np.zeros(29)
    state[2], state[3] = 5.0, 1.0  # in the air
    state[8:15:2] = SIGNS * math.radians(50)  # amid the ankles' ranges
    quarters = np.array([quarter])
    for joint in range(8):
        data = mujoco.MjData(MODEL)
        data.qpos[:], data.qvel[:] = state[:15], state[15:]
        data.ctrl[:] = applied(np.eye(8)[joint][None], quarters)[0]
        mujoco.mj_step(MODEL, data)
        speeds = inputs(np.concatenate([data.qpos, data.qvel])[None], np.zeros(1), quarters)[0, 21:]
        assert np.argmax(speeds) == joint
