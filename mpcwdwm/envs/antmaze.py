"""D4RL's AntMaze-v2: an ant among walls, rewarded once, within half a metre of a goal that it does not observe.

D4RL's robot is Gymnasium's with other time steps, softer contacts and weaker motors, so its model is made of
Gymnasium's in code. Bit for bit D4RL 1.1's dynamics with MuJoCo 3.4.0; D4RL applies forces of ±30 with gear 1, here
actions are in [-1, 1] with gear 30. Whoever passes through the goal has reached it only if a step ends there.
"""

from typing import Any, ClassVar

import mujoco
import numpy as np
from gymnasium.envs.mujoco.mujoco_env import expand_model_path
from numpy.typing import NDArray

from mpcwdwm.envs.maze_env import RENDER_MODES, MazeEnv
from mpcwdwm.envs.mazes import MAZES, Maze, draw_goal

__all__ = ["GOAL_RADIUS", "AntMaze", "ant_model"]

GOAL_RADIUS = 0.5  # of the torso's (x, y) from the goal [m], the bound included
FRAME_SKIP = 5  # steps of the simulator per action
START_NOISE = 0.1  # of positions: uniform within ±; of velocities: standard deviation
OBS_DIM = 29  # qpos (15), x and y included, and qvel (14)

# What differs from gymnasium.envs.mujoco's ant.xml, which has 0.01 s, gear 150 and MuJoCo's default solimp.
TIME_STEP = 0.02  # [s]
GEAR = 30.0  # torque at action 1 [N m]
SOLREF = (0.02, 1.0)  # of contacts: time constant [s], damping ratio
SOLIMP = (0.8, 0.8, 0.01)  # of contacts: impedance at both ends, width [m]
WALL_HEIGHT = 1.0  # half of it [m]
WALL_FRICTION, WALL_MARGIN = (1.0, 0.5, 0.5), 0.01  # those of the ant's own geoms


def ant_model(path: str, maze: Maze) -> "mujoco.MjSpec":
    """Return D4RL's ant in a maze, with a site "goal" that has no part in the dynamics.

    Args:
        path: of Gymnasium's ant.xml.
        maze: whose walls are added.
    """
    spec = mujoco.MjSpec.from_file(path)
    spec.option.timestep = TIME_STEP
    maze.add_walls(spec, WALL_HEIGHT)
    for geom in spec.geoms:
        geom.solref[:] = SOLREF
        geom.solimp[: len(SOLIMP)] = SOLIMP
        if geom.name.startswith("wall_"):
            geom.condim, geom.friction, geom.margin = 3, WALL_FRICTION, WALL_MARGIN
    for motor in spec.actuators:
        motor.gear[0] = GEAR
    place = [*maze.centre(maze.goal), 0.0]  # not the origin: MuJoCo would take it for fixed to the world's frame
    spec.worldbody.add_site(name="goal", pos=place, size=[GOAL_RADIUS] * 3, rgba=[0.9, 0.1, 0.1, 0.4])
    return spec


class AntMaze(MazeEnv):
    """D4RL's `antmaze-{umaze,medium,large}-…-v2` as evaluated there: the episode ends at the goal, never by a fall.

    Observation (29,): positions (15; x, y, height, quaternion, eight joints) and velocities (14). Action (8,) in
    [-1, 1]. Reward 1 where a step ends within 0.5 m of the goal, else 0.

    ``reset(options={"goal": (x, y), "start": (row, column)})`` fixes the goal, or starts in another cell. `goal` is
    the present one.

    Args:
        maze: umaze, medium or large.
        render_mode: human, rgb_array, depth_array, rgbd_tuple or None.
        **rendering: further arguments of `MujocoEnv`, such as width and height.

    Raises:
        UserError: no such maze; or, by `reset`, a start that is no free cell or a goal that is no point.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": RENDER_MODES, "render_fps": 10}

    def __init__(self, maze: str = "umaze", render_mode: str | None = None, **rendering: Any) -> None:
        super().__init__(maze, MAZES, FRAME_SKIP, OBS_DIM, render_mode, rendering)

    def reset_model(self) -> NDArray[np.float64]:
        """Draw a goal, unless one is given, and the start: noise on all positions and velocities."""
        self.place_goal(draw_goal(self.maze, self.np_random) if self.given_goal is None else self.given_goal)
        qpos = self.init_qpos + self.np_random.uniform(-START_NOISE, START_NOISE, size=self.model.nq)
        qpos[:2] += self.maze.centre(self.given_start or self.maze.start)
        self.set_state(qpos, START_NOISE * self.np_random.standard_normal(self.model.nv))
        return self.state_vector()

    def step(self, action: NDArray[np.floating]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Apply an action for 0.1 s; return observation, reward, whether the goal is reached, False, and the goal."""
        self.do_simulation(action, self.frame_skip)
        obs = self.state_vector()
        reached = bool(np.linalg.norm(obs[:2] - self.goal) <= GOAL_RADIUS)
        if self.render_mode == "human":
            self.render()
        return obs, float(reached), reached, False, {"goal": self.goal.copy(), "success": reached}

    def build_model(self) -> "mujoco.MjSpec":
        """Return the ant in its maze."""
        return ant_model(expand_model_path("ant.xml"), self.maze)
