"""Ways through mazes drawn by hand, and a controller that follows them."""

import numpy as np
import pytest

from mpcwdwm.collecting.waypoints import PointController, is_clear, nearest_free, shortest_path, waypoint
from mpcwdwm.envs.mazes import MAZES, POINT_MAZES, Maze
from mpcwdwm.envs.pointmaze import PointMaze

FORK = Maze(
    (
        "########",
        "#R.....#",
        "#.####.#",
        "#.#..#.#",
        "#.##.#.#",
        "#......#",
        "########",
    )
)
CLOSED = Maze(("#####", "#R#G#", "#####"))


def test_a_path_is_the_shortest_and_never_crosses_a_wall() -> None:
    left = [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (5, 2), (5, 3), (5, 4), (4, 4), (3, 4), (3, 3)]
    assert shortest_path(FORK, (1, 1), (3, 3)) == left
    right = [(1, 6), (2, 6), (3, 6), (4, 6), (5, 6), (5, 5), (5, 4), (4, 4), (3, 4), (3, 3)]
    assert shortest_path(FORK, (1, 6), (3, 3)) == right
    assert shortest_path(FORK, (1, 1), (1, 1)) == [(1, 1)]


@pytest.mark.parametrize("target", [(1, 3), (0, 0)])
def test_where_no_way_leads_an_error_is_raised(target: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"no way from \(1, 1\) to"):
        shortest_path(CLOSED, (1, 1), target)


@pytest.mark.parametrize("name", MAZES)
def test_paths_between_all_cells_have_the_length_of_floyd_and_warshall(name: str) -> None:
    maze = MAZES[name]
    cells = np.array(maze.free)
    apart = np.abs(cells[:, None] - cells).sum(-1)
    length = np.where(apart <= 1, apart, 1000)
    for via in range(len(cells)):
        length = np.minimum(length, length[:, [via]] + length[[via]])
    for i, start in enumerate(maze.free):
        for j, target in enumerate(maze.free):
            path = np.array(shortest_path(maze, start, target))
            assert len(path) == length[i, j] + 1
            assert (np.abs(np.diff(path, axis=0)).sum(1) == 1).all()
            assert set(map(tuple, path.tolist())) <= set(maze.free)


def test_a_way_is_clear_if_it_keeps_a_metre_from_walls() -> None:
    maze = MAZES["umaze"]  # free cells along x at y = 0, the wall below the first two begins at y = 2
    assert is_clear(maze, np.array([0.0, 0.0]), np.array([8.0, 0.9]))
    assert not is_clear(maze, np.array([0.0, 0.0]), np.array([4.0, 1.1]))
    assert not is_clear(maze, np.array([4.0, 0.0]), np.array([8.0, 8.0]))  # through the wall's corner


def test_the_ant_heads_for_the_goal_nearby_else_for_the_farthest_cell_that_is_in_plain_sight() -> None:
    maze, goal = MAZES["umaze"], np.array([0.9, 8.9])
    np.testing.assert_array_equal(waypoint(maze, np.zeros(2), goal), (8, 0))
    np.testing.assert_array_equal(waypoint(maze, np.array([5.0, 0.0]), goal), (8, 0))  # not round the corner
    np.testing.assert_array_equal(waypoint(maze, np.array([8.0, 0.5]), goal), (8, 8))
    np.testing.assert_array_equal(waypoint(maze, np.array([8.0, 8.0]), goal), goal)
    np.testing.assert_array_equal(waypoint(maze, np.array([0.5, 8.0]), goal), goal)


def test_a_position_over_a_wall_belongs_to_the_nearest_free_cell() -> None:
    assert nearest_free(MAZES["umaze"], np.array([4.5, 2.1])) == (1, 2)
    assert nearest_free(MAZES["umaze"], np.array([4.5, 1.9])) == (1, 2)


@pytest.mark.parametrize("name", POINT_MAZES)
def test_the_controller_reaches_every_target(name: str) -> None:
    random = np.random.default_rng(0)
    env = PointMaze(name)
    controller = PointController(env.maze, random)
    for _ in range(15):
        obs, _ = env.reset(seed=int(random.integers(1000)))
        target = env.maze.centre(env.maze.free[random.integers(len(env.maze.free))])
        controller.head(obs[:2], target)
        for _ in range(800):
            action, arrived = controller.act(obs[:2], obs[2:])
            assert np.abs(action).max() <= 1
            if arrived:
                break
            obs, *_ = env.step(action)
        assert np.linalg.norm(obs[:2] - target) < 0.1
