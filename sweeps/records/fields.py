"""What is recorded of a unit of work: tags, params and metrics of its run, and its entry in the plan."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from analysis.mlflow_store import KEY_TAG, KIND_TAG, SWEEP_TAG
from cluster.units import CellUnit, ComponentUnit, Unit
from mpcwdwm.artifact_names import EPISODES, MANIFEST
from mpcwdwm.data.scores import normalized_score

__all__ = ["Record", "plan_record", "record_of"]

PARAM_LENGTH = 6000  # MLflow's limit on the length of a value
EPISODE_MEANS = (
    "normalized_score",
    "return",
    "length",
    "ms_per_step",
    "imagined_return",
    "adapted_share",
    "action_change",
)


@dataclass(frozen=True)
class Record:
    """What MLflow is to hold of a published unit; times in milliseconds since 1970."""

    unit: Unit
    folder: Path  # where it is published
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    begin: int
    end: int


def record_of(unit: Unit, folder: Path, sweep: str) -> Record:
    """Return what is to be recorded of a unit that is published in a folder."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    end = finished_at(manifest)
    begin = end - int(1000 * float(manifest.get("seconds", 0)))
    params, metrics = unit_params(unit), unit_metrics(unit, manifest, folder)
    return Record(unit, folder, params, metrics, unit_tags(unit, manifest, sweep), begin, end)


def plan_record(sweep: str, components: Iterable[ComponentUnit], cells: Iterable[CellUnit]) -> dict[str, Any]:
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


def unit_tags(unit: Unit, manifest: dict[str, Any], sweep: str) -> dict[str, str]:
    """Return the tags of a unit's run: identity, data, environment, and what it ran on."""
    tags = {
        KIND_TAG: unit.kind,
        KEY_TAG: unit.key,
        SWEEP_TAG: sweep,
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
        "kind": planner.get("kind", "none"),
        "base": unit.base,
        "base_key": unit.parts.get(unit.base, ""),
        "world_model": world.get("kind"),
        "denoising_steps": world.get("denoising_steps"),
        **{name: planner.get(name) for name in ("horizon", "rollouts", "updates", "step_size")},
        "role": unit.role,
        "episodes": unit.episodes,
        "env_seed": unit.env_seed,
    }


def unit_metrics(unit: Unit, manifest: dict[str, Any], folder: Path) -> dict[str, float]:
    """Return a unit's metrics; what is missing or not finite is left out."""
    numbers: dict[str, Any] = {"seconds": manifest.get("seconds")}
    if isinstance(unit, ComponentUnit):
        numbers |= {"updates_per_second": manifest.get("updates_per_second"), **manifest.get("metrics", {})}
    else:
        episodes = _episodes(folder / EPISODES)
        numbers |= {name: _mean(episodes[name]) for name in EPISODE_MEANS}
        numbers["fallbacks"] = sum(episodes["fallbacks"])
        numbers["env_steps"] = manifest.get("env_steps")
        numbers["dataset_return"] = mean_return = manifest.get("dataset_mean_return")
        if mean_return is not None:
            numbers["dataset_score"] = normalized_score(mean_return, unit.task.reference)
    return {name: float(value) for name, value in numbers.items() if _is_number(value)}


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
