"""Trained components of a sweep with the learning curve of every training seed, read from the records.

Components of one task that differ in the seed alone are one `Trained`. Those of the same kind are told apart by the
fields in which their configs, or the configs of what they were trained with, differ: "diffusion K=5", "diffusion
K=10".
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.frames import CONFIG, PART, Runs
from analysis.statistics import seed_interval

__all__ = ["Estimate", "Trained", "trained_parts"]

SHORT = {"denoising_steps": "K"}  # fields with a name of their own in the literature
KEYS_SHOWN = 3  # in a note on what is missing
NO_CURVE = "its learning curve cannot be read; delete its run in MLflow and run the sweep again"
PACE = "updates_per_second"  # of a component's record
STEP = "step"  # a point's place: gradient updates done

Values = dict[int, float]  # by training seed


@dataclass(frozen=True)
class Estimate:
    """A mean over training seeds, with its 95 % interval over new ones; no interval below three seeds."""

    mean: float
    low: float | None
    high: float | None

    @classmethod
    def over(cls, values: Mapping[int, float]) -> "Estimate | None":
        """Return the estimate from one value per training seed; None without any."""
        by_seed = list(values.values())
        if not by_seed:
            return None
        interval = seed_interval(by_seed)
        return cls(float(np.mean(by_seed)), *((interval.low, interval.high) if interval else (None, None)))

    def exp(self) -> "Estimate":
        """Return the estimate of a quantity from that of its logarithm."""
        ends = (None if end is None else float(np.exp(end)) for end in (self.low, self.high))
        return Estimate(float(np.exp(self.mean)), *ends)


@dataclass(frozen=True)
class Trained:
    """One component with one config on one task.

    Attributes:
        task: its name.
        score_unit: "normalized" or "return", in which policies are judged on the task.
        component: "rebrac", "world_model", …
        kind: of the world model; for other components their name.
        label: the kind, and the fields in which this config differs from others of its kind on the task.
        curves: training seed → the points of its learning curve.
        updates_per_second: of the processes that trained it, mean over seeds; None where it is not recorded.
    """

    task: str
    score_unit: str
    component: str
    kind: str
    label: str
    curves: dict[int, list[dict[str, float]]]
    updates_per_second: float | None

    @property
    def metrics(self) -> set[str]:
        """Return the names of what the curves hold."""
        return {name for curve in self.curves.values() for point in curve for name in point} - {STEP}

    def last(self, metric: str) -> Values:
        """Return a metric at the end of training, by seed; seeds without a finite value there are left out."""
        ends = {seed: curve[-1][metric] for seed, curve in self.curves.items() if curve and metric in curve[-1]}
        return {seed: end for seed, end in ends.items() if math.isfinite(end)}

    def series(self, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return gradient updates (P,) and a metric there (S, P), at the points that all seeds with the metric have."""
        by_seed = [
            {point[STEP]: point[metric] for point in curve if math.isfinite(point.get(metric, math.nan))}
            for curve in self.curves.values()
        ]
        seeds = [own for own in by_seed if own]
        steps = sorted(set.intersection(*(set(own) for own in seeds))) if seeds else []
        return np.array(steps, dtype=float), np.array([[own[step] for step in steps] for own in seeds], dtype=float)


class _Group(NamedTuple):
    """What components that differ in the seed alone share."""

    task: str
    component: str
    kind: str
    fields: tuple[tuple[str, str], ...]
    again: int = 0  # counts components that no recorded field tells apart


def trained_parts(run: Runs, names: Collection[str]) -> tuple[list[Trained], list[str]]:
    """Return a sweep's components of these names, in the order of the plan, and notes on what is missing.

    Args:
        run: of `analysis.load`.
        names: "rebrac", "world_model", …
    """
    chosen = run.components["key"].str.startswith(tuple(f"{name}-" for name in names))
    planned = run.components.loc[chosen]
    curves = _curves(run)
    there = planned[planned["status"] == "ok"].set_index("key", drop=False)
    unreadable = [key for key in there.index if key not in curves]
    everything = run.components.set_index("key")
    groups: dict[_Group, dict[int, str]] = {}  # training seed → key
    for key, unit in there.drop(unreadable).iterrows():
        fields = _fields(everything, str(key))
        kind, seed = fields.get("kind", unit["component"]), int(unit["seed"])
        group = _Group(unit["task"], unit["component"], kind, tuple(sorted(fields.items())))
        while seed in groups.get(group, {}):
            group = group._replace(again=group.again + 1)
        groups.setdefault(group, {})[seed] = str(key)
    parts = []
    for group, members in groups.items():
        units = there.reindex(columns=["score_unit", PACE]).loc[list(members.values())]
        pace = float(units[PACE].mean())
        label, own = _label(group, groups), {seed: curves[key] for seed, key in members.items()}
        unit_name, speed = str(units["score_unit"].iloc[0]), None if math.isnan(pace) else pace
        parts.append(Trained(group.task, unit_name, group.component, group.kind, label, own, speed))
    missing = planned[planned["status"] != "ok"]
    notes = _by_reason([*zip(missing["key"], missing["reason"], strict=True), *((key, NO_CURVE) for key in unreadable)])
    return parts, notes


def _curves(run: Runs) -> dict[str, list[dict[str, float]]]:
    """Return every component's points of its learning curve, by key."""
    curves: dict[str, dict[int, dict[str, float]]] = {}
    columns = run.curves[["key", "step", "metric", "value"]]
    for key, step, metric, value in columns.itertuples(index=False, name=None):
        curves.setdefault(key, {}).setdefault(step, {STEP: float(step)})[metric] = value
    return {key: list(points.values()) for key, points in curves.items()}


def _fields(units: pd.DataFrame, key: str) -> dict[str, str]:
    """Return a component's config as it was recorded, and that of what it was trained with."""
    recorded = {str(name): text for name, text in units.loc[key].items() if isinstance(text, str)}
    fields = {name.removeprefix(CONFIG): text for name, text in recorded.items() if name.startswith(CONFIG)}
    for name, part in recorded.items():
        if name.startswith(PART) and part:
            own = _fields(units, part) if part in units.index else {"key": part}
            fields |= {f"{name.removeprefix(PART)}.{field}": text for field, text in own.items()}
    return fields


def _label(group: _Group, groups: Iterable[_Group]) -> str:
    """Return the kind and the fields in which a config differs from others of its kind on the task."""
    own = (group.task, group.component, group.kind)
    alike = [dict(other.fields) for other in groups if (other.task, other.component, other.kind) == own]
    differing = [
        f"{SHORT.get(name, name)}={text or 'none'}"
        for name, text in group.fields
        if len({other[name] for other in alike if name in other}) > 1
    ]
    return " ".join([group.kind, *differing, *([f"({group.again + 1})"] if group.again else [])])


def _by_reason(missing: Iterable[tuple[str, str]]) -> list[str]:
    """Say which components have no result, (key, reason), one note for each reason."""
    reasons: dict[str, list[str]] = {}
    for key, reason in missing:
        reasons.setdefault(reason, []).append(key)
    notes = []
    for reason, own in reasons.items():
        more = f" and {len(own) - KEYS_SHOWN} more" if len(own) > KEYS_SHOWN else ""
        notes.append(f"{', '.join(own[:KEYS_SHOWN])}{more}: {reason}")
    return notes
