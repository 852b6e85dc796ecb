"""Tasks: a dataset, the environment its policies are judged in, and the scale of their scores.

The registry is data: `tables/tasks.csv` lists D4RL's 18 Gym-MuJoCo -v2, 6 AntMaze -v2 and 8 PointMaze (maze2d) tasks
(addresses and reference scores as in D4RL's `infos.py`) and the dataset bundled with the package; `tables/robots.csv`
holds what all tasks of a robot have in common. Any HDF5 file in the same layout together with a Gymnasium
id becomes a task through `custom_task`.
"""

import csv
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from mpcwdwm.data.conversion import COLUMNS, in_d4rl_layout
from mpcwdwm.data.d4rl_package import ask_d4rl, package_path
from mpcwdwm.data.ends import EndsBy, TerminalsBy, reread
from mpcwdwm.data.fingerprint import sha256_of
from mpcwdwm.data.sidecar import verify_or_record
from mpcwdwm.data.whole import check_whole
from mpcwdwm.errors import UserError, did_you_mean
from mpcwdwm.paths import user_path

__all__ = ["ROBOTS", "TASKS", "Robot", "Task", "custom_task", "dataset_path", "find_task", "package_task", "robot_of"]

HERE = Path(__file__).parent
# Names become parts of folder names and table rows.
TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Task:
    """A dataset with the environment it is judged in."""

    name: str
    env_id: str  # Gymnasium id
    source: Literal["d4rl", "bundled", "local"]
    path: Path | None  # where the file lies; None: in D4RL's folder, under the last part of `url`
    url: str | None  # address of the original, of D4RL's tasks
    reference: tuple[float, float] | None  # D4RL's (min, max) return; None: no normalized score
    termination: str | None  # name of a rule in mpcwdwm.envs.termination.RULES; None: unknown
    max_episode_steps: int
    goal_reward: float | None = None  # a step that earns more has reached the goal; None: there is none
    columns: tuple[tuple[str, str], ...] = ()  # D4RL's name → the file's, of arrays that have another
    env_kwargs: Mapping[str, JsonValue] = field(default_factory=dict, hash=False)  # what the environment is made with
    python: str | None = None  # an interpreter whose d4rl gives the dataset; None: D4RL's file is read here
    terminals: TerminalsBy = "file"  # whose word counts: the file's flags, or the termination rule's
    ends: EndsBy = "flags"  # where episodes end: at flags, or at jumps of the observation, too


@dataclass(frozen=True)
class Robot:
    """What is known of a robot, whatever the version of its environment.

    AntMaze has no termination rule: a fall ends no episode, and the goal that does is not observed. Its reward is.
    """

    termination: str | None
    reference: tuple[float, float]
    max_episode_steps: int
    goal_reward: float | None


# ── The registry ──────────────────────────────────────────────────────────────


def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file in `mpcwdwm/data/tables`."""
    with (HERE / "tables" / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _robot(row: dict[str, str]) -> Robot:
    """Return what a row of robots.csv or tasks.csv says."""
    reference = float(row["reference_min"]), float(row["reference_max"])
    goal_reward = float(row["goal_reward"]) if row["goal_reward"] else None
    return Robot(row["termination"] or None, reference, int(row["max_episode_steps"]), goal_reward)


_ROWS = {row["name"]: row for row in read_table("tasks.csv")}
ROBOTS: dict[str, Robot] = {row["robot"]: _robot(row) for row in read_table("robots.csv")}
"""Name, as in Gymnasium's ids → robot."""


def robot_of(env_id: str) -> Robot | None:
    """Return what is known of the robot of an id (``Hopper-v4``, ``mpcwdwm/AntMaze-umaze-v2``), None if nothing is.

    PointMaze's reference returns differ between its mazes: there the registered task of the id is asked.
    """
    match = re.fullmatch(r"(\w+)-v\d+", env_id) or re.fullmatch(r"mpcwdwm/(\w+)-[\w-]+-v\d+", env_id)
    if match and match[1] in ROBOTS:
        return ROBOTS[match[1]]
    return next((_robot(row) for row in _ROWS.values() if row["env_id"] == env_id and row["reference_max"]), None)


def _registered(row: dict[str, str]) -> Task:
    """Return the task that a row of tasks.csv describes."""
    bundled = row["source"] == "bundled"
    robot = _robot(row) if row["reference_max"] else ROBOTS[row["env_id"].partition("-")[0]]
    return Task(
        name=row["name"],
        env_id=row["env_id"],
        source="bundled" if bundled else "d4rl",
        path=HERE / "bundled" / row["file"] if bundled else None,
        url=row["url"] or None,
        reference=robot.reference,
        termination=robot.termination,
        max_episode_steps=robot.max_episode_steps,
        goal_reward=robot.goal_reward,
    )


TASKS: dict[str, Task] = {name: _registered(row) for name, row in _ROWS.items()}
"""Name → task, for every registered task."""


def find_task(name: str) -> Task:
    """Return the registered task of that name.

    Raises:
        UserError: there is none; the nearest name is suggested, and a path is recognised as such.
    """
    if name in TASKS:
        return TASKS[name]
    if "/" in name or name.endswith((".hdf5", ".h5")):
        raise UserError(f"task '{name}' is a path: write {{name: my-task, dataset: {name}, env: Hopper-v4}} instead")
    raise UserError(f"unknown task '{name}'{did_you_mean(name, TASKS)}; `mpcwdwm data list` shows the known ones")


