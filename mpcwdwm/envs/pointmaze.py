"""D4RL's PointMaze (maze2d): a ball pushed through a maze, rewarded for being near one fixed goal that is not observed.

D4RL's physics on plain MuJoCo (`d4rl/pointmaze/maze_model.py`, d4rl 1.1): the simulator's walls and ball are placed
here so that cell (row, column) has its wall at x = row, y = column. As in D4RL the ball lies 0.2 m further along x
and y than its coordinates say.
"""

from typing import Any, ClassVar

import mujoco
import numpy as np
from numpy.typing import NDArray

from mpcwdwm.envs.maze_env import RENDER_MODES, MazeEnv
from mpcwdwm.envs.mazes import POINT_MAZES, Maze

__all__ = ["GOAL_RADIUS", "PointMaze", "point_model"]

GOAL_RADIUS = 0.5  # of the ball's coordinates from the goal [m], the bound included
SPEED_LIMIT = 5.0  # of each velocity, before every step [m/s]
START_NOISE = 0.1  # of positions: uniform within ±; of velocities: standard deviation
OBS_DIM = 4  # x, y, and their velocities

TIME_STEP = 0.01  # [s]
SOLVER_ITERATIONS = 20
RADIUS = 0.1  # of the ball [m]
DENSITY = 1000.0  # [kg/m³]
DAMPING = 1.0  # of both joints [N s/m]
GEAR = 100.0  # force at action 1 [N]
SHIFT = 0.2  # of the ball against its coordinates [m]
WALL_HEIGHT = 0.2  # half of it [m]
MARGIN = 0.002  # of contacts, which are without friction [m]


def point_model(maze: Maze) -> "mujoco.MjSpec":
    """Return D4RL's ball in a maze, with a site "goal" that has no part in the dynamics."""
    spec = mujoco.MjSpec()
    spec.option.timestep, spec.option.iterations, spec.option.gravity = TIME_STEP, SOLVER_ITERATIONS, np.zeros(3)
    maze.add_walls(spec, WALL_HEIGHT, bottom=-WALL_HEIGHT)
    ball = spec.worldbody.add_body(name="ball", pos=[SHIFT, SHIFT, 0.0])
    ball.add_geom(name="ball", type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[RADIUS, 0, 0], rgba=[0.1, 0.2, 0.9, 1])
    for geom in spec.geoms:
        geom.condim, geom.margin, geom.density = 1, MARGIN, DENSITY
    for axis, direction in (("x", [1, 0, 0]), ("y", [0, 1, 0])):
        ball.add_joint(name=axis, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=direction, damping=DAMPING)
        motor = spec.add_actuator(name=axis, target=axis, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        motor.gear[0], motor.ctrllimited, motor.ctrlrange = GEAR, True, [-1, 1]
    place = [*maze.centre(maze.goal), 0.0]
    spec.worldbody.add_site(name="goal", pos=place, size=[GOAL_RADIUS] * 3, rgba=[0.9, 0.1, 0.1, 0.4])
    return spec


class PointMaze(MazeEnv):
    """D4RL's `maze2d-{open,umaze,medium,large}`: an episode lasts until the limit of steps, whether at the goal or not.

    Observation (4,): x, y and their velocities. Action (2,) in [-1, 1]: forces, each for 0.01 s. Reward: 1 within
    0.5 m of the goal, else 0; dense: exp(−distance).

    The goal is the maze's, and the start anywhere: the centre of a free cell + U(−0.1, 0.1), velocities 0.1 N(0, 1).
    `reset` takes other goals and starts as `MazeEnv` does.

    Args:
        maze: open, umaze, medium or large.
        dense: whether rewards are dense.
        render_mode: human, rgb_array, depth_array, rgbd_tuple or None.
        **rendering: further arguments of `MujocoEnv`, such as width and height.

    Raises:
        UserError: no such maze; or, by `reset`, a start that is no free cell or a goal that is no point.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": RENDER_MODES, "render_fps": 100}

    def __init__(
        self, maze: str = "umaze", dense: bool = False, render_mode: str | None = None, **rendering: Any
    ) -> None:
        self.dense = dense
        super().__init__(maze, POINT_MAZES, 1, OBS_DIM, render_mode, rendering)

    def reset_model(self) -> NDArray[np.float64]:
        """Draw a start, unless its cell is given: noise on positions and velocities."""
        self.place_goal(self.maze.centre(self.maze.goal) if self.given_goal is None else self.given_goal)
        cells = self.maze.free
        cell = self.given_start or cells[self.np_random.integers(len(cells))]
        qpos = self.maze.centre(cell) + self.np_random.uniform(-START_NOISE, START_NOISE, size=2)
        self.set_state(qpos, START_NOISE * self.np_random.standard_normal(2))
        return self.state_vector()

    def step(self, action: NDArray[np.floating]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Apply forces for 0.01 s; return observation, reward, False, False, and the goal."""
        self.set_state(self.data.qpos, np.clip(self.data.qvel, -SPEED_LIMIT, SPEED_LIMIT))
        self.do_simulation(np.clip(action, -1, 1), self.frame_skip)
        obs = self.state_vector()
        distance = float(np.linalg.norm(obs[:2] - self.goal))
        reached = distance <= GOAL_RADIUS
        if self.render_mode == "human":
            self.render()
        reward = float(np.exp(-distance)) if self.dense else float(reached)
        return obs, reward, False, False, {"goal": self.goal.copy(), "success": reached}

    def build_model(self) -> "mujoco.MjSpec":
        """Return the ball in its maze."""
        return point_model(self.maze)
