"""The sweep's YAML: how a file becomes a checked `Spec`.

`load_spec` reads the file, applies ``--set``, ``--tasks`` and ``--seeds``, and checks everything that
can be checked without the datasets; `Spec.components_of` and `Spec.planners_of` resolve the grid of
one task: class default < published for that task < the sweep's own < its overrides, in order.
Whatever is wrong is one line that names file, line and place, and nothing has been started by then.
"""

import fnmatch
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mpcwdwm.components import (
    COMPONENTS,
    DEFAULT_WORLD_MODEL,
    WORLD_MODELS,
    ComponentConfig,
    WorldModel,
    component_config,
)
from mpcwdwm.data import Task, published_config
from mpcwdwm.errors import UserError, did_you_mean
from mpcwdwm.nn.compute import ComputeConfig
from mpcwdwm.planning import DEFAULT_KIND, PLANNERS, Planner, PlannerConfig, planner_config
from mpcwdwm.registry import Registry
from sweeps.spec.document import Document, parse_document, parse_value, read_document, write_yaml
from sweeps.spec.grid import Choice, Settings, expand, merged
from sweeps.spec.schema import Evaluation, Resources, Select, Share, SpecFile, known_keys
from sweeps.spec.sections import (
    Override,
    fitted,
    read_baselines,
    read_overrides,
    read_section,
    read_tasks,
    set_value,
    storage_place,
    tracking_uri,
    use_full_names,
)

__all__ = ["Evaluation", "Override", "Resources", "Select", "Share", "Spec", "list_specs", "load_spec"]


# A checked sweep


@dataclass(frozen=True)
class Spec:
    """A sweep, checked; everything absolute, nothing per task resolved yet."""

    name: str
    path: Path  # of the YAML
    tasks: tuple[Task, ...]
    seeds: tuple[int, ...]
    components: dict[str, Settings]
    planners: dict[str, Settings]
    baselines: tuple[str, ...]
    overrides: tuple[Override, ...]
    evaluation: Evaluation
    compute: ComputeConfig
    resources: Resources
    storage: str  # absolute folder or URL
    tracking_uri: str
    document: Document  # what was read, for messages and for `to_yaml`

    def settings(self, section: str, name: str, task: Task) -> Settings:
        """Return what the sweep says of a component or planner on a task, overrides applied."""
        layers = [getattr(self, section).get(name, {})]
        layers += [getattr(part, section).get(name, {}) for part in self.overrides if part.concerns(task)]
        return merged(layers)

    def varying(self, section: str, name: str) -> tuple[str, ...]:
        """Return the fields that are an axis on at least one task: what tells two rows apart."""
        axes = [self.settings(section, name, task) for task in self.tasks]
        fields = dict.fromkeys(field for settings in axes for field in settings)
        return tuple(f for f in fields if any(f in s and len(s[f].values) > 1 for s in axes))

    @property
    def component_names(self) -> tuple[str, ...]:
        """Return the known components and those of the user's own that the sweep names."""
        own = [name for part in self.overrides for name in part.components]
        named = [*self.components, *own, *self.baselines]
        for planner in self.planners:
            for task in self.tasks:
                settings = self.settings("planners", planner, task)
                for field in ("base", "critic_from"):
                    named += [str(v) for v in settings[field].values if ":" in str(v)] if field in settings else []
        return tuple(dict.fromkeys((*COMPONENTS, *named)))

    def components_of(self, task: Task, name: str) -> list[Choice[ComponentConfig]]:
        """Return the resolved configs of a component on a task, one per point of its axes."""
        published = published_config(task, name)
        settings = self.settings("components", name, task)
        return expand(
            self.document,
            settings,
            lambda given: component_config(name, published, given),
            owner=("components", name),
            known=_fields("components", name, settings),
            varying=self.varying("components", name),
        )

    def planners_of(self, task: Task, name: str) -> list[Choice[PlannerConfig]]:
        """Return the resolved configs of a planner on a task, one per point of its grid."""
        settings = self.settings("planners", name, task)
        return expand(
            self.document,
            settings,
            planner_config,
            owner=("planners", name),
            known=_fields("planners", name, settings),
            varying=self.varying("planners", name),
        )

    def to_yaml(self) -> str:
        """Return the sweep as it runs, ``--set`` and filters applied, paths absolute: loads to the same."""
        data = {**self.document.data, "name": self.name, "seeds": list(self.seeds)}
        data |= {"tasks": [_task_entry(task) for task in self.tasks], "baselines": list(self.baselines)}
        data |= {"evaluation": self.evaluation.to_dict(), "resources": self.resources.to_dict()}
        data |= {"compute": self.compute.to_dict()}
        data |= {"storage": self.storage, "tracking": {"uri": self.tracking_uri}}
        named = {task.name for task in self.tasks}
        kept = [part for part in data.get("overrides") or [] if _matching(part["tasks"], named)]
        data["overrides"] = [{**part, "tasks": _matching(part["tasks"], named)} for part in kept]
        return write_yaml(data)

    def asks_for_the_same(self, text: str) -> bool:
        """Say whether another `to_yaml` asks for the same results; where they are computed does not count."""
        ours, theirs = (parse_document(each, self.name).data for each in (self.to_yaml(), text))
        for each in (ours, theirs):
            each["compute"] = each.get("compute", {}).get("tf32", False)
        where = ("resources", "storage", "tracking")
        return all(ours.get(name) == theirs.get(name) for name in {*ours, *theirs}.difference(where))


