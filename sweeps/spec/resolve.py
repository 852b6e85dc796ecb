"""The grids of a sweep on each of its tasks, resolved once: what `load_spec` returns and the plan reads.

A config's layers are class default < published for that task < the sweep's own < its overrides, in order.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mpcwdwm.components import (
    COMPONENTS,
    DEFAULT_WORLD_MODEL,
    WORLD_MODELS,
    ComponentConfig,
    WorldModel,
    component_config,
)
from mpcwdwm.data import Task, published_config
from mpcwdwm.errors import UserError
from mpcwdwm.planning import DEFAULT_KIND, PLANNERS, Planner, PlannerConfig, planner_config
from mpcwdwm.registry import Registry
from sweeps.spec.document import Document
from sweeps.spec.grid import Axis, Choice, Settings, expand, merged
from sweeps.spec.sections import Layer, Owner

__all__ = ["ResolvedTask", "resolve"]


@dataclass(frozen=True)
class ResolvedTask:
    """A task and every point of the grids on it, each a validated config."""

    task: Task
    components: dict[str, list[Choice[ComponentConfig]]]
    planners: dict[str, list[Choice[PlannerConfig]]]

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name


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
    grid = _Grid(document, tasks, layers)
    planners = [name for section, name in layers[0].settings if section == "planners"]
    components = [name for layer in layers for section, name in layer.settings if section == "components"]
    named = [*COMPONENTS, *components, *baselines, *grid.named_by(planners)]
    found = []
    for task in tasks:
        adapting = {name: grid.planners(task, name) for name in planners}
        found.append(ResolvedTask(task, {n: grid.components(task, n) for n in dict.fromkeys(named)}, adapting))
    return tuple(found)


class _Grid:
    """Expands the grid of one planner or component on one task."""

    def __init__(self, document: Document, tasks: Sequence[Task], layers: Sequence[Layer]) -> None:
        self.document, self.layers = document, layers
        self._settings = {
            owner: {t.name: merged(each.settings.get(owner, {}) for each in layers if each.concerns(t)) for t in tasks}
            for owner in dict.fromkeys(owner for layer in layers for owner in layer.settings)
        }

    def settings(self, owner: Owner, task: Task) -> dict[str, Axis]:
        """Return what the sweep says of a component or planner on a task, overrides applied."""
        return self._settings.get(owner, {}).get(task.name, {})

    def varying(self, owner: Owner) -> list[str]:
        """Return the fields that are an axis on at least one task: what tells two rows apart."""
        axes = list(self._settings.get(owner, {}).values())
        fields = dict.fromkeys(field for settings in axes for field in settings)
        return [f for f in fields if any(f in s and len(s[f].values) > 1 for s in axes)]

    def named_by(self, planners: Iterable[str]) -> list[str]:
        """Return the components of the user's own that planners are based on or take their critic from."""
        each = [s for name in planners for s in self._settings[("planners", name)].values()]
        values = [str(v) for s in each for f in ("base", "critic_from") if f in s for v in s[f].values]
        return [value for value in values if ":" in value]

    def components(self, task: Task, name: str) -> list[Choice[ComponentConfig]]:
        """Return the resolved configs of a component on a task, one per point of its axes."""
        owner, published = ("components", name), published_config(task, name)
        settings = self.settings(owner, task)
        known = self._fields(owner, settings)
        return expand(
            self.document,
            settings,
            lambda given: component_config(name, published, given),
            owner=owner,
            known=known,
            varying=self.varying(owner),
        )

    def planners(self, task: Task, name: str) -> list[Choice[PlannerConfig]]:
        """Return the resolved configs of a planner on a task, one per point of its grid."""
        owner = ("planners", name)
        settings = self.settings(owner, task)
        known = self._fields(owner, settings)
        return expand(self.document, settings, planner_config, owner=owner, known=known, varying=self.varying(owner))

    def _fields(self, owner: Owner, settings: Settings) -> list[str]:
        """Return the fields of the kinds asked for, after refusing what one of them lacks."""
        registry, default = _kinds(owner)
        if registry is None:
            return list(COMPONENTS[owner[1]].config_class.model_fields)
        asked = [str(kind) for kind in settings["kind"].values] if "kind" in settings else [default]
        for index, kind in enumerate(asked):
            try:
                registry[kind]
            except UserError as error:
                raise self.document.error(settings["kind"].place(index), f"{'.'.join(owner)}: {error}") from None
        fields = {kind: registry[kind].config_class.model_fields for kind in dict.fromkeys((*registry.own, *asked))}
        self._refuse_lacking(owner, settings, asked, fields)
        return [field for kind in asked for field in fields[kind]]

    def _refuse_lacking(
        self, owner: Owner, settings: Settings, asked: list[str], fields: Mapping[str, Iterable[str]]
    ) -> None:
        for field, axis in settings.items():
            having = [kind for kind, own in fields.items() if field in own]
            lacking = [kind for kind in asked if kind not in having]
            if having and lacking:  # a field that no kind has is a misspelling, found later
                message = f"{'.'.join(owner)}: kind '{lacking[0]}' has no field '{field}', only {', '.join(having)}"
                raise self.document.error(axis.at, message, key=True)


def _kinds(owner: Owner) -> tuple[Registry[type[Planner]] | Registry[type[WorldModel]] | None, str]:
    """Return the registry of a part's kinds and the kind where none is given; most components have only one."""
    if owner[0] == "planners":
        return PLANNERS, DEFAULT_KIND
    return (WORLD_MODELS, DEFAULT_WORLD_MODEL) if owner[1] == "world_model" else (None, "")
