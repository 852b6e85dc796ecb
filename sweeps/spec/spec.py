"""From a sweep's YAML to a checked `Spec`.

`load_spec` reads the file, applies ``--set``, ``--tasks`` and ``--seeds``, resolves every grid on every task and
checks everything that can be checked without the datasets. Whatever is wrong is one line with file, line and place.
"""

import contextlib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.mlflow_store import without_password
from mpcwdwm.components.registry import check_policy
from mpcwdwm.data import Task
from mpcwdwm.errors import UserError
from mpcwdwm.nn.compute_config import ComputeConfig
from mpcwdwm.planning import PLANNERS
from mpcwdwm.validation import Where, dotted
from sweeps.spec.document import Document, parse_document, write_yaml
from sweeps.spec.grid import ResolvedTask, read_layers, resolve
from sweeps.spec.names import part_name
from sweeps.spec.reading import ELSEWHERE, read_spec
from sweeps.spec.schema import Cluster, Evaluation, Resources, SpecFile
from sweeps.spec.tasks import chosen_tasks, read_tasks

__all__ = ["Spec", "load_spec"]


@dataclass(frozen=True)
class Spec:
    """A checked sweep: every path absolute, every config resolved."""

    name: str
    path: Path  # of the YAML
    description: str
    tasks: tuple[ResolvedTask, ...]
    seeds: tuple[int, ...]
    components: tuple[str, ...]  # those set at the top
    planners: tuple[str, ...]
    baselines: tuple[str, ...]
    evaluation: Evaluation
    compute: ComputeConfig
    resources: Resources
    cluster: Cluster
    storage: str  # absolute folder or URL
    tracking_uri: str
    system_metrics: float | None  # seconds between measurements of the driver's machine
    document: Document  # the YAML, for messages and for `to_yaml`
    options: tuple[str, ...] = ()  # of the command line, where the results are others than the YAML's: it is a part

    @property
    def record(self) -> str:
        """Return the name under which it is recorded: the sweep's, of a part one below it."""
        return part_name(self.name, self.options)

    def to_yaml(self) -> str:
        """Return YAML that loads to this sweep: ``--set`` and filters applied, paths absolute."""
        data = {
            **self.document.data,
            "name": self.name,
            "tasks": [_task_entry(each.task) for each in self.tasks],
            "seeds": list(self.seeds),
            "baselines": list(self.baselines),
            "evaluation": self.evaluation.to_dict(),
            "compute": self.compute.to_dict(),
            "resources": self.resources.to_dict(),
            "storage": self.storage,
            "tracking": {"uri": without_password(self.tracking_uri), "system_metrics": self.system_metrics},
        }
        named = {task.name for task in self.tasks}
        kept = [part for part in data.get("overrides") or [] if _matching(part["tasks"], named)]
        data["overrides"] = [{**part, "tasks": _matching(part["tasks"], named)} for part in kept]
        return write_yaml(data)

    def asks_for_the_same(self, text: str) -> bool:
        """Say whether another `to_yaml` describes the same results, wherever they are computed and stored."""
        ours, theirs = (parse_document(each, self.name).data for each in (self.to_yaml(), text))
        for each in (ours, theirs):
            each["compute"] = each.get("compute", {}).get("tf32", False)
        return all(ours.get(name) == theirs.get(name) for name in {*ours, *theirs}.difference(ELSEWHERE))


def _matching(patterns: Sequence[str], names: set[str]) -> list[str]:
    return [pattern for pattern in patterns if fnmatch.filter(names, pattern)]


