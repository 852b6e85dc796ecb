"""Ways through a maze: shortest paths over free cells, and the point to head for next.

Two planners: D4RL's controller of PointMaze follows the centres of a path's cells one by one, pushing the ball towards
each as a spring with a damper would. AntMaze's planner names a direction for the walker, and looks one cell further
where the straight way is clear, so that corners are cut.
"""

from collections import deque
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mpcwdwm.envs.mazes import Cell, Maze

__all__ = ["PointController", "is_clear", "nearest_free", "shortest_path", "waypoint"]

# d4rl/pointmaze/waypoint_controller.py, d4rl 1.1
GAIN, DAMPING = 10.0, 1.0  # force per distance [1/m] and per speed [s/m]
ARRIVED = 0.1  # from a waypoint [m]
STRAY = 0.2  # waypoints before the last are moved by up to this towards the origin [m], as the ball is shifted

CLEARANCE = 1.0  # that the ant's straight way keeps from walls [m]
NEAR = 2  # cells from the target, within which the ant heads for the target itself
SAMPLES_PER_CELL = 8  # at which the straight way is examined

Array = NDArray[np.float64]


def shortest_path(maze: Maze, start: Cell, target: Cell) -> list[Cell]:
    """Return the cells of a shortest path, by steps to the four neighbours, both ends included.

    Raises:
        ValueError: one of the two is no free cell, or no path leads there.
    """
    steps = _steps_to(maze, target)
    if start not in steps:
        raise ValueError(f"no way from {start} to {target} in the maze {maze.rows}")
    path = [start]
    while path[-1] != target:
        path.append(min(_neighbours(maze, path[-1]), key=lambda cell: steps.get(cell, len(steps))))
    return path


@cache
def _steps_to(maze: Maze, target: Cell) -> dict[Cell, int]:
    """Return how many steps every cell is from the target, breadth first."""
    steps = {target: 0} if target in maze.free else {}
    todo = deque(steps)
    while todo:
        cell = todo.popleft()
        for neighbour in _neighbours(maze, cell):
            if neighbour not in steps:
                steps[neighbour] = steps[cell] + 1
                todo.append(neighbour)
    return steps


def _neighbours(maze: Maze, cell: Cell) -> list[Cell]:
    row, column = cell
    around = [(row, column - 1), (row, column + 1), (row + 1, column), (row - 1, column)]
    return [place for place in around if maze.rows[place[0]][place[1]] != "#"]


def nearest_free(maze: Maze, position: Array) -> Cell:
    """Return the free cell that holds a position (2,), or whose centre is nearest to it."""
    cell = maze.cell_at(position)
    if cell in maze.free:
        return cell
    return min(maze.free, key=lambda free: float(np.linalg.norm(maze.centre(free) - position)))


# ── The ant's planner ─────────────────────────────────────────────────────────


def waypoint(maze: Maze, position: Array, goal: Array) -> Array:
    """Return the point (2,) that the ant at `position` (2,) is to head for on its way to `goal` (2,).

    The goal itself within two cells and in plain sight; else the centre of the next cell but one, if the straight way
    there keeps a metre from walls; else that of the next cell.
    """
    path = shortest_path(maze, nearest_free(maze, position), nearest_free(maze, goal))
    if len(path) <= NEAR + 1 and (len(path) <= NEAR or is_clear(maze, position, goal)):
        return goal
    if is_clear(maze, position, maze.centre(path[2])):
        return maze.centre(path[2])
    return maze.centre(path[1])


def is_clear(maze: Maze, start: Array, end: Array) -> bool:
    """Return whether the straight way between two points (2,) keeps a metre from all walls."""
    samples = max(2, round(SAMPLES_PER_CELL * float(np.linalg.norm(end - start)) / maze.cell))
    way = np.linspace(start, end, samples)  # (samples, 2)
    beyond = np.maximum(np.abs(way[:, None] - _wall_centres(maze)) - maze.cell / 2, 0.0)  # from a wall's nearest face
    return bool((np.linalg.norm(beyond, axis=2) >= CLEARANCE).all())


@cache
def _wall_centres(maze: Maze) -> Array:
    return np.array([maze.centre(cell) for cell in maze.walls])  # (walls, 2)


# ── The ball's controller ─────────────────────────────────────────────────────


class PointController:
    """D4RL's controller of PointMaze: waypoints in the cells of a shortest path, and a force towards the next.

    Args:
        maze: a map of PointMaze.
        random: moves waypoints a little.
    """

    def __init__(self, maze: Maze, random: np.random.Generator) -> None:
        self.maze, self.random = maze, random
        self.waypoints: list[Array] = []

    def head(self, position: Array, goal: Array) -> None:
        """Plan the way from a position (2,) to the centre of the cell that holds the goal (2,)."""
        path = shortest_path(self.maze, nearest_free(self.maze, position), self.maze.cell_at(goal))
        centres = [self.maze.centre(cell) for cell in path[1:] or path]
        self.waypoints = [centre - self.random.uniform(0, STRAY, size=2) for centre in centres[:-1]] + centres[-1:]

    def act(self, position: Array, velocity: Array) -> tuple[Array, bool]:
        """Return the action (2,), within [-1, 1], and whether the last waypoint has been reached."""
        while np.linalg.norm(self.waypoints[0] - position) < ARRIVED:
            if len(self.waypoints) == 1:
                return self._push(position, velocity), True
            self.waypoints.pop(0)
        return self._push(position, velocity), False

    def _push(self, position: Array, velocity: Array) -> Array:
        return np.clip(GAIN * (self.waypoints[0] - position) - DAMPING * velocity, -1, 1)
