"""Datasets of AntMaze and PointMaze, rolled in pieces by `mpcwdwm.collecting`."""

from collections.abc import Callable
from pathlib import Path

from cluster.collect.pieces import ROWS, Share, record
from mpcwdwm.collecting.navigation import AntBehaviour, AntEpisodes, PointBehaviour, PointJourney, file_goal
from mpcwdwm.collecting.walker import WalkerConfig, trained
from mpcwdwm.data.hdf5 import MIN_ROWS
from mpcwdwm.data.writing import refuse_unfit_target
from mpcwdwm.envs.factory import env_spec
from mpcwdwm.errors import UserError

__all__ = ["collect_maze", "is_maze"]

POINT, ANT = "mpcwdwm/PointMaze-", "mpcwdwm/AntMaze-"

OnProgress = Callable[[str, int, int], None]


def is_maze(env_id: str) -> bool:
    """Return whether `collect_maze` records rows of this Gymnasium id."""
    return env_id.startswith((POINT, ANT))


def collect_maze(
    env_id: str,
    out: Path | str,
    *,
    seed: int,
    transitions: int | None = None,
    noise_sd: float | None = None,
    goal_share: float | None = None,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Record rows of a maze in a file; the same arguments and versions give the same file.

    Args:
        env_id: of AntMaze or PointMaze, one for which `is_maze` holds.
        out: the HDF5 file to be written.
        seed: of starts, targets and noise; in AntMaze also of the goal that is rewarded.
        transitions: rows in the file, by default D4RL's million.
        noise_sd: standard deviation of the noise on actions; by default D4RL's: 0 in PointMaze, 0.2 in AntMaze.
        goal_share: in AntMaze, but for umaze, share of episodes that head for the rewarded goal; by default 0.6.
        workers: pieces rolled at a time, by default as many as there are CPUs.
        on_progress: called with what is being done, how much is done, and how much there is.

    Raises:
        UserError: there is no such environment, the numbers make no sense, or the file exists or cannot be written.
    """
    env_spec(env_id)
    rows = ROWS if transitions is None else transitions
    if rows < MIN_ROWS:
        raise UserError(f"transitions must be at least {MIN_ROWS}, not {rows}")
    if seed < 0:
        raise UserError(f"seed must be 0 or more, not {seed}")
    if noise_sd is not None and not 0 <= noise_sd < float("inf"):
        raise UserError(f"noise-sd must be 0 or more, not {noise_sd}")
    if goal_share is not None and not env_id.startswith(ANT):
        raise UserError(f"goal-share is for AntMaze: leave it out with {env_id}")
    if goal_share is not None and not 0 <= goal_share <= 1:
        raise UserError(f"goal-share must lie between 0 and 1, not {goal_share}")
    refuse_unfit_target(out)
    given = {"noise_sd": noise_sd, "goal_share": goal_share}
    chosen = {name: float(value) for name, value in given.items() if value is not None}
    request: dict[str, str | int | float] = {"env_id": env_id, "seed": seed, "transitions": rows}
    if env_id.startswith(POINT):
        wanders = PointBehaviour(**chosen)
        share = Share(PointJourney(env_id.removeprefix(POINT), wanders), rows)
        request |= wanders.to_dict()
        request["provenance"] = (
            "waypoint controller from target to target (infos/goal), where episodes end;"
            " rewards are for the maze's goal"
        )
    else:
        name, behaviour, walker = env_id.removeprefix(ANT).removesuffix("-v2"), AntBehaviour(**chosen), WalkerConfig()
        goal = file_goal(name, seed)
        report = None if on_progress is None else lambda done, total: on_progress("training the walker", done, total)
        share = Share(AntEpisodes(name, behaviour, trained(walker, report), goal), rows)
        request |= behaviour.to_dict() | {f"walker_{field}": value for field, value in walker.to_dict().items()}
        request |= {"goal_x": float(goal[0]), "goal_y": float(goal[1])}
        request["provenance"] = (
            "PPO walker steered by a planner to the episode's target (infos/target), mean action + noise;"
            " rewards are for the file's goal (infos/goal), where episodes end"
        )
    record([share], out, request, seed=seed, workers=workers, on_progress=on_progress)
