"""What D4RL's mazes have in common as environments: a goal, a start, and a view of the whole maze from above."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.spaces import Box
from numpy.typing import ArrayLike, NDArray

from mpcwdwm.envs.mazes import Cell, Maze
from mpcwdwm.errors import UserError, did_you_mean

__all__ = ["RENDER_MODES", "MazeEnv"]

RENDER_MODES = ["human", "rgb_array", "depth_array", "rgbd_tuple"]
FREE_CAMERA = -1  # its place is ours to choose; the ant's model has another one that follows the ant
GOAL = "goal"  # the site that shows it


class MazeEnv(MujocoEnv):
    """A robot on MuJoCo in a maze.

    ``reset(options={"goal": (x, y), "start": (row, column)})`` fixes the goal and the cell of the start for one
    episode. `goal` is the present one, (2,) in metres.

    Args:
        maze: name of a maze.
        mazes: name → maze.
        frame_skip: steps of the simulator per action.
        obs_dim: qpos and qvel, entirely.
        render_mode: human, rgb_array, depth_array, rgbd_tuple or None.
        rendering: further arguments of `MujocoEnv`, such as width and height.

    Raises:
        UserError: no such maze; or, by `reset`, a start that is no free cell or a goal that is no point.
    """

    def __init__(
        self,
        maze: str,
        mazes: Mapping[str, Maze],
        frame_skip: int,
        obs_dim: int,
        render_mode: str | None,
        rendering: dict[str, Any],
    ) -> None:
        if maze not in mazes:
            raise UserError(f"unknown maze '{maze}'{did_you_mean(maze, mazes)}; known: {', '.join(mazes)}")
        self.maze = mazes[maze]
        self.goal = self.maze.centre(self.maze.goal)
        self.given_start: Cell | None = None
        self.given_goal: ArrayLike | None = None
        super().__init__(
            __file__,  # the model is made in code, but a path of an existing file is asked for
            frame_skip,
            Box(-np.inf, np.inf, (obs_dim,), np.float64),
            render_mode,
            **{"camera_id": FREE_CAMERA, "default_camera_config": self._camera(), **rendering},
        )

    @abstractmethod
    def build_model(self) -> "mujoco.MjSpec":
        """Return the robot in `maze`, with a site "goal"."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Draw what is not given of goal and start, and return the observation and the goal."""
        chosen = options or {}
        self.given_start = tuple(chosen["start"]) if "start" in chosen else None
        if self.given_start is not None and self.given_start not in self.maze.free:
            raise UserError(f"start {self.given_start} is no free cell (row, column) of the maze {self.maze.rows}")
        self.given_goal = chosen.get("goal")
        return super().reset(seed=seed)

    def place_goal(self, goal: ArrayLike) -> None:
        """Put the goal at (x, y) [m]; raises UserError if that is no point."""
        place = np.asarray(goal, dtype=np.float64)
        if place.shape != (2,) or not np.isfinite(place).all():
            raise UserError(f"goal {place} is no point: give (x, y)")
        self.goal = place
        self.model.site(GOAL).pos[:2] = place

    def _initialize_simulation(self) -> "tuple[mujoco.MjModel, mujoco.MjData]":
        model = self.build_model().compile()
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
