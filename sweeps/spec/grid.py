"""Grids: from the settings of components and planners in the YAML to their resolved configs on each task.

Every field of a component or planner may be a list, which makes it an axis. A grid is the product of the axes in
the order in which they are written, the first varying slowest. A config's layers are class default < published for
that task < the sweep's own < its overrides, in order.
"""

import fnmatch
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from mpcwdwm.components import (
    COMPONENTS,
    DEFAULT_WORLD_MODEL,
    WORLD_MODELS,
    ComponentConfig,
    WorldModel,
    component_config,
)
from mpcwdwm.config import Config
from mpcwdwm.data import Task, published_config
from mpcwdwm.errors import UserError
from mpcwdwm.planning import DEFAULT_KIND, PLANNERS, Planner, PlannerConfig, planner_config
from mpcwdwm.registry import Registry
from mpcwdwm.validation import Where, dotted
from sweeps.spec.axes import Settings, read_settings
from sweeps.spec.document import Document
from sweeps.spec.places import elsewhere
from sweeps.spec.schema import OverrideSection, SpecFile
from sweeps.spec.source_checks import refuse_unknown_name

__all__ = ["Choice", "Layer", "ResolvedTask", "label", "read_layers", "resolve"]

MAX_CHOICES = 10_000  # points of one grid on one task; more is a mistake in the YAML

C = TypeVar("C", bound=Config, covariant=True)


@dataclass(frozen=True)
class Choice(Generic[C]):
    """One point of a grid."""

    config: C
    axes: dict[str, Any]  # field → value, for the fields that vary anywhere in the sweep

    @functools.cached_property
    def data(self) -> dict[str, Any]:
        """The config as plain data."""
        return self.config.to_dict()


@dataclass(frozen=True)
class ResolvedTask:
    """A task and every point of the grids on it."""

    task: Task
    components: dict[str, list[Choice[ComponentConfig]]]
    planners: dict[str, list[Choice[PlannerConfig]]]

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name


def label(choice: Choice[Config], prefix: str = "") -> str:
    """Write a point of a grid as it appears in a table: "H=3 step_size=1e-05"; short names where fields have them."""
    fields = type(choice.config).model_fields
    shown = {name: _brief(value) if isinstance(value, dict) else value for name, value in choice.axes.items()}
    return " ".join(f"{prefix}{fields[name].alias or name}={value}" for name, value in shown.items())


def _brief(planner: dict[str, Any]) -> str:
    """Write a planner that is a setting of a component: kind and preset, and what differs from their values."""
    config = planner_config(planner)
    named = {name: planner[name] for name in ("kind", "preset") if planner.get(name, "none") != "none"}
    fields, usual = type(config).model_fields, planner_config(named).to_dict()
    differs = [f"{fields[name].alias or name}={value}" for name, value in planner.items() if value != usual[name]]
    return f"({' '.join([*named.values(), *differs])})"


# Settings as the YAML gives them


Owner = tuple[str, str]
"""What is set: ("planners", "mpc")."""


@dataclass(frozen=True)
class Layer:
    """Settings for the tasks whose name matches: the sweep's own, or one of its overrides."""

    patterns: Sequence[str]
    settings: Mapping[Owner, Settings]

    def on(self, task: Task, owner: Owner) -> Settings:
        """Return an owner's settings on a task."""
        concerned = any(fnmatch.fnmatchcase(task.name, pattern) for pattern in self.patterns)
        return self.settings.get(owner, {}) if concerned else {}


def read_layers(document: Document, file: SpecFile) -> list[Layer]:
    """Return the sweep's own settings, then its overrides.

    Raises:
        UserError: an unknown component or planner, an empty axis or a doubled value.
    """
    layers = [Layer(["*"], _read_section(document, (), file, file.planners))]
    for index, section in enumerate(file.overrides):
        at: Where = ("overrides", index)
        layers.append(Layer(section.tasks, _read_section(document, at, section, file.planners)))
    return layers


def _read_section(
    document: Document, at: Where, section: SpecFile | OverrideSection, planners: Iterable[str]
) -> dict[Owner, Settings]:
    settings = dict[Owner, Settings]()
    for name, given in section.components.items():
        here = (*at, "components", name)
        if ":" in name:  # one's own
            try:
                COMPONENTS[name]
            except UserError as error:
                raise document.error(here, str(error), key=True) from None
        else:
            refuse_unknown_name(document, here, list(COMPONENTS))
        settings["components", name] = read_settings(document, here, given)
    for name, given in section.planners.items():
        here = (*at, "planners", name)
        refuse_unknown_name(document, here, list(planners))
        settings["planners", name] = read_settings(document, here, given)
    return settings


# The grids


