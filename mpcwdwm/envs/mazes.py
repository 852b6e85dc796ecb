"""D4RL's mazes: maps, the places of their cells, the regions goals are drawn from, and walls in a MuJoCo model.

Positions are (x, y) in metres. In AntMaze the start cell R is centred at the origin, columns run along x and rows along
y. In PointMaze (D4RL's maze2d) a position is a place on the map: rows run along x, columns along y, and the centre of
cell (1, 2) is (1, 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import mujoco
import numpy as np
from numpy.typing import NDArray

__all__ = ["MAZES", "POINT_MAZES", "Cell", "Maze", "draw_goal"]

CELL = 4.0  # side of a cell of AntMaze [m]
POINT_CELL = 1.0  # of PointMaze [m]
# The two draws that D4RL adds to each coordinate of a goal: where in the cell, and noise of the goal itself.
GOAL_OFFSET, GOAL_NOISE = 0.25 * CELL, 0.125 * CELL  # [m]

Cell = tuple[int, int]
"""(row, column) of a map."""


@dataclass(frozen=True)
class Maze:
    """A map of cells: # wall, . free, R start, G goal."""

    rows: tuple[str, ...]
    cell: float = CELL  # side of a cell [m]
    rows_along: Literal["x", "y"] = "y"
    at_origin: Cell | None = None  # the cell centred at (0, 0); None: R

    @cached_property
    def start(self) -> Cell:
        """The cell R; a map without one has no fixed start."""
        return self._only("R")

    @cached_property
    def origin(self) -> Cell:
        """The cell centred at (0, 0)."""
        return self.start if self.at_origin is None else self.at_origin

    @cached_property
    def goal(self) -> Cell:
        """The cell that goals are drawn in."""
        return self._only("G")

    @cached_property
    def free(self) -> tuple[Cell, ...]:
        """The cells without a wall, row by row."""
        return self._cells(free=True)

    @cached_property
    def walls(self) -> tuple[Cell, ...]:
        """The cells filled by a wall, row by row."""
        return self._cells(free=False)

    def centre(self, cell: Cell) -> NDArray[np.float64]:
        """Return a cell's centre: (2,)."""
        steps = np.subtract(cell, self.origin).astype(np.float64)
        return self.cell * (steps if self.rows_along == "x" else steps[::-1])

    def cell_at(self, position: Sequence[float] | NDArray[np.floating]) -> Cell:
        """Return the cell that holds a position."""
        steps = np.rint(np.asarray(position[:2]) / self.cell).astype(int)
        rows, columns = steps if self.rows_along == "x" else steps[::-1]
        return int(rows) + self.origin[0], int(columns) + self.origin[1]

    def add_walls(self, spec: "mujoco.MjSpec", height: float, *, bottom: float = 0.0) -> None:
        """Add a box of this half height [m], standing on z = bottom, for every wall cell."""
        for cell in self.walls:
            x, y = self.centre(cell)
            spec.worldbody.add_geom(
                name=f"wall_{cell[0]}_{cell[1]}",
                type=mujoco.mjtGeom.mjGEOM_BOX,
                pos=[x, y, bottom + height],
                size=[self.cell / 2, self.cell / 2, height],
                contype=1,
                conaffinity=1,
            )

    def _only(self, letter: str) -> Cell:
        [found] = [(i, row.index(letter)) for i, row in enumerate(self.rows) if letter in row]
        return found

    def _cells(self, *, free: bool) -> tuple[Cell, ...]:
        return tuple((i, j) for i, row in enumerate(self.rows) for j, mark in enumerate(row) if (mark != "#") == free)


MAZES = {
    "umaze": Maze(("#####", "#R..#", "###.#", "#G..#", "#####")),
    "medium": Maze(
        ("########", "#R.##..#", "#..#...#", "##...###", "#..#...#", "#.#..#.#", "#...#.G#", "########"),
    ),
    "large": Maze(
        (
            "############",
            "#R...#.....#",
            "#.##.#.#.#.#",
            "#......#...#",
            "#.####.###.#",
            "#..#.#.....#",
            "##.#.#.#.###",
            "#..#...#.G.#",
            "############",
        ),
    ),
}
"""Name, as in D4RL's tasks → maze. D4RL's own maps have the same walls and start; G is where its -v2 goals are."""


def _point_maze(*rows: str) -> Maze:
    return Maze(rows, POINT_CELL, rows_along="x", at_origin=(0, 0))


POINT_MAZES = {
    "open": _point_maze("#######", "#.....#", "#..G..#", "#.....#", "#######"),
    "umaze": _point_maze("#####", "#G..#", "###.#", "#...#", "#####"),
    "medium": _point_maze(
        *("########", "#..##..#", "#..#...#", "##...###", "#..#...#", "#.#..#.#", "#...#.G#", "########"),
    ),
    "large": _point_maze(
        "############",
        "#....#.....#",
        "#.##.#.#.#.#",
        "#......#...#",
        "#.####.###.#",
        "#..#.#.....#",
        "##.#.#.#.###",
        "#..#...#.G.#",
        "############",
    ),
}
"""Name, as in D4RL's maze2d tasks → maze. Starts are anywhere in it, G is the goal of every evaluation."""


def draw_goal(maze: Maze, random: np.random.Generator, cell: Cell | None = None) -> NDArray[np.float64]:
    """Return a goal (2,) as D4RL's AntMaze-v2 draws one at every reset.

    Each coordinate is that of the centre of G (or another cell) plus one uniform draw from [0, 1] and one from
    [0, 0.5], but not below 0.
    """
    offset, noise = random.uniform(0, GOAL_OFFSET, size=2), random.uniform(0, GOAL_NOISE, size=2)
    return np.maximum(maze.centre(maze.goal if cell is None else cell) + offset + noise, 0.0)
