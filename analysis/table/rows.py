"""Rows of the comparison: what one method scores on one task, and what it gains over its base.

A row gathers the cells of one method over training seeds. Its score is the mean over seeds of the
per-seed means; its gain is the mean of paired differences to the base policy of the same training
seed on the same environment seeds. What cannot be computed is None, with a note that says why.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.mlflow_store import AMORTISED
from analysis.rendering import reason_missing, seeds_text
from analysis.statistics import Evidence, UnpairedError, are_successes, paired_differences
from analysis.table.published_scores import PublishedScore, published_scores

__all__ = [
    "BELOW_CLONING",
    "NUMBERED",
    "STILL_MOVING",
    "Cell",
    "Group",
    "Row",
    "groups_of",
    "published_group",
    "with_intervals",
]

# Marks behind a method; `analysis.table.under_training` decides which rows have them.
STILL_MOVING = "‡"
BELOW_CLONING = "§"
NUMBERED = ("denoising_steps", "horizon", "rollouts", "updates")  # columns that hold a whole number or nothing


@dataclass(frozen=True)
class Row:
    """One line of the CSV; the fields are its columns, in order. None is an empty field."""

    task: str
    method: str
    base: str | None = None
    kind: str | None = None  # planner kind, "none" (a frozen policy), "dataset" or "published"
    world_model: str | None = None
    denoising_steps: int | None = None
    horizon: int | None = None
    rollouts: int | None = None
    updates: int | None = None
    step_size: float | str | None = None  # "auto" where a judge chose it for every seed
    score_mean: float | None = None
    score_low: float | None = None  # 95 %, other episodes of these trained policies
    score_high: float | None = None
    gain_mean: float | None = None  # paired, over the base policy
    gain_low: float | None = None
    gain_high: float | None = None
    gain_seed_low: float | None = None  # 95 %, new training seeds
    gain_seed_high: float | None = None
    n_seeds: int | None = None
    n_episodes: int | None = None  # of all seeds together
    ms_per_step: float | None = None
    env_id: str | None = None
    mujoco: str | None = None
    score_seed_low: float | None = None
    score_seed_high: float | None = None
    score_unit: str | None = None  # "normalized" (D4RL: 0 random, 100 expert) or "return"
    return_mean: float | None = None
    published_std: float | None = None  # over training seeds, as printed
    second_hand: bool | None = None  # of a published score: quoted by others
    variant: str | None = None  # what differs in the components, where they carry axes
    role: str | None = None
    status: str = "ok"  # "ok", "partial" (some seeds lack), "failed" or "missing"
    fallbacks: int | None = None  # steps at which the base acted because the plan was not finite
    adapted_share: float | None = None  # of the steps, with another action than the pretrained policy's
    cpu_hours: float | None = None  # evaluation and training of all the row is built on
    gpu_hours: float | None = None
    keys: str | None = None  # hash of the row's keys: equal if and only if the rows mean the same
    still_moving: bool | None = None  # its base's score is shown to; None: cannot be judged, or no base to judge
    below_cloning: bool | None = None  # its base is shown to be below bc or the dataset's mean; None: as above
    evaluations_per_step: float | None = None  # of networks to act; None: not recorded, as by earlier versions

    @property
    def label(self) -> str:
        """Return the method as it is shown: with its variant, and † where the score is second-hand."""
        variant = f" ({self.variant})" if self.variant and self.variant not in self.method else ""
        return self.method + variant + (" †" if self.second_hand else "")


@dataclass(frozen=True)
class Cell:
    """One method on one task for one training seed, as planned and, if complete, as recorded."""

    key: str
    facts: Mapping[str, Any]  # task, seed, method, ... from the record, or from the plan's labels
    episodes: pd.DataFrame | None = None  # None: no result
    failure: str | None = None
    hours: tuple[float, float] = (0.0, 0.0)  # CPU-hours, GPU-hours, its components' training included

    @property
    def seed(self) -> int:
        """Return the training seed."""
        return int(self.facts["seed"])

    @property
    def is_frozen(self) -> bool:
        """Return whether its policy acts as it was trained, so that others may be compared with it as their base."""
        return self.facts["kind"] in ("none", AMORTISED)

    @property
    def policy_key(self) -> str:
        """Return the key of the component whose policy acts."""
        own = self.facts.get("policy_key")  # records of earlier versions lack it: nan, where others have it
        return own if isinstance(own, str) and own else str(self.facts["base_key"])

    @cached_property
    def scores(self) -> dict[int, float]:
        """Return environment seed → normalized score (raw return where the task has no reference)."""
        assert self.episodes is not None
        column = "return" if self.facts["score_unit"] == "return" else "normalized_score"
        values = pd.to_numeric(self.episodes[column])
        return dict(zip(self.episodes["env_seed"].astype(int), values.astype(float), strict=True))

    @property
    def is_finite(self) -> bool:
        """Return whether the score of every episode is finite."""
        return all(map(math.isfinite, self.scores.values()))


@dataclass(frozen=True)
class Group:
    """A row with the values it is computed from, for averages and verdicts."""

    row: Row
    name: str = ""  # planner or baseline in the spec
    scores: Evidence | None = None
    gains: Evidence | None = None  # None: no paired gain
    settings: tuple[tuple[str, str], ...] = ()  # (name, value) in which cells of the planner may differ
    source: str = ""  # of a published score
    cells: tuple[Cell, ...] = ()  # of one task, in the order of the plan, those without a result included

    @property
    def is_planner(self) -> bool:
        """Return whether the row is a planner's, not a baseline, the dataset or a paper."""
        return self.row.kind not in ("none", "dataset", "published")


