"""Episodes of AntMaze and PointMaze as D4RL's generators record them, in D4RL's arrays.

PointMaze: one long journey. The controller steers to a target, another one is drawn when it is reached or the limit of
steps has passed, and an episode is the way to a target (its last row a timeout; the ball goes on from there).

AntMaze: the walker follows the planner's way to a target with noise on its actions. Rewards are for one goal in the
whole file, wherever an episode heads for; an episode ends at that goal (terminal), at its own target, or by the limit
of steps (timeouts). Where it starts and heads for depends on the maze's kind, as D4RL's:

- umaze: from R to the file's goal.
- play: from any free cell to one of D4RL's hand-picked cells.
- diverse: from any free cell to any other.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpcwdwm.collecting.walker import Walker
from mpcwdwm.collecting.waypoints import PointController, nearest_free, waypoint
from mpcwdwm.config import Config, Real, setting
from mpcwdwm.data.hdf5 import Arrays
from mpcwdwm.envs.antmaze import GOAL_RADIUS, AntMaze
from mpcwdwm.envs.mazes import MAZES, Cell, Maze, draw_goal
from mpcwdwm.envs.pointmaze import PointMaze
from mpcwdwm.envs.registration import ANTMAZES, POINTMAZES
from mpcwdwm.random import derive_seed

__all__ = ["AntBehaviour", "AntEpisodes", "PointBehaviour", "PointJourney", "file_goal"]

# The hand-picked targets, (row, column): G in BIG_MAZE and HARDEST_MAZE of d4rl/locomotion/maze_env.py.
PICKED: dict[str, tuple[Cell, ...]] = {
    "medium": ((2, 6), (5, 1), (6, 5)),
    "large": ((1, 6), (3, 5), (3, 10), (5, 2), (7, 4), (7, 6), (7, 9)),
}
START_SPREAD = 1.0  # of starts within their cell, added to each coordinate [m]
TARGET_NOISE = 0.1  # of PointMaze's targets: uniform within ± [m]

Array = NDArray[np.float64]


class PointBehaviour(Config):
    """How a PointMaze set is recorded."""

    noise_sd: Real = setting(0.0, "standard deviation of noise on actions", paper="0; D4RL's noisy sets: 0.5", ge=0)


class AntBehaviour(Config):
    """How an AntMaze set is recorded."""

    noise_sd: Real = setting(0.2, "standard deviation of noise on actions", paper=0.2, ge=0)
    goal_share: Real = setting(
        0.6, "share of episodes that head for the file's goal (all of umaze's do)", paper=0, ge=0, le=1
    )


class _Journal:
    """Rows while they are recorded."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {}

    def __len__(self) -> int:
        return len(self.columns.get("obs", ()))

    def add(self, **values: Any) -> None:
        """Add a row."""
        for name, value in values.items():
            self.columns.setdefault(name, []).append(value)

    def rows(self) -> tuple[Arrays, dict[str, NDArray[Any]]]:
        """Return the columns that D4RL's layout has as `Arrays`, the others as infos."""
        taken = {name: np.array(values) for name, values in self.columns.items()}
        following = taken.pop("next_obs", None)
        arrays = Arrays(
            obs=taken.pop("obs").astype(np.float32),
            action=taken.pop("action").astype(np.float32),
            reward=taken.pop("reward").astype(np.float32),
            terminal=taken.pop("terminal"),
            timeout=taken.pop("timeout"),
            next_obs=None if following is None else following.astype(np.float32),
        )
        return arrays, taken


# ── PointMaze ─────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class PointJourney:
    """Rolls rows of PointMaze."""

    name: str  # as in `POINTMAZES`, such as umaze-v1
    behaviour: PointBehaviour

    def __call__(self, rows: int, seed: int) -> tuple[Arrays, dict[str, NDArray[Any]]]:
        """Return whole episodes of at least so many rows, and infos: goal (the episode's target), qpos, qvel."""
        maze, dense, limit = POINTMAZES[self.name]
        env, random, journal = PointMaze(maze, dense=dense), np.random.default_rng(seed), _Journal()
        controller = PointController(env.maze, random)
        obs, _ = env.reset(seed=derive_seed(seed, "reset") % 2**31)
        while len(journal) < rows:
            target = _next_target(env.maze, obs[:2], random)
            controller.head(obs[:2], target)
            for step in range(1, limit + 1):
                action, arrived = controller.act(obs[:2], obs[2:])
                noisy = action + self.behaviour.noise_sd * random.standard_normal(2)
                applied = np.clip(noisy, -1, 1).astype(np.float32)
                following, reward, *_ = env.step(applied)
                ends = arrived or step == limit
                journal.add(obs=obs, action=applied, reward=reward, terminal=False, timeout=ends)
                journal.add(goal=target, qpos=obs[:2], qvel=obs[2:])
                obs = following
                if ends:
                    break
        return journal.rows()


