"""The tasks of a sweep: registered ones, patterns over them, and datasets of one's own. It imports no torch."""

import fnmatch
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mpcwdwm.data import TASKS, Task, custom_task, find_task
from mpcwdwm.data.conversion import dataset_file
from mpcwdwm.data.d4rl_package import interpreter
from mpcwdwm.data.tasks import package_task
from mpcwdwm.envs.probe import import_module_of
from mpcwdwm.errors import UserError, did_you_mean
from mpcwdwm.validation import Where, dotted, shortened
from sweeps.spec.document import Document
from sweeps.spec.places import elsewhere
from sweeps.spec.reading import Reading
from sweeps.spec.schema import PackageTaskSection, TaskSection, known_keys

__all__ = ["chosen_tasks", "read_tasks"]


def read_tasks(reading: Reading) -> tuple[Task, ...]:
    """Return the tasks of a sweep, registered or of one's own, with episodes as short as it asks for.

    Raises:
        UserError: an unknown task, environment or rule, a wrong entry, the same name twice, or an override of no task;
            with file and line.
    """
    document, folder = reading.document, reading.found.folder
    # modules of one's own may lie beside the YAML; Ray's workers get this process' search path
    sys.path += [place for place in (str(folder), str(Path.cwd())) if place not in sys.path]
    tasks: dict[str, Task] = {}
    for index, entry in enumerate(reading.file.tasks):
        at: Where = ("tasks", index)
        for task in _registered(document, at, entry) or [_task(document, at, entry, folder)]:
            if task.name in tasks:
                raise document.error(at, f"task '{task.name}' is listed twice")
            tasks[task.name] = task
    _check_patterns(reading, list(tasks))
    return _within(reading.file.evaluation.max_episode_steps, tuple(tasks.values()))


def chosen_tasks(tasks: tuple[Task, ...], patterns: Sequence[str] | None) -> tuple[Task, ...]:
    """Return the tasks that match one of the patterns (of ``--tasks``); every pattern has to match some."""
    if patterns is None:
        return tasks
    if not patterns:
        raise UserError("--tasks names no task: give names or patterns, as in a,b*")
    names = [task.name for task in tasks]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"--tasks {pattern}: matches none of {', '.join(names)}{did_you_mean(pattern, names)}")
    return tuple(task for task in tasks if any(fnmatch.fnmatchcase(task.name, p) for p in patterns))


def _registered(document: Document, at: Where, entry: Any) -> list[Task]:
    """Return the registered tasks that match a pattern, as in "hopper-*-v2"; none if the entry is no pattern."""
    if not isinstance(entry, str) or not set("*?[").intersection(entry):
        return []
    if not (names := fnmatch.filter(TASKS, entry)):
        raise document.error(at, f"the pattern '{entry}' matches no registered task; `mpcwdwm data list` shows them")
    return [TASKS[name] for name in names]


def _check_patterns(reading: Reading, names: list[str]) -> None:
    """Raise UserError for the first pattern of ``overrides`` that matches no task."""
    for index, section in enumerate(reading.file.overrides):
        for position, pattern in enumerate(section.tasks):
            if not fnmatch.filter(names, pattern):
                message = f"the pattern '{pattern}' matches no task of this sweep{did_you_mean(pattern, names)}"
                raise reading.document.error(("overrides", index, "tasks", position), message)


def _within(limit: int | None, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    """Return the tasks with episodes of at most so many steps."""
    if limit is None:
        return tasks
    return tuple(replace(task, max_episode_steps=min(limit, task.max_episode_steps)) for task in tasks)


def _task(document: Document, at: Where, entry: Any, folder: Path) -> Task:
    try:
        if isinstance(entry, str):
            return find_task(entry)
        if not isinstance(entry, dict):
            raise UserError(f"{dotted(at)} should be a task's name or a mapping, not {shortened(entry)}")
        if "source" in entry:
            package = PackageTaskSection.model_validate(entry)
            return package_task(package.name, interpreter(package.python, folder))
        section = TaskSection.model_validate(entry)
        import_module_of(section.env)
        return custom_task(
            section.name,
            dataset_file(section.dataset, folder),
            section.env,
            reference=section.reference,
            termination=section.termination,
            max_episode_steps=section.max_episode_steps,
            goal_reward=section.goal_reward,
            env_kwargs=section.env_kwargs,
            columns=section.columns,
            terminals=section.terminals,
            ends=section.ends,
        )
    except ValidationError as error:
        raise document.translated(error, lambda loc: (*at, *loc), known_keys, elsewhere) from None
    except UserError as error:
        raise document.error(at, str(error)) from None
