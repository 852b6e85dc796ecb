"""The sweep's YAML: how a file becomes a checked `Spec`.

`load_spec` reads the file, applies ``--set``, ``--tasks`` and ``--seeds``, and checks everything that
can be checked without the datasets; every grid on every task is resolved by then.
Whatever is wrong is one line that names file, line and place, and nothing has been started by then.
"""

import fnmatch
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mpcwdwm.data import Task
from mpcwdwm.errors import UserError, did_you_mean
from mpcwdwm.nn.compute import ComputeConfig
from sweeps.spec.document import Document, parse_document, parse_value, read_document, write_yaml
from sweeps.spec.resolve import ResolvedTask, resolve
from sweeps.spec.schema import Evaluation, Resources, Select, Share, SpecFile, known_keys
from sweeps.spec.sections import (
    fitted,
    read_baselines,
    read_layer,
    read_overrides,
    read_tasks,
    set_value,
    storage_place,
    tracking_uri,
    use_full_names,
)

__all__ = ["Evaluation", "Resources", "Select", "Share", "Spec", "list_specs", "load_spec"]


# A checked sweep


@dataclass(frozen=True)
class Spec:
    """A sweep, checked: every path absolute, every config resolved."""

    name: str
    path: Path  # of the YAML
    tasks: tuple[ResolvedTask, ...]
    seeds: tuple[int, ...]
    components: tuple[str, ...]  # those set at the top
    planners: tuple[str, ...]
    baselines: tuple[str, ...]
    evaluation: Evaluation
    compute: ComputeConfig
    resources: Resources
    storage: str  # absolute folder or URL
    tracking_uri: str
    document: Document  # what was read, for messages and for `to_yaml`

    def to_yaml(self) -> str:
        """Return the sweep as it runs, ``--set`` and filters applied, paths absolute: loads to the same."""
        data = {**self.document.data, "name": self.name, "seeds": list(self.seeds)}
        data |= {"tasks": [_task_entry(each.task) for each in self.tasks], "baselines": list(self.baselines)}
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
    own = read_layer(document, (), ["*"], list(file.planners or ()))
    baselines = read_baselines(document, file)
    return _check_choosing(
        Spec(
            name=file.name,
            path=path,
            tasks=resolve(document, _filtered(known_tasks, tasks), [own, *overrides], baselines),
            seeds=file.seeds,
            components=tuple(file.components or ()),
            planners=tuple(file.planners or ()),
            baselines=baselines,
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


def _check_choosing(spec: Spec) -> Spec:
    """Return the sweep if ``evaluation.select`` has something to choose, on seeds and episodes of its own."""
    document, select = spec.document, spec.evaluation.select
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