def _matching(patterns: Sequence[str], names: set[str]) -> list[str]:
    return [pattern for pattern in patterns if fnmatch.filter(names, pattern)]


def _task_entry(task: Task) -> Any:
    if task.source != "local":
        return task.name
    entry: dict[str, Any] = {"name": task.name, "dataset": str(task.path), "env": task.env_id}
    entry |= {"reference": list(task.reference) if task.reference else None}
    return {**entry, "termination": task.termination, "max_episode_steps": task.max_episode_steps}


def _kinds(section: str, name: str) -> tuple[Registry[type[Planner]] | Registry[type[WorldModel]] | None, str]:
    """Return the registry of a part's kinds and the kind where none is given; most components have only one."""
    if section == "planners":
        return PLANNERS, DEFAULT_KIND
    return (WORLD_MODELS, DEFAULT_WORLD_MODEL) if name == "world_model" else (None, "")


def _fields(section: str, name: str, settings: Settings) -> list[str]:
    """Return the fields of the kinds that the settings ask for; `_check_kinds` has found them all."""
    registry, default = _kinds(section, name)
    if registry is None:
        return list(COMPONENTS[name].config_class.model_fields)
    asked = settings["kind"].values if "kind" in settings else (default,)
    return [field for kind in asked for field in registry[str(kind)].config_class.model_fields]


# Finding and reading


def list_specs(folder: Path | str) -> list[tuple[str, Path]]:
    """Return (name, file) of every sweep whose YAML lies in `folder`, by name; other YAML is passed over."""
    specs = []
    for path in sorted([*Path(folder).glob("*.yaml"), *Path(folder).glob("*.yml")]):
        try:
            data = read_document(path).data
        except UserError:  # not ours to judge; naming the file itself shows its error
            continue
        if isinstance(data.get("name"), str) and "tasks" in data:
            specs.append((data["name"], path))
    return sorted(specs)


def _find(spec: str | Path, folder: Path) -> Path:
    """Return the YAML's path for a path or the name of a sweep in `folder`."""
    path = Path(spec) if Path(spec).is_absolute() else folder / spec
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return path
    named = list_specs(folder)
    found = [file for name, file in named if name == str(spec)]
    if len(found) > 1:
        raise UserError(f"sweep '{spec}' is the name of {' and '.join(file.name for file in found)}: give the file")
    if not found:
        hint = did_you_mean(str(spec), [name for name, _ in named])
        raise UserError(f"'{spec}' is neither a file nor the name of a sweep in {folder.resolve()}{hint}")
    return found[0]


