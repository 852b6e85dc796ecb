"""Maps, places and goal regions of D4RL's mazes, against what is written of them."""

import numpy as np
import pytest

from mpcwdwm.envs.mazes import MAZES, POINT_MAZES, Maze, draw_goal

GOALS = {"umaze": (0, 8), "medium": (20, 20), "large": (32, 24)}  # centres of the goal cells [m]
FREE = {"umaze": 7, "medium": 26, "large": 46}  # cells


@pytest.mark.parametrize("name", MAZES)
def test_start_is_at_the_origin_and_the_goal_where_d4rl_has_it(name: str) -> None:
    maze = MAZES[name]
    np.testing.assert_array_equal(maze.centre(maze.start), (0, 0))
    np.testing.assert_array_equal(maze.centre(maze.goal), GOALS[name])
    assert len(maze.free) == FREE[name]
    assert len(maze.free) + len(maze.walls) == sum(map(len, maze.rows))


@pytest.mark.parametrize(
    "maze", [*MAZES.values(), *POINT_MAZES.values()], ids=[*MAZES, *map("point-{}".format, POINT_MAZES)]
)
def test_every_free_cell_can_be_reached_from_the_goal_and_the_border_is_closed(maze: Maze) -> None:
    reached, todo = {maze.goal}, [maze.goal]
    while todo:
        row, column = todo.pop()
        around = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)}
        todo += sorted(around & set(maze.free) - reached)
        reached |= around & set(maze.free)
    assert reached == set(maze.free)
    height, width = len(maze.rows), len(maze.rows[0])
    assert all(0 < row < height - 1 and 0 < column < width - 1 for row, column in maze.free)


@pytest.mark.parametrize("maze", [MAZES["medium"], POINT_MAZES["large"]], ids=["ant", "point"])
def test_a_position_belongs_to_the_cell_around_it(maze: Maze) -> None:
    for cell in maze.free:
        for corner in ((-0.45, -0.45), (0.45, 0.45), (-0.45, 0.45)):
            assert maze.cell_at(maze.centre(cell) + maze.cell * np.array(corner)) == cell


def test_a_pointmazes_position_is_a_place_on_the_map() -> None:
    maze = POINT_MAZES["large"]
    assert maze.rows[7][9] == "G"
    np.testing.assert_array_equal(maze.centre(maze.goal), (7, 9))


@pytest.mark.parametrize("name", MAZES)
def test_goals_are_drawn_as_by_d4rl(name: str) -> None:
    """A sum of U(0, 1) and U(0, 0.5), for each coordinate by itself: mean 0.75, variance (1 + 0.25) / 12."""
    random = np.random.default_rng(0)
    offsets = np.stack([draw_goal(MAZES[name], random) for _ in range(20_000)]) - GOALS[name]
    assert 0 <= offsets.min() < 0.02
    assert 1.48 < offsets.max() <= 1.5
    np.testing.assert_allclose(offsets.mean(0), 0.75, atol=0.01)
    np.testing.assert_allclose(offsets.var(0), 1.25 / 12, rtol=0.03)
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.03
    # a trapezoid: flat between 0.5 and 1, where the density is 1
    np.testing.assert_allclose(((offsets > 0.5) & (offsets < 1)).mean(0), 0.5, atol=0.015)