def _task_entry(task: Task) -> Any:
    if task.python is not None:
        return {"name": task.name, "source": "d4rl-package", "python": task.python}
    if task.source != "local":
        return task.name
    return {
        "name": task.name,
        "dataset": str(task.path),
        "env": task.env_id,
        "reference": list(task.reference) if task.reference else None,
        "termination": task.termination,
        "max_episode_steps": task.max_episode_steps,
        "goal_reward": task.goal_reward,
        **({"env_kwargs": dict(task.env_kwargs)} if task.env_kwargs else {}),
        **({"columns": dict(task.columns)} if task.columns else {}),
        **({"terminals": task.terminals} if task.terminals != "file" else {}),
        **({"ends": task.ends} if task.ends != "flags" else {}),
    }


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
        spec: a YAML file, or the name of a sweep: `find_spec`.
        sets: ``"evaluation.episodes=20"``; the value is YAML, and wins over the file.
        tasks: patterns; only the matching tasks are kept.
        seeds: in place of the file's: ``"3"`` for 0..2, or ``"0,4,7"``.
        folder: where names and relative paths are looked for, by default the current one.

    Raises:
        UserError: anything that is wrong, with file and line.
    """
    reading = read_spec(spec, sets=sets, tasks=tasks, seeds=seeds, folder=folder)
    found, document, file, known_tasks = reading.found, reading.document, reading.file, read_tasks(reading)
    _use_full_names(document, reading.set_at)
    layers = read_layers(document, file)
    _check_baselines(document, file)
    loaded = Spec(
        name=file.name,
        path=found.path,
        description=file.description,
        tasks=resolve(document, chosen_tasks(known_tasks, tasks), layers, file.baselines),
        seeds=file.seeds,
        components=tuple(file.components),
        planners=tuple(file.planners),
        baselines=tuple(file.baselines),
        evaluation=file.evaluation,
        compute=file.compute,
        resources=file.resources,
        cluster=file.cluster,
        storage=reading.storage,
        tracking_uri=reading.tracking_uri,
        system_metrics=file.tracking.system_metrics,
        document=document,
    )
    if reading.options and not _is_whole(loaded, spec, folder):
        return replace(loaded, options=reading.options)
    return loaded


def _is_whole(loaded: Spec, spec: str | Path, folder: Path | None) -> bool:
    """Return whether a sweep that was loaded with options computes what its YAML asks for."""
    try:
        return load_spec(spec, folder=folder).asks_for_the_same(loaded.to_yaml())
    except UserError:  # the YAML alone is no sweep: an option gives what it lacks
        return False


def _use_full_names(document: Document, set_at: Sequence[Where]) -> None:
    """Replace the short names of planners' fields, such as H, by the fields' own.

    A field given under both names is an error, unless ``--set`` gave one of them: the last that it gave counts.
    """

    def rank(at: Where) -> int:
        return max((number for number, place in enumerate(set_at) if place == at), default=-1)

    fields = {at: at[-3:] for at in document.keys if at[-3:-2] == ("planners",) and len(at) in (3, 5)}
    kinds = dict[str | int, list[Any]]()
    for at, (_, planner, name) in fields.items():
        if name == "kind":
            given = document.get(at)
            kinds.setdefault(planner, []).extend(given if isinstance(given, list) else [given])
    for at, (_, planner, name) in fields.items():
        full = _full_name(str(name), [*kinds.get(planner, []), *PLANNERS.own])
        if full == name:
            continue
        other = (*at[:-1], full)
        if other in document.keys and rank(at) == rank(other):
            message = f"{dotted(at[:-1])} has both '{name}' and '{full}', two names of one setting"
            raise document.error(at, message, key=True)
        if other in document.keys and rank(at) < rank(other):
            document.remove(at)
            continue
        document.rename(at, full)


def _full_name(name: str, kinds: Sequence[Any]) -> str:
    """Return the field that `name` means, in the first of these kinds of planners that has it under either name."""
    for kind in kinds:
        with contextlib.suppress(UserError):  # an unknown kind: found where the grids are read
            for field, info in PLANNERS[str(kind)].config_class.model_fields.items():
                if name in (field, info.alias):
                    return field
    return name


def _check_baselines(document: Document, file: SpecFile) -> None:
    """Raise UserError unless the baselines are policies."""
    for index, name in enumerate(file.baselines):
        at: Where = ("baselines", index)
        try:
            check_policy(name)
        except UserError as error:
            raise document.error(at, f"baselines: {error}") from None