def load_spec(
    spec: str | Path,
    *,
    sets: Sequence[str] = (),
    tasks: Sequence[str] | None = None,
    seeds: str | None = None,
    folder: Path | None = None,
) -> Spec:
    """Read and check a sweep.

    Args:
        spec: a YAML file, or the name of a sweep whose YAML lies in `folder`.
        sets: ``"evaluation.episodes=20"``; the value is YAML, and wins over the file.
        tasks: patterns; only the matching tasks are kept.
        seeds: in place of the file's: ``"3"`` for 0..2, or ``"0,4,7"``.
        folder: where names and relative paths are looked for, by default the current one.

    Raises:
        UserError: anything that is wrong, with file and line.
    """
    path = _find(spec, folder or Path.cwd()).resolve()
    # modules of one's own may lie beside the YAML; Ray's workers look where this process looks
    sys.path += [place for place in (str(path.parent), str(Path.cwd())) if place not in sys.path]
    document = read_document(path)
    use_full_names(document)
    for given in sets:
        set_value(document, given)
    if seeds is not None:
        source = f"--seeds {seeds}"
        listed = [parse_value(word, source) for word in seeds.split(",") if word.strip()]
        document.assign(("seeds",), listed if "," in seeds or not listed else listed[0], source)
    try:
        file = SpecFile.model_validate(document.data)
    except ValidationError as error:
        raise document.translated(error, lambda at: at, known_keys) from None
    known_tasks = read_tasks(document, file, path.parent)
    overrides = read_overrides(document, file, known_tasks)
    return _checked(
        Spec(
            name=file.name,
            path=path,
            tasks=_filtered(known_tasks, tasks),
            seeds=file.seeds,
            components=read_section(document, ("components",), list(COMPONENTS), "component"),
            planners=read_section(document, ("planners",), list(file.planners or ()), "planner"),
            baselines=read_baselines(document, file),
            overrides=overrides,
            evaluation=file.evaluation,
            compute=file.compute,
            resources=fitted(file.resources or Resources()),
            storage=storage_place(document, file, path.parent),
            tracking_uri=tracking_uri(document, file, path.parent),
            document=document,
        )
    )


def _filtered(tasks: tuple[Task, ...], patterns: Sequence[str] | None) -> tuple[Task, ...]:
    """Return the tasks that match one of the patterns; every pattern has to match some."""
    if not patterns:
        return tasks
    names = [task.name for task in tasks]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"--tasks {pattern}: matches none of {', '.join(names)}{did_you_mean(pattern, names)}")
    return tuple(task for task in tasks if any(fnmatch.fnmatchcase(task.name, p) for p in patterns))


def _checked(spec: Spec) -> Spec:
    """Return the sweep after resolving every grid on every task, so that no error is left for later."""
    document = spec.document
    for task in spec.tasks:
        for name in spec.planners:
            _check_kinds(spec, task, "planners", name)
            spec.planners_of(task, name)
        for name in spec.component_names:
            _check_kinds(spec, task, "components", name)
            spec.components_of(task, name)
    select = spec.evaluation.select
    if select is None:
        return spec
    if not spec.planners:
        raise document.error(("evaluation", "select"), "evaluation.select chooses among planners, and there are none")
    if both := sorted(set(select.seeds) & set(spec.seeds)):
        message = f"seed {both[0]} is in evaluation.select.seeds and in seeds: choose on others than are reported"
        raise document.error(("evaluation", "select", "seeds"), message)
    if select.env_seed == spec.evaluation.env_seed:
        message = f"evaluation.select.env_seed is evaluation.env_seed, {select.env_seed}: choose on other episodes"
        raise document.error(("evaluation", "select", "env_seed"), message)
    return spec


def _check_kinds(spec: Spec, task: Task, section: str, name: str) -> None:
    """Refuse a kind that there is not, and a field that one of the kinds asked for lacks, at their places."""
    settings, (registry, default) = spec.settings(section, name, task), _kinds(section, name)
    if registry is None:
        return
    asked = [str(kind) for kind in settings["kind"].values] if "kind" in settings else [default]
    for index, kind in enumerate(asked):
        try:
            registry[kind]
        except UserError as error:
            raise spec.document.error(settings["kind"].place(index), f"{section}.{name}: {error}") from None
    fields = {kind: registry[kind].config_class.model_fields for kind in dict.fromkeys((*registry.own, *asked))}
    for field, axis in settings.items():
        having = [kind for kind, own in fields.items() if field in own]
        lacking = [kind for kind in asked if kind not in having]
        if having and lacking:  # a field that no kind has is a misspelling, found later
            message = f"{section}.{name}: kind '{lacking[0]}' has no field '{field}', only {', '.join(having)}"
            raise spec.document.error(axis.at, message, key=True)
