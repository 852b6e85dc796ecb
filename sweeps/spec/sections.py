"""The sections of a sweep's YAML, each read into what `sweeps.spec.spec.Spec` holds.

Also what the command line changes before that: ``--set`` values take their place in the document
as if they stood there, only that messages name the flag instead of a line.
"""

import fnmatch
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from analysis.mlflow_store import check_tracking_uri
from mpcwdwm.components import COMPONENTS
from mpcwdwm.components.registry import check_policy
from mpcwdwm.data import Task, custom_task, find_task
from mpcwdwm.errors import UserError, did_you_mean
from mpcwdwm.planning import PLANNERS
from sweeps.spec.document import Document, Where, dotted, parse_value, shortened
from sweeps.spec.grid import Settings, aliases, read_settings
from sweeps.spec.schema import Resources, SpecFile, TaskSection, known_keys

__all__ = [
    "Layer",
    "Owner",
    "fitted",
    "read_baselines",
    "read_layer",
    "read_overrides",
    "read_tasks",
    "set_value",
    "storage_place",
    "tracking_uri",
    "use_full_names",
]

GPU_SHARE = 0.25  # of a GPU for each actor and trial by default: the networks are small, four fit on one

# What the flags change


def _full_name(at: Where) -> Where:
    """Return the place with a short field name (H) replaced by the field's own (horizon)."""
    inside = at[2:] if at[:1] == ("overrides",) else at
    if len(inside) != 3 or inside[0] not in ("components", "planners"):
        return at
    if inside[0] == "components":
        return at  # their fields have no short names
    classes = [PLANNERS[kind].config_class for kind in PLANNERS.own]
    short = {alias: name for config_class in classes for name, alias in aliases(config_class).items()}
    return (*at[:-1], short.get(str(at[-1]), at[-1]))


def use_full_names(document: Document) -> None:
    """Replace the short names H, M and E throughout; a field given under both names is an error."""
    for at in [place for place in document.keys if _full_name(place) != place]:
        full = _full_name(at)
        if full in document.keys:
            message = f"{dotted(at[:-1])} has both '{at[-1]}' and '{full[-1]}', two names of one setting"
            raise document.error(at, message, key=True)
        document.rename(at, str(full[-1]))


def set_value(document: Document, given: str) -> None:
    """Apply one ``--set planners.mpc.horizon=[1, 3]``."""
    source = f"--set {given}"
    name, equals, text = given.partition("=")
    if not equals or not name.strip():
        raise UserError(f"{source}: expected key=value, such as evaluation.episodes=20")
    document.assign(_full_name(_steps(document, name.strip())), parse_value(text, source), source)


def _steps(document: Document, name: str) -> Where:
    """Split a dotted name into steps; a key that itself contains dots is found if it is there."""
    parts, steps = name.split("."), []
    value: Any = document.data
    while parts:
        length = 1
        if isinstance(value, dict):
            there = [n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in value]
            length = there[0] if there else 1
        step: str | int = ".".join(parts[:length])
        if isinstance(value, list) and parts[0].isdecimal():
            step = int(parts[0])
        steps.append(step)
        parts = parts[length:]
        known = isinstance(value, dict) and step in value
        known = known or (isinstance(value, list) and isinstance(step, int) and step < len(value))
        value = value[step] if known else None
    return tuple(steps)


# The sections


Owner = tuple[str, str]
"""Whose settings they are: ("planners", "mpc")."""


@dataclass(frozen=True)
class Layer:
    """Settings for the tasks whose name matches: the sweep's own, or one of its overrides."""

    patterns: tuple[str, ...]
    settings: dict[Owner, Settings]

    def concerns(self, task: Task) -> bool:
        """Return whether one of the patterns matches the task's name."""
        return any(fnmatch.fnmatchcase(task.name, pattern) for pattern in self.patterns)


def read_tasks(document: Document, file: SpecFile, folder: Path) -> tuple[Task, ...]:
    """Return the tasks, registered or of one's own; the same name twice is an error."""
    tasks: dict[str, Task] = {}
    for index, entry in enumerate(file.tasks):
        at: Where = ("tasks", index)
        task = _task(document, at, entry, folder)
        if task.name in tasks:
            raise document.error(at, f"task '{task.name}' is listed twice")
        tasks[task.name] = task
    return tuple(tasks.values())


