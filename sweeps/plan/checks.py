"""Checks that need the datasets and the simulator, before anything starts.

`check` finds and validates every dataset, compares its dimensions with its environment's and checks that each
component has rows to learn from. Facts about a file are cached by its hash, so that planning again reads no gigabytes.
"""

import contextlib
import fnmatch
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter

from cluster.units import TaskRef
from mpcwdwm.components.component import Rows
from mpcwdwm.data import TASKS, Task, dataset_path, read_dataset, sha256_of
from mpcwdwm.data.audit import doubts
from mpcwdwm.data.fingerprint import cache_folder, write_json
from mpcwdwm.data.recognised import Extent, unlike_the_original
from mpcwdwm.envs.factory import check_env, environment_note, mujoco_version
from mpcwdwm.envs.probe import check_playable
from mpcwdwm.envs.termination import RULES
from mpcwdwm.errors import UserError
from mpcwdwm.registry import slug
from mpcwdwm.training.buffer import usable_rows
from mpcwdwm.validation import Where
from sweeps.plan.code import code_hash
from sweeps.spec.spec import Spec

__all__ = ["Checked", "DatasetFacts", "Learner", "check", "check_capture"]


@dataclass(frozen=True)
class DatasetFacts:
    """Facts about a dataset that planning and prediction use."""

    obs_dim: int
    act_dim: int
    rows: int
    mean_length: float  # of its episodes [steps]
    largest_reward: float  # without sign
    extent: Extent


@dataclass(frozen=True)
class Checked:
    """The tasks of a sweep as workers need them, facts about their datasets, and notes to the user."""

    tasks: dict[str, TaskRef]
    facts: dict[str, DatasetFacts]
    notices: list[str]  # one line each


Learner = tuple[Rows, Literal["all", "train", "heldout"]]
"""The rows a component learns from or is judged on, and of which episodes."""
HELDOUT: dict[str, bool | None] = {"all": None, "train": False, "heldout": True}


def check(spec: Spec, learners: dict[str, set[Learner]]) -> Checked:
    """Check every task of a sweep.

    Args:
        spec: the sweep.
        learners: task name → what will be trained on it.

    Raises:
        UserError: a dataset that is absent or unfit, an environment that cannot be made or has other
            dimensions, a termination rule that does not answer as one; with the task's line in the YAML.
    """
    mujoco = mujoco_version()
    tasks, facts, notices = dict[str, TaskRef](), dict[str, DatasetFacts](), list[str]()
    bounds = dict[tuple[Any, ...], tuple[float, float] | None]()
    for task in (resolved.task for resolved in spec.tasks):
        try:
            path = dataset_path(task).resolve()
            known = dataset_facts(path, learners[task.name])
            made, dims = json.dumps(task.env_kwargs, sort_keys=True), (known.obs_dim, known.act_dim)
            environment = (task.env_id, made, *dims)
            if environment not in bounds:
                check_playable(task.env_id, task.env_kwargs)
                bounds[environment] = check_env(task.env_id, *dims, task.env_kwargs)
            if task.termination is not None:
                _check_rule(task.termination, known.obs_dim)
            doubtful = dataset_doubts(path, task.termination)
        except UserError as error:
            raise spec.document.error(_entry(spec, task), f"task '{task.name}': {error}") from None
        facts[task.name] = known
        unlike = unlike_the_original(task, known.extent)
        shortened = task.name in TASKS and task.max_episode_steps < TASKS[task.name].max_episode_steps
        env_note = environment_note(task.env_id, task.env_kwargs, bounds[environment])
        tasks[task.name] = TaskRef(
            name=task.name,
            env_id=task.env_id,
            dataset=str(path),
            dataset_sha256=sha256_of(path),
            mujoco=mujoco,
            termination=task.termination,
            reference=task.reference,
            max_episode_steps=task.max_episode_steps,
            source="local" if unlike or shortened else task.source,
            goal_reward=task.goal_reward,
            env_kwargs=dict(task.env_kwargs),
            env_note=env_note,
        )
        if env_note:
            notices.append(f"{task.name}: {env_note}")
        if unlike:
            notices.append(f"{task.name}: the file is not D4RL's ({unlike}), so no published score stands beside it")
        if spec.planners and task.termination is None and task.goal_reward is None:
            notices.append(
                f"{task.name}: no termination rule and no goal_reward is known, so imagined rollouts do not end"
            )
        notices += [f"{task.name}: {doubt}" for doubt in doubtful]
        if task.reference is None:
            notices.append(f"{task.name}: no reference scores are known, so raw returns are shown")
    if limit := spec.evaluation.max_episode_steps:
        message = f"episodes end after {limit} steps at the latest (evaluation.max_episode_steps)"
        notices.append(f"{message}: scores are theirs, and no published score stands beside a shortened task's")
    return Checked(tasks, facts, notices)