# ---- one task -----------------------------------------------------------------------------------


def groups_of(cells: Sequence[Cell]) -> tuple[list[Group], list[str]]:
    """Return the rows of one task and one role, with notes on what they lack.

    The order is the dataset, the cells as planned, the papers (for D4RL's own datasets only).
    """
    baselines = {c.policy_key: c for c in cells if c.is_frozen and c.episodes is not None}
    gathered: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        row, again = _identity(cell.facts), 0
        while any(other.seed == cell.seed for other in gathered.get((*row, again), [])):
            again += 1  # cells with equal labels are rows of their own
        gathered.setdefault((*row, again), []).append(cell)
    notes: list[str] = []
    groups = [_group(members, baselines, notes) for members in gathered.values()]
    done = [c for c in cells if c.episodes is not None]
    if done:
        facts = done[0].facts
        dataset = _dataset_row(facts)
        groups = ([Group(dataset)] if dataset else []) + groups
        if facts["task_source"] == "d4rl" and facts["score_unit"] == "normalized":
            groups += [published_group(facts["task"], score) for score in published_scores(facts["task"])]
    return groups, notes


def _identity(facts: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("task", "method", "variant", "kind", "base", "world_model", *NUMBERED, "step_size", "role")
    return tuple(str(facts.get(name) or "") for name in names)


def _group(cells: Sequence[Cell], baselines: Mapping[str, Cell], notes: list[str]) -> Group:
    facts = cells[0].facts
    done = [cell for cell in cells if cell.episodes is not None]
    numbered: dict[str, Any] = {name: int(facts[name]) for name in NUMBERED if facts.get(name)}
    row = Row(
        task=facts["task"],
        method=facts["method"],
        base=facts["base"],
        kind=facts["kind"],
        world_model=facts.get("world_model") or None,
        **numbered,
        step_size=_number_or_word(facts.get("step_size")),
        variant=facts.get("variant") or None,
        role=facts["role"],
        status=_status(cells),
        keys=hashlib.sha256("\n".join(sorted(cell.key for cell in cells)).encode()).hexdigest()[:12],
    )
    notes += _lacking(row, cells)
    if not done:
        return Group(row, name=facts["name"], cells=tuple(cells))
    scores = {cell.seed: cell.scores for cell in done}
    successes = done[0].facts["score_unit"] == "normalized" and are_successes(scores)
    shared = len({tuple(sorted(own)) for own in scores.values()}) == 1
    gains = None
    if row.kind != "none":
        base = {c.seed: baselines[c.facts["base_key"]].scores for c in done if c.facts["base_key"] in baselines}
        try:
            differences = (paired_differences(scores, base),)
            both = successes and are_successes(base)
            gains = Evidence(differences, "differences" if both else "scores", starts_shared=shared)
        except UnpairedError as error:
            if row.role == "report":  # candidates of a selection need not be paired
                notes.append(f"{row.task}, {row.label}: no gain is shown, because {error}")
    by_seed = {cell.seed: cell.episodes for cell in done if cell.episodes is not None}
    episodes = pd.concat(by_seed.values())
    row = replace(
        row,
        n_seeds=len(done),
        n_episodes=len(episodes),
        ms_per_step=_per_step(episodes, "ms_per_step"),
        evaluations_per_step=_per_step(episodes, "evaluations_per_step"),
        env_id=_joined(cell.facts["env_id"] for cell in done),
        mujoco=_joined(cell.facts["mujoco"] for cell in done),
        score_unit=done[0].facts["score_unit"],
        return_mean=Evidence(({seed: own["return"].to_numpy() for seed, own in by_seed.items()},)).mean(),
        fallbacks=int(episodes["fallbacks"].sum()),
        adapted_share=_per_step(episodes, "adapted_share"),
        cpu_hours=sum(cell.hours[0] for cell in done),
        gpu_hours=sum(cell.hours[1] for cell in done),
    )
    values = {seed: np.array([own[e] for e in sorted(own)]) for seed, own in scores.items()}
    recorded = sorted(done[0].facts.items())
    settings = tuple((name, str(v)) for name, v in recorded if name.startswith("planner.") or name == "variant")
    evidence = Evidence((values,), "successes" if successes else "scores", starts_shared=shared)
    return with_intervals(Group(row, facts["name"], evidence, gains, settings, cells=tuple(cells)))


def _number_or_word(text: Any) -> float | str | None:
    """Return a recorded setting as a number where it is one; None where there is none."""
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        return str(text)


def _per_step(episodes: pd.DataFrame, name: str) -> float | None:
    """Return the mean of a column over steps, not over episodes; None in records that lack it."""
    known = episodes[episodes[name].notna()] if name in episodes else episodes.iloc[:0]
    return float((known[name] * known["length"]).sum() / known["length"].sum()) if len(known) else None


def with_intervals(group: Group) -> Group:
    """Fill in score and gain, each with both intervals, from the group's evidence."""
    numbers: dict[str, Any] = {}
    for column, evidence in (("score", group.scores), ("gain", group.gains)):
        if evidence is not None:
            numbers[f"{column}_mean"] = evidence.mean()
            for place, interval in (("", evidence.for_these_policies()), ("_seed", evidence.for_new_seeds())):
                numbers[f"{column}{place}_low"] = interval.low if interval else None
                numbers[f"{column}{place}_high"] = interval.high if interval else None
    return replace(group, row=replace(group.row, **numbers))


def _status(cells: Sequence[Cell]) -> str:
    lacking = [cell for cell in cells if cell.episodes is None]
    if not lacking:
        return "ok"
    if len(lacking) < len(cells):
        return "partial"
    return "failed" if any(cell.failure for cell in lacking) else "missing"


def _lacking(row: Row, cells: Sequence[Cell]) -> list[str]:
    """Say which seeds of a row have no result, one note for each reason."""
    reasons: dict[str, list[int]] = {}
    for cell in cells:
        if cell.episodes is None:
            reasons.setdefault(reason_missing(cell.failure), []).append(cell.seed)
    return [f"{row.task}, {row.label}, {seeds_text(seeds)}: {reason}" for reason, seeds in reasons.items()]


def _joined(values: Iterable[str]) -> str:
    return "+".join(sorted(set(values)))


def _dataset_row(facts: Mapping[str, Any]) -> Row | None:
    column = "dataset_return" if facts["score_unit"] == "return" else "dataset_score"
    if pd.isna(facts.get(column)):
        return None
    return Row(
        task=facts["task"],
        method="dataset",
        kind="dataset",
        score_mean=float(facts[column]),
        score_unit=facts["score_unit"],
        return_mean=float(facts["dataset_return"]),
    )


def published_group(task: str, score: PublishedScore) -> Group:
    """Return the row of a published score; ``task`` is the task's name or `AVERAGE`."""
    row = Row(
        task=task,
        method=f"{score.method} (published)",
        kind="published",
        score_mean=score.mean,
        score_unit="normalized",
        published_std=score.std,
        second_hand=score.second_hand,
    )
    return Group(row, source=score.source)
