"""What is recorded of a unit of work: tags, params and metrics of its run, and its entry in the plan."""

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analysis.mlflow_store import AMORTISED, KEY_TAG, KIND_TAG, OPTIONS_TAG, SWEEP_TAG, member_tag
from cluster.units import CellUnit, ComponentUnit, TaskRef, Unit
from mpcwdwm.artifact_names import CURVE, EPISODES, MANIFEST
from mpcwdwm.data.scores import normalized_score

__all__ = ["LETTERS", "Point", "Record", "dataset_of", "parent_tags", "plan_record", "record_of"]

PARAM_LENGTH = 6000  # MLflow's limit on the length of a value
TAG_LENGTH = 5000  # that of a tag
DIGEST_LENGTH = 36  # that of a dataset's digest
STEP = "step"  # a curve's point: gradient updates done
LETTERS = {"horizon": "H", "rollouts": "M", "updates": "E"}  # a planner's fields as the paper calls them
EPISODE_MEANS = (
    "normalized_score",
    "return",
    "length",
    "ms_per_step",
    "evaluations_per_step",
    "imagined_return",
    "adapted_share",
    "action_change",
)


class Point(NamedTuple):
    """One value of a metric; time in milliseconds since 1970."""

    name: str
    value: float
    time: int
    step: int  # gradient updates done; of a cell 0


@dataclass(frozen=True)
class Record:
    """What MLflow is to hold of a published unit; times in milliseconds since 1970."""

    unit: Unit
    name: str  # as MLflow lists it
    folder: Path  # where it is published
    params: dict[str, str]
    points: list[Point]  # metrics, with those of a component's learning curve
    tags: dict[str, str]
    begin: int
    end: int


def record_of(unit: Unit, folder: Path, sweep: str) -> Record:
    """Return what is to be recorded of a unit that is published in a folder."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    end = finished_at(manifest)
    begin = end - int(1000 * float(manifest.get("seconds", 0)))
    curve = _curve(folder / CURVE) if isinstance(unit, ComponentUnit) else []
    points = _points(unit_metrics(unit, manifest, folder), curve, begin, end)
    tags = unit_tags(unit, manifest, sweep)
    return Record(unit, run_name(unit), folder, unit_params(unit), points, tags, begin, end)


def run_name(unit: Unit) -> str:
    """Return what a unit's run is called: method, task and training seed, "mpc H=3 M=8 E=1 α=1e-05 · TASK · s0"."""
    if isinstance(unit, ComponentUnit):
        kind = unit.config.get("kind")
        method, role = unit.component + (f" {kind}" if kind else ""), "report"
    else:
        varies = unit.variant and unit.variant not in unit.method
        method, role = unit.method + (f" ({unit.variant})" if varies else ""), unit.role
    return " · ".join([method, unit.task.name, f"s{unit.seed}", *([role] if role != "report" else [])])


def plan_record(sweep: str, components: Collection[ComponentUnit], cells: Collection[CellUnit]) -> dict[str, Any]:
    """Return the content of ``plan.json``: the keys of a sweep in table order, and what each cell is.

    ``labels`` lets the table show a cell that has no result; ``failed`` is filled in by `Tracker.finish`.
    """
    labels = {unit.key: _row_params(unit) for unit in cells}
    return {
        "sweep": sweep,
        "components": [unit.key for unit in components],
        "cells": list(labels),
        "labels": labels,
        "failed": {},
    }


def parent_tags(
    sweep: str, components: Collection[ComponentUnit], cells: Collection[CellUnit], options: Sequence[str] = ()
) -> dict[str, str]:
    """Return what MLflow shows of a sweep's parent run; tags and not params, because the next run may change them.

    ``options`` of the command line make it a part of the sweep.
    """
    seeds = sorted({unit.seed for unit in cells})
    shown = {
        "tasks": ", ".join(dict.fromkeys(unit.task.name for unit in cells)),
        "methods": ", ".join(dict.fromkeys(unit.name for unit in cells)),
        "seeds": ", ".join(map(str, seeds)),
        "cells": str(len(cells)),
        "components": str(len(components)),
        **({OPTIONS_TAG: " ".join(options)} if options else {}),
    }
    return {SWEEP_TAG: sweep, **{name: text[:TAG_LENGTH] for name, text in shown.items()}}


def dataset_of(task: TaskRef) -> dict[str, str]:
    """Return a task's dataset as MLflow describes an input: name, digest, and where it comes from."""
    source = json.dumps({"dataset": task.name, "sha256": task.dataset_sha256, "from": task.source})
    profile = json.dumps({"env_id": task.env_id, "mujoco": task.mujoco})
    digest = task.dataset_sha256[:DIGEST_LENGTH]
    return {"name": task.name, "digest": digest, "source_type": task.source, "source": source, "profile": profile}