def _task(document: Document, at: Where, entry: Any, folder: Path) -> Task:
    try:
        if isinstance(entry, str):
            return find_task(entry)
        if not isinstance(entry, dict):
            raise UserError(f"{dotted(at)} should be a task's name or a mapping, not {shortened(entry)}")
        section = TaskSection.model_validate(entry)
        return custom_task(
            section.name,
            folder / Path(section.dataset).expanduser(),
            section.env,
            reference=section.reference,
            termination=section.termination,
            max_episode_steps=section.max_episode_steps,
        )
    except ValidationError as error:
        raise document.translated(error, lambda loc: (*at, *loc), known_keys) from None
    except UserError as error:
        raise document.error(at, str(error)) from None


def read_layer(document: Document, at: Where, patterns: Sequence[str], planners: Sequence[str]) -> Layer:
    """Return the settings of each component and planner in the sections below `at`; `planners` are the declared."""
    settings = dict[Owner, Settings]()
    parent = document.get(at)
    for section, known in (("components", list(COMPONENTS)), ("planners", planners)):
        kind, here = section.removesuffix("s"), (*at, section)
        for name in parent.get(section) or {}:
            if kind == "component" and ":" in name:  # one's own
                try:
                    COMPONENTS[name]
                except UserError as error:
                    raise document.error((*here, name), str(error), key=True) from None
            elif name not in known:
                hint = f"{did_you_mean(name, known)}; known: {', '.join(known)}"
                raise document.error((*here, name), f"unknown {kind} '{name}' in {dotted(here)}{hint}", key=True)
            settings[(section, name)] = read_settings(document, (*here, name))
    return Layer(tuple(patterns), settings)


def read_overrides(document: Document, file: SpecFile, tasks: tuple[Task, ...]) -> list[Layer]:
    """Return the overrides in order; a pattern without a task, a planner not declared, are errors."""
    names = [task.name for task in tasks]
    overrides = []
    for index, section in enumerate(file.overrides or ()):
        at: Where = ("overrides", index)
        for position, pattern in enumerate(section.tasks):
            if not fnmatch.filter(names, pattern):
                message = f"the pattern '{pattern}' matches no task of this sweep{did_you_mean(pattern, names)}"
                raise document.error((*at, "tasks", position), message)
        overrides.append(read_layer(document, at, section.tasks, list(file.planners or ())))
    return overrides


def read_baselines(document: Document, file: SpecFile) -> tuple[str, ...]:
    """Return the policies evaluated without a planner, each known and named once."""
    for index, name in enumerate(file.baselines):
        at: Where = ("baselines", index)
        try:
            check_policy(name)
        except UserError as error:
            raise document.error(at, f"baselines: {error}") from None
        if name in file.baselines[:index]:
            raise document.error(at, f"baseline '{name}' is listed twice")
    if not file.baselines and not file.planners:
        raise document.error((), "neither planners nor baselines: there is nothing to evaluate")
    return tuple(file.baselines)


def fitted(resources: Resources) -> Resources:
    """Fill in what fits this machine: a share of a GPU for each process where there is one."""
    import torch

    there = resources.address is None and torch.cuda.is_available()
    share = {"gpus": GPU_SHARE if there else 0.0}
    filled = {
        name: part if part.gpus is not None else part.model_copy(update=share)
        for name, part in (("actor", resources.actor), ("trial", resources.trial))
    }
    return resources.model_copy(update=filled)


def storage_place(document: Document, file: SpecFile, folder: Path) -> str:
    """Return where artifacts and results lie: a URL as it is, a folder as an absolute path."""
    if not file.storage.strip():
        raise document.error(("storage",), "storage is empty; give a folder or a URL")
    if file.storage.startswith("file://"):
        return os.path.normpath(unquote(urlsplit(file.storage).path))
    return file.storage if "://" in file.storage else os.path.normpath(folder / Path(file.storage).expanduser())


def tracking_uri(document: Document, file: SpecFile, folder: Path) -> str:
    """Return an absolute MLflow URI; by default a sqlite file in the storage folder."""
    uri = file.tracking.uri if file.tracking else None
    if uri is None:
        storage = storage_place(document, file, folder)
        return f"sqlite:///{folder if '://' in storage else storage}/mlflow.db"
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{os.path.normpath(folder / uri.removeprefix('sqlite:///'))}"
    try:
        return check_tracking_uri(uri)
    except UserError as error:
        raise document.error(("tracking", "uri"), str(error)) from None