def _check_rule(name: str, obs_dim: int) -> None:
    """Raise UserError unless a termination rule maps observations (…, obs_dim) to bool (…)."""
    try:
        found: object = RULES[name](torch.zeros(2, 3, obs_dim))
    except UserError:
        raise
    except Exception as error:  # whatever a user's own rule raises
        raise UserError(f"termination rule '{name}' failed: {type(error).__name__}: {error}") from None
    if not isinstance(found, torch.Tensor) or found.dtype != torch.bool or found.shape != (2, 3):
        given = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
        shape = (2, 3, obs_dim)
        raise UserError(f"termination rule '{name}' should answer {shape} with torch.bool (2, 3), not with {given}")


def check_capture(spec: Spec, gpus: float | None) -> None:
    """Raise UserError if CUDA graphs are asked for of processes without a GPU: every unit would fail.

    Only for what is still to be computed: the results can be read anywhere.

    Args:
        spec: the sweep.
        gpus: of the machine or the cluster; None: not known yet.
    """
    shares = {"actor": spec.resources.actor, **({"trial": spec.resources.trial} if spec.planners else {})}
    for role, share in shares.items():
        has_none = share.gpus == 0 or (share.gpus is None and gpus == 0)
        if spec.compute.capture == "graph" and has_none:
            message = f"capture: graph needs a GPU, and resources.{role} has none: give it gpus, or use capture: auto"
            raise spec.document.error(("compute", "capture"), message)


def _entry(spec: Spec, task: Task) -> Where:
    """Return where the task stands in the YAML."""
    for index, entry in enumerate(spec.document.data["tasks"]):
        name = entry.get("name") if isinstance(entry, dict) else entry
        if name == task.name or (isinstance(entry, str) and fnmatch.fnmatchcase(task.name, entry)):
            return ("tasks", index)
    return ("tasks",)


def dataset_facts(path: Path, learners: Iterable[Learner]) -> DatasetFacts:
    """Return the facts about a dataset that is valid for these learners; from the cache if it was checked before.

    Raises:
        UserError: the file is unfit, or a component finds no rows in it that it can learn from or be judged on.
    """
    wanted = {f"{rows}/{part}" for rows, part in learners}
    code = code_hash("mpcwdwm.data.dataset", "mpcwdwm.training.buffer")  # edited checks are run again
    cached = cache_folder() / "datasets" / f"{sha256_of(path)[:32]}-{code[:8]}.json"
    fit_for = set[str]()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent or damaged: read the file
        found = json.loads(cached.read_text(encoding="utf-8"))
        facts, fit_for = TypeAdapter(DatasetFacts).validate_python(found["facts"]), set(found["fit_for"])
        if wanted <= fit_for:
            return facts
    dataset = read_dataset(path)
    for rows, part in learners:
        if part != "heldout" or dataset.heldout.any():  # without held-out episodes nothing is judged
            usable_rows(dataset, rows, heldout=HELDOUT[part])
    facts = DatasetFacts(
        obs_dim=dataset.obs_dim,
        act_dim=dataset.act_dim,
        rows=len(dataset.reward),
        mean_length=float(dataset.lengths.mean()),
        largest_reward=float(abs(dataset.reward).max()),
        extent=Extent.of(dataset),
    )
    with contextlib.suppress(OSError):  # without a cache the next check only takes longer
        write_json(cached, {"facts": asdict(facts), "fit_for": sorted(wanted | fit_for)})
    return facts


def dataset_doubts(path: Path, rule: str | None) -> list[str]:
    """Return what is doubtful about a dataset's ends and scales; from the cache if it was looked at before.

    Args:
        path: of the file.
        rule: the termination rule with which its terminals are compared.
    """
    module = [] if rule is None else [RULES[rule].__module__]
    code = code_hash("mpcwdwm.data.audit", *module)
    cached = cache_folder() / "datasets" / f"{sha256_of(path)[:32]}-{slug(rule or 'none')}-{code[:8]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return [str(each) for each in json.loads(cached.read_text(encoding="utf-8"))["doubts"]]
    found = doubts(read_dataset(path), rule)
    with contextlib.suppress(OSError):
        write_json(cached, {"doubts": found})
    return found
