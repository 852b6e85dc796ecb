"""The commands below ``mpcwdwm data``: datasets listed, fetched, checked, replayed and recorded."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpcwdwm.errors import UserError
from sweeps.execution.interrupt import EXIT_CODE, interruptible, leave

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, TaskID

    from mpcwdwm.data import Task

__all__ = ["collect_dataset", "data_app", "dataset_named"]

data_app = typer.Typer(help="List, fetch and check datasets.", no_args_is_help=True, rich_markup_mode=None)


@data_app.command("list")
def data_list() -> None:
    """Show the registered tasks and whether their dataset is there."""
    from mpcwdwm.data import TASKS
    from mpcwdwm.data.tasks import expected_path

    width = max(len(name) for name in TASKS)
    for task in TASKS.values():
        path = expected_path(task)
        there = str(path) if path.is_file() else f"mpcwdwm data get {task.name}"
        print(f"{task.name:<{width}}  {task.env_id:<33}  {there}")


@data_app.command("get")
def data_get(
    names: Annotated[list[str], typer.Argument(metavar="TASK...", help="Registered tasks.")],
    d4rl_python: Annotated[
        str | None, typer.Option("--d4rl-python", metavar="PATH", help="Have the d4rl of this Python read them.")
    ] = None,
) -> None:
    """Download datasets into D4RL's cache folder, resuming where a download stopped."""
    from rich.progress import DownloadColumn

    from mpcwdwm.data import download, find_task, read_dataset
    from mpcwdwm.data.recognised import Extent, unlike_the_original

    if d4rl_python is not None:
        _get_from_package(names, d4rl_python)
        return
    for task in [find_task(name) for name in names]:  # all names are checked before the first byte
        with _progress(DownloadColumn()) as on_progress:
            path = download(task, on_progress=partial(on_progress, task.name))
        print(path)
        if unlike := unlike_the_original(task, Extent.of(read_dataset(path))):
            print(f"note: {task.name}: the file is not D4RL's ({unlike})", file=sys.stderr)


@data_app.command("verify")
def data_verify(
    what: Annotated[str, typer.Argument(metavar="TASK_OR_FILE", help="A registered task, or an HDF5 or NPZ file.")],
    env: Annotated[str | None, typer.Option("--env", metavar="ID", help="Gymnasium id; by default the task's.")] = None,
    rows: Annotated[int, typer.Option("--rows", help="How many rows are replayed at most.")] = 5_000,
) -> None:
    """Replay rows in the environment: errors of next observation and reward; exit code 1 if they are not its rows."""
    from mpcwdwm.data.verify import recorded_env, verify

    path, task = dataset_named(what)
    env_id = env or (task.env_id if task else recorded_env(path))
    if env_id is None:
        raise UserError(f"'{path}' does not name its environment: add --env, such as --env Hopper-v4")
    found = verify(path, env_id, rows=rows)
    print(found.render())
    leave(1 if found.named else 0)


# Pieces


def collect_dataset(
    env_id: str,
    out: Path,
    *,
    kind: str | None,
    training: Path | None,
    transitions: int | None,
    noise_sd: float | None,
    goal_share: float | None,
    workers: int | None,
    **trained: str | int,
) -> None:
    """Record a dataset by the way that suits the environment; on Ctrl-C leave, with what is finished kept.

    Args:
        env_id: Gymnasium id.
        out: the HDF5 file to write.
        kind: of D4RL; needed where a policy is trained.
        training: folder of the training run.
        transitions: rows in the file, by default D4RL's.
        noise_sd: of a maze's planner.
        goal_share: of the episodes in AntMaze, that head for the rewarded goal.
        workers: pieces rolled at a time.
        **trained: fields of `cluster.collect.TrainingConfig`, the environment left out.

    Raises:
        UserError: an option is missing or does not belong to the environment, or what collecting raises.
    """
    try:
        with interruptible():
            from rich.progress import MofNCompleteColumn

            from cluster.collect import (
                KINDS,
                collect,
                collect_maze,
                is_maze,
                kind_named,
                rllib_trainer,
                training_config,
            )

            common: dict[str, Any] = {"workers": workers, "transitions": transitions}
            if is_maze(env_id):
                if kind or training:
                    raise UserError(f"{env_id} is filled by a planner: leave out --kind and --training")
                with _progress(MofNCompleteColumn()) as on_progress:
                    collect_maze(
                        env_id,
                        out,
                        seed=int(trained["seed"]),
                        noise_sd=noise_sd,
                        goal_share=goal_share,
                        on_progress=on_progress,
                        **common,
                    )
                return
            if kind is None:
                raise UserError(f"say what to record with --kind: {', '.join(KINDS)}")
            if noise_sd is not None or goal_share is not None:
                raise UserError("--noise-sd and --goal-share are for mazes: a trained policy acts with its own noise")
            chosen, config = kind_named(kind), training_config(env_id, **trained)
            with _progress(MofNCompleteColumn()) as on_progress:
                collect(chosen, config, out, rllib_trainer, training=training, on_progress=on_progress, **common)
    except KeyboardInterrupt:
        print("stopped; repeat the command to go on", file=sys.stderr)
        leave(EXIT_CODE)


def _get_from_package(names: list[str], python: str) -> None:
    """Have an installed d4rl read datasets, and print where they lie and how many transitions it forms otherwise."""
    from mpcwdwm.data import dataset_path, read_dataset
    from mpcwdwm.data.d4rl_package import Told, interpreter
    from mpcwdwm.data.recognised import Extent, unlike_the_original
    from mpcwdwm.data.tasks import package_task

    there = interpreter(python, Path())
    for task in [package_task(name, there) for name in names]:
        path = dataset_path(task)
        told = Told.recorded(path)
        print(path)
        print(f"d4rl {told.version}: {told.transitions:,} transitions, {told.otherwise:,} of them read otherwise here")
        if unlike := unlike_the_original(task, Extent.of(read_dataset(path))):
            print(f"note: {task.name}: the file is not D4RL's ({unlike})", file=sys.stderr)


def dataset_named(what: str, env: str | None = None) -> "tuple[Path, Task | None]":
    """Return the file that is meant, and the task if one is named, or made of a file and its environment."""
    from mpcwdwm.data import TASKS, dataset_path, find_task
    from mpcwdwm.data.conversion import in_d4rl_layout

    path = Path(what)
    if what not in TASKS and (os.path.exists(path) or path.suffix in (".hdf5", ".h5", ".npz")):
        plain = in_d4rl_layout(path)
        return plain, None if env is None else _task_of_file(plain, env)
    task = find_task(what)
    if env not in (None, task.env_id):
        raise UserError(f"task '{what}' has an environment, '{task.env_id}': leave --env out")
    return dataset_path(task), task


def _task_of_file(path: Path, env: str) -> "Task":
    from mpcwdwm.data import custom_task, read_dataset
    from mpcwdwm.envs.factory import check_env
    from mpcwdwm.envs.probe import check_playable

    dataset = read_dataset(path)
    check_playable(env)
    check_env(env, dataset.obs_dim, dataset.act_dim)
    return custom_task("file", path, env)


@contextmanager
def _progress(counts: "ProgressColumn") -> Iterator[Callable[[str, int, int | None], None]]:
    """Show a bar on stderr for each thing that is reported as under way; ``counts`` shows how much is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), counts, TimeRemainingColumn())
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        def report(what: str, done: int, total: int | None) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done, total=total)

        yield report