def resolve(
    document: Document, tasks: Sequence[Task], layers: Sequence[Layer], baselines: Iterable[str]
) -> tuple[ResolvedTask, ...]:
    """Return the tasks with their grids.

    Args:
        document: for the lines in error messages.
        tasks: those to resolve.
        layers: the sweep's own settings, then its overrides.
        baselines: the policies evaluated without a planner.

    Raises:
        UserError: an unknown kind, an unknown field, an impossible value or a grid too large, with its place.
    """
    grids = Grids(document, tasks, layers)
    planners = [name for section, name in layers[0].settings if section == "planners"]
    adapting = [{name: grids.points(("planners", name), task, planner_config) for name in planners} for task in tasks]
    configs = [choice.config for own in adapting for choices in own.values() for choice in choices]
    used = itertools.chain(*((config.base, *config.needs) for config in configs))
    components = [name for layer in layers for section, name in layer.settings if section == "components"]
    named = list(dict.fromkeys([*COMPONENTS, *components, *baselines, *used]))
    trained: list[dict[str, list[Choice[ComponentConfig]]]] = [{} for _ in tasks]
    for name in named:  # it grows by what they build on
        for task, own in zip(tasks, trained, strict=True):
            build = functools.partial(component_config, name, published_config(task, name))
            own[name] = grids.points(("components", name), task, build)
            bases = itertools.chain(*(choice.config.builds_on for choice in own[name]))
            named += dict.fromkeys(base for base in bases if base not in named)
    return tuple(ResolvedTask(*each) for each in zip(tasks, trained, adapting, strict=True))


class Grids:
    """The settings of a sweep, merged for each task, and the points they span."""

    def __init__(self, document: Document, tasks: Sequence[Task], layers: Sequence[Layer]) -> None:
        self.document = document
        owners = dict.fromkeys(owner for layer in layers for owner in layer.settings)
        self._settings: dict[Owner, dict[str, Settings]] = {
            owner: {
                task.name: {field: axis for layer in layers for field, axis in layer.on(task, owner).items()}
                for task in tasks
            }
            for owner in owners
        }

    def points(self, owner: Owner, task: Task, build: Callable[[dict[str, Any]], C]) -> list[Choice[C]]:
        """Return every point of an owner's grid on a task, each a validated config.

        Args:
            owner: whose grid.
            task: on which.
            build: field → value, for what differs from the defaults, to the resolved config.
        """
        on_tasks = self._settings.get(owner, {})
        settings = on_tasks.get(task.name, {})
        known = self._fields(owner, settings)
        mappings = [name for name, info in known.items() if get_origin(info.annotation) is dict]
        for field, axis in settings.items():
            wrong = list if field in mappings else (dict, list)
            if field in known and any(isinstance(value, wrong) for value in axis.values):
                raise self.document.error(axis.at, f"{dotted(axis.at)} should be a value or a list of values")
        size = math.prod(len(axis.values) for axis in settings.values())
        if size > MAX_CHOICES:
            raise self.document.error(
                owner, f"the grid of {dotted(owner)} has {size} points, at most {MAX_CHOICES} work"
            )
        fields = dict.fromkeys(field for own in on_tasks.values() for field in own)
        varying = [f for f in fields if any(len(own[f].values) > 1 for own in on_tasks.values() if f in own)]
        choices = []
        for indices in itertools.product(*(range(len(axis.values)) for axis in settings.values())):
            at = dict(zip(settings, indices, strict=True))

            def locate(location: Where, at: Mapping[str, int] = at) -> Where:
                name = str(location[0]) if location else ""
                if name not in settings:
                    return (*owner, *location)
                return settings[name].place(at[name]) if name in known else settings[name].at

            try:
                config = build({name: axis.values[at[name]] for name, axis in settings.items()})
            except ValidationError as error:
                raise self.document.translated(error, locate, lambda _: known, elsewhere) from None
            resolved = dict(config)  # another task's kind may have an axis that this one's lacks
            choices.append(Choice(config, {name: resolved[name] for name in varying if name in resolved}))
        return choices

    def _fields(self, owner: Owner, settings: Settings) -> dict[str, FieldInfo]:
        """Return the fields of the kinds asked for, after refusing what one of them lacks."""
        registry: Registry[type[Planner]] | Registry[type[WorldModel]]
        if owner[0] == "planners":
            registry, default = PLANNERS, DEFAULT_KIND
        elif owner[1] == "world_model":
            registry, default = WORLD_MODELS, DEFAULT_WORLD_MODEL
        else:  # of one kind only
            return dict(COMPONENTS[owner[1]].config_class.model_fields)
        given = settings["kind"].values if "kind" in settings else (default,)
        if any(isinstance(kind, (dict, list)) for kind in given):
            place = settings["kind"].at
            raise self.document.error(place, f"{dotted(place)} should be a value or a list of values")
        asked = [str(kind) for kind in given]
        for index, kind in enumerate(asked):
            try:
                registry[kind]
            except UserError as error:
                raise self.document.error(settings["kind"].place(index), f"{dotted(owner)}: {error}") from None
        fields = {kind: registry[kind].config_class.model_fields for kind in dict.fromkeys((*registry.own, *asked))}
        for field, axis in settings.items():
            having = [kind for kind, own in fields.items() if field in own]
            lacking = [kind for kind in asked if kind not in having]
            if having and lacking:  # a field that no kind has is a misspelling, found later
                message = f"{dotted(owner)}: kind '{lacking[0]}' has no field '{field}', only {', '.join(having)}"
                raise self.document.error(axis.at, message, key=True)
        return {name: info for kind in asked for name, info in fields[kind].items()}