def _next_target(maze: Maze, position: Array, random: np.random.Generator) -> Array:
    """Return a point (2,) near the centre of a free cell, but not of the one at `position` (2,)."""
    others = [cell for cell in maze.free if cell != nearest_free(maze, position)]
    centre = maze.centre(others[random.integers(len(others))])
    return np.asarray(centre + random.uniform(-TARGET_NOISE, TARGET_NOISE, size=2))


# ── AntMaze ───────────────────────────────────────────────────────────────────


def file_goal(name: str, seed: int) -> Array:
    """Return the goal (2,) for which all rows of a set are rewarded, drawn as the evaluation draws goals."""
    return draw_goal(MAZES[ANTMAZES[name][0]], np.random.default_rng(derive_seed(seed, "file's goal")))


@dataclass(frozen=True)
class AntEpisodes:
    """Rolls rows of AntMaze."""

    name: str  # as in `ANTMAZES`, such as medium-play
    behaviour: AntBehaviour
    walker: Walker
    goal: Array  # of the whole file (2,), which alone is rewarded

    def __call__(self, rows: int, seed: int) -> tuple[Arrays, dict[str, NDArray[Any]]]:
        """Return whole episodes of at least so many rows, and infos: goal, target, qpos, qvel."""
        maze, limit = ANTMAZES[self.name]
        env, random, journal = AntMaze(maze), np.random.default_rng(seed), _Journal()
        nq = env.model.nq
        env.reset(seed=derive_seed(seed, "reset") % 2**31)
        while len(journal) < rows:
            start, target = _way(self.name, env.maze, self.goal, self.behaviour.goal_share, random)
            obs, _ = env.reset(options={"start": start, "goal": self.goal})
            if self.name != "umaze":
                obs[:2] += random.uniform(0, START_SPREAD, size=2)
                env.set_state(obs[:nq], obs[nq:])
            self.walker.start()
            for step in range(1, limit + 1):
                ahead = waypoint(env.maze, obs[:2], target) - obs[:2]
                mean = self.walker.act(obs, float(np.arctan2(ahead[1], ahead[0])))
                noise = self.behaviour.noise_sd * random.standard_normal(mean.shape)
                action = np.clip(mean + noise, -1, 1).astype(np.float32)
                following, reward, reached, *_ = env.step(action)
                arrived = np.linalg.norm(following[:2] - target) <= GOAL_RADIUS
                ends = bool(not reached and (arrived or step == limit))
                journal.add(obs=obs, action=action, reward=reward, next_obs=following, terminal=reached, timeout=ends)
                state = obs.astype(np.float32)  # D4RL's precision; in another the file would be half as large again
                journal.add(goal=self.goal, target=target, qpos=state[:nq], qvel=state[nq:])
                obs = following
                if reached or ends:
                    break
        return journal.rows()


def _way(name: str, maze: Maze, goal: Array, goal_share: float, random: np.random.Generator) -> tuple[Cell, Array]:
    """Return the cell in which an episode starts and the point (2,) that it heads for."""
    if name == "umaze":
        return maze.start, goal
    kind = name.rpartition("-")[2]
    picked = PICKED[name.removesuffix("-play")] if kind == "play" else maze.free
    starts = maze.free if kind == "diverse" else tuple(cell for cell in maze.free if cell not in picked)
    start = starts[random.integers(len(starts))]
    if random.random() < goal_share:
        return start, goal
    others = [cell for cell in picked if cell != start]
    return start, draw_goal(maze, random, others[random.integers(len(others))])