def unit_tags(unit: Unit, manifest: dict[str, Any], sweep: str) -> dict[str, str]:
    """Return the tags of a unit's run: identity, data, environment, and what it ran on."""
    tags = {
        KIND_TAG: unit.kind,
        KEY_TAG: unit.key,
        SWEEP_TAG: sweep,
        member_tag(sweep): unit.kind,
        "task": unit.task.name,
        "task_source": unit.task.source,
        "method": unit.method if isinstance(unit, CellUnit) else unit.component,
        "dataset_sha256": unit.task.dataset_sha256,
        "env_id": unit.task.env_id,
        "mujoco": unit.task.mujoco,
        "score_unit": "normalized" if unit.task.reference else "return",
    }
    if unit.task.env_note:
        tags["env_note"] = unit.task.env_note
    for name in ("git_sha", "torch", "device", "threads", "mpcwdwm"):
        tags[name] = str(manifest.get(name) or "unknown")
    return tags


def unit_params(unit: Unit) -> dict[str, str]:
    """Return the params of a unit's run: what was chosen, and the resolved config with its defaults."""
    if isinstance(unit, ComponentUnit):
        chosen: dict[str, Any] = {"task": unit.task.name, "seed": unit.seed, "method": unit.component}
        chosen |= {f"config.{name}": value for name, value in unit.config.items()}
    else:
        chosen = _row_params(unit)
        chosen |= {letter: chosen[name] for name, letter in LETTERS.items() if chosen[name] is not None}
        chosen |= {f"planner.{name}": value for name, value in (unit.planner or {}).items()}
    chosen |= {f"part.{name}": key for name, key in unit.parts.items()}
    return {name: _text(value)[:PARAM_LENGTH] for name, value in chosen.items()}


def _row_params(unit: CellUnit) -> dict[str, Any]:
    """Return what identifies a table's row, and the seed."""
    planner = unit.planner or {}
    world = unit.configs.get("world_model", {}) if "world_model" in unit.parts else {}
    return {
        "task": unit.task.name,
        "seed": unit.seed,
        "method": unit.method,
        "name": unit.name,
        "variant": unit.variant,
        "kind": AMORTISED if unit.improves else planner.get("kind", "none"),
        "base": unit.improves or unit.base,
        "base_key": unit.improves_key or unit.parts.get(unit.base, ""),
        "policy_key": unit.parts.get(unit.base, ""),
        "world_model": world.get("kind"),
        "denoising_steps": world.get("denoising_steps"),
        **{name: planner.get(name) for name in ("horizon", "rollouts", "updates", "step_size")},
        "role": unit.role,
        "episodes": unit.episodes,
        "env_seed": unit.env_seed,
        "traced_episodes": unit.traced_episodes,
    }


def unit_metrics(unit: Unit, manifest: dict[str, Any], folder: Path) -> dict[str, float]:
    """Return a unit's metrics; what is missing or not finite is left out."""
    numbers: dict[str, Any] = {"seconds": manifest.get("seconds")}
    if isinstance(unit, ComponentUnit):
        numbers |= {"updates_per_second": manifest.get("updates_per_second"), **manifest.get("metrics", {})}
    else:
        episodes = _episodes(folder / EPISODES)
        numbers |= {name: _mean(episodes[name]) for name in EPISODE_MEANS if name in episodes}
        numbers["fallbacks"] = sum(episodes["fallbacks"])
        numbers["env_steps"] = manifest.get("env_steps")
        numbers["dataset_return"] = mean_return = manifest.get("dataset_mean_return")
        numbers |= {name: manifest.get(name) for name in ("dataset_longest_episode", "dataset_time_limit")}
        numbers["max_episode_steps"] = unit.task.max_episode_steps
        if mean_return is not None:
            numbers["dataset_score"] = normalized_score(mean_return, unit.task.reference)
    return {name: float(value) for name, value in numbers.items() if _is_number(value)}


def _points(metrics: dict[str, float], curve: list[dict[str, float]], begin: int, end: int) -> list[Point]:
    """Return metrics at the end, and the points of a learning curve before it, at times in proportion to their steps.

    The last point of a curve is among the metrics. Equal records give equal points, so that writing them twice
    changes nothing.
    """
    last = int(curve[-1][STEP]) if curve else 0
    points = [
        Point(name, float(value), begin + (end - begin) * int(point[STEP]) // max(last, 1), int(point[STEP]))
        for point in curve
        if point[STEP] < last
        for name, value in point.items()
        if name != STEP and _is_number(value)
    ]
    return points + [Point(name, value, end, last) for name, value in sorted(metrics.items())]


def _curve(file: Path) -> list[dict[str, float]]:
    """Return the points of a learning curve; none where there is no file, or one that readers will complain of."""
    try:
        curve = list(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError):
        return []
    return curve if all(isinstance(point, dict) and _is_number(point.get(STEP)) for point in curve) else []


def _episodes(file: Path) -> dict[str, list[Any]]:
    """Return the columns of a file of episodes; without pandas, which takes five times as long for ten rows."""
    import pyarrow.parquet

    return dict(pyarrow.parquet.read_table(file, use_threads=False).to_pydict())


def _mean(values: list[float | None]) -> float | None:
    """Return the mean without what is missing; None if all is."""
    known = np.array(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    """Return a param as text that reads back: numbers as Python writes them, None as empty."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def finished_at(manifest: dict[str, Any]) -> int:
    """Return when the unit was finished, in milliseconds since 1970."""
    return int(1000 * datetime.fromisoformat(manifest["finished_at"]).timestamp())
