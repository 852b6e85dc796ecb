"""D4RL's AntMaze-v2: an ant among walls, rewarded once, within half a metre of a goal that it does not observe.

D4RL's robot is Gymnasium's with other time steps, softer contacts and weaker motors, so its model is made of
Gymnasium's in code. Bit for bit D4RL 1.1's dynamics with MuJoCo 3.4.0; D4RL applies forces of ±30 with gear 1, here
actions are in [-1, 1] with gear 30. Whoever passes through the goal has reached it only if a step ends there.
"""

from typing import Any, ClassVar

import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.spaces import Box
from numpy.typing import NDArray

from mpcwdwm.envs.mazes import MAZES, Cell, Maze, draw_goal
from mpcwdwm.errors import UserError, did_you_mean

__all__ = ["GOAL_RADIUS", "AntMaze", "ant_model"]

GOAL_RADIUS = 0.5  # of the torso's (x, y) from the goal [m], the bound included
FRAME_SKIP = 5  # steps of the simulator per action
FREE_CAMERA = -1  # its place is ours to choose; the model has another one that follows the ant
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


class AntMaze(MujocoEnv):
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

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
        "render_fps": 10,
    }

    def __init__(self, maze: str = "umaze", render_mode: str | None = None, **rendering: Any) -> None:
        if maze not in MAZES:
            raise UserError(f"unknown maze '{maze}'{did_you_mean(maze, MAZES)}; known: {', '.join(MAZES)}")
        self.maze = MAZES[maze]
        self.goal = self.maze.centre(self.maze.goal)
        self._start: Cell = self.maze.start
        super().__init__(
            "ant.xml",
            FRAME_SKIP,
            Box(-np.inf, np.inf, (OBS_DIM,), np.float64),
            render_mode,
            **{"camera_id": FREE_CAMERA, "default_camera_config": self._camera(), **rendering},
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Draw a goal and a start, and return the observation and the goal."""
        chosen = options or {}
        self._start = tuple(chosen.get("start", self.maze.start))
        if self._start not in self.maze.free:
            raise UserError(f"start {self._start} is no free cell (row, column) of the maze {self.maze.rows}")
        self._given_goal = chosen.get("goal")
        return super().reset(seed=seed)

    def reset_model(self) -> NDArray[np.float64]:
        """Draw a goal, unless one is given, and the start: noise on all positions and velocities."""
        goal = draw_goal(self.maze, self.np_random) if self._given_goal is None else np.asarray(self._given_goal, float)
        if goal.shape != (2,) or not np.isfinite(goal).all():
            raise UserError(f"goal {goal} is no point: give (x, y)")
        self.goal = goal
        self.model.site("goal").pos[:2] = goal
        qpos = self.init_qpos + self.np_random.uniform(-START_NOISE, START_NOISE, size=self.model.nq)
        qpos[:2] += self.maze.centre(self._start)
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

    def _initialize_simulation(self) -> "tuple[mujoco.MjModel, mujoco.MjData]":
        model = ant_model(self.fullpath, self.maze).compile()
        model.vis.global_.offwidth, model.vis.global_.offheight = self.width, self.height
        return model, mujoco.MjData(model)

    def _get_reset_info(self) -> dict[str, Any]:
        return {"goal": self.goal.copy()}

    def _camera(self) -> dict[str, Any]:
        """Return a view of the whole maze from above."""
        corners = [self.maze.centre(cell) for cell in (self.maze.walls[0], self.maze.walls[-1])]
        x, y = np.mean(corners, axis=0)
        distance = 1.5 * float(np.max(corners[1] - corners[0]))  # MuJoCo's camera has a field of view of 45°
        return {"distance": distance, "lookat": np.array([x, y, 0.0]), "elevation": -80.0, "azimuth": 90.0}