def package_task(name: str, python: str) -> Task:
    """Return D4RL's registered task of that name, with the dataset as the d4rl of an interpreter reads it.

    Raises:
        UserError: there is no such task, or it is not one of D4RL's.
    """
    task = find_task(name)
    if task.source != "d4rl":
        raise UserError(f"task '{name}' is not one of D4RL's: leave out source and python")
    return replace(task, path=package_path(name, python), python=python)


# ── Bring your own dataset ────────────────────────────────────────────────────


def custom_task(
    name: str,
    dataset: Path | str,
    env: str,
    *,
    reference: tuple[float, float] | None = None,
    termination: str | None = None,
    max_episode_steps: int | None = None,
    goal_reward: float | None = None,
    columns: Mapping[str, str] | None = None,
    env_kwargs: Mapping[str, JsonValue] | None = None,
    terminals: TerminalsBy = "file",
    ends: EndsBy = "flags",
) -> Task:
    """Return the task made of a dataset and a Gymnasium id.

    The dataset is HDF5 in D4RL's layout, or one that `mpcwdwm.data.conversion` rewrites in it; ``columns``: D4RL's name
    of an array → the file's; ``terminals`` and ``ends``: how its flags are read (`mpcwdwm.data.ends`).

    What is not given is taken from what is known of the robot (HalfCheetah, Hopper, Walker2d, Ant, AntMaze,
    PointMaze), the number of steps from Gymnasium's registration. The file need not exist yet; `dataset_path` checks.
    Nothing but that is known of an environment made with ``env_kwargs``, which may change rules and rewards.
    A step that earns more than ``goal_reward`` [data's unit] has reached the goal, and ends imagined rollouts.

    Raises:
        UserError: unfit name, unknown environment or rule, impossible reference or number of steps.
    """
    from mpcwdwm.envs.factory import env_spec  # imports gymnasium, which the registry does not need

    if not TASK_NAME.fullmatch(name):
        raise UserError(f"task name '{name}' may contain only letters, digits and . _ + -")
    if name in TASKS:
        raise UserError(f"task name '{name}' belongs to a registered task: give your dataset another name")
    robot, spec = None if env_kwargs else robot_of(env), env_spec(env)
    if termination is not None:
        from mpcwdwm.envs.termination import RULES  # imports torch

        try:
            RULES[termination]
        except UserError as error:
            raise UserError(f"task '{name}': {error}") from None
    if reference is not None:
        low, high = reference
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UserError(f"task '{name}': reference must be (lowest, highest) return, not ({low}, {high})")
        reference = (float(low), float(high))
    steps = max_episode_steps or spec.max_episode_steps or (robot.max_episode_steps if robot else None)
    if steps is None or steps < 1:
        raise UserError(f"task '{name}': environment '{env}' has no time limit, give max_episode_steps (at least 1)")
    return Task(
        name=name,
        env_id=env,
        source="local",
        path=user_path(dataset),
        url=None,
        reference=reference or (robot.reference if robot else None),
        termination=termination or (robot.termination if robot else None),
        max_episode_steps=steps,
        goal_reward=robot.goal_reward if goal_reward is None and robot else goal_reward,
        columns=tuple(sorted((columns or {}).items())),
        env_kwargs=dict(env_kwargs or {}),
        terminals=terminals,
        ends=ends,
    )


# ── Where the file lies ───────────────────────────────────────────────────────


def expected_path(task: Task) -> Path:
    """Return where the task's file lies or has to be put; D4RL's: ``$D4RL_DATASET_DIR`` or ``~/.d4rl/datasets``."""
    if task.path is not None:
        return task.path
    assert task.url is not None
    return user_path(os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets") / task.url.rsplit("/", 1)[1]


def dataset_path(task: Task) -> Path:
    """Return the path of the task's dataset, which exists and is the one seen before.

    A D4RL file's size and hash are recorded beside it at first use (see `mpcwdwm.data.sidecar`) and
    compared from then on; the bundled file's hash is part of the registry; a local file may change.

    Raises:
        UserError: the file is absent (the message says what to put where) or has changed; or d4rl does not give it.
    """
    path = expected_path(task)
    if task.python is not None and not os.path.exists(path):
        ask_d4rl(task.name, task.python, task.max_episode_steps)
    if not os.path.isfile(path):
        if os.path.exists(path):
            raise UserError(f"dataset of task '{task.name}': '{path}' is not a file")
        if task.source == "d4rl":
            raise UserError(
                f"dataset of task '{task.name}' is not at '{path}': run `mpcwdwm data get {task.name}`,"
                f" or put the file from {task.url} there"
            )
        also = "; download it, a dataset is a file" if ":/" in str(task.path) else ""
        raise UserError(f"dataset of task '{task.name}' not found: '{path}'{also}")
    if task.source == "d4rl":
        check_whole(path, COLUMNS)
        verify_or_record(path, task.url)
    if task.source == "bundled" and (found := sha256_of(path)) != _ROWS[task.name]["sha256"]:
        raise UserError(f"'{path}' is damaged (sha256 {found[:12]}…): install mpcwdwm again")
    if task.source != "local":
        return path
    plain = in_d4rl_layout(path, dict(task.columns))
    return reread(plain, terminals=task.terminals, ends=task.ends, rule=task.termination)
