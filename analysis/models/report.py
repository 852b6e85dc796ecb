"""Errors of a sweep's models on held-out episodes: the tables of world models and reward models.

`build_models` reads the records, `ModelsReport` renders them as CSV, Markdown and text. Every number is a mean over
training seeds of one value per seed, the model's at the end of its training; a ratio compares models of the same
seed. H, the steps of the open-loop error, is what the metric's name says.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis import rendering
from analysis.frames import load
from analysis.models.curves import Estimate, Trained, trained_parts
from analysis.rendering import DASH, TableSection, interval_text, number, seeds_text
from mpcwdwm.errors import UserError

__all__ = [
    "ONE_STEP",
    "UNCHANGED",
    "ModelRow",
    "ModelsReport",
    "build_models",
    "open_loop_metrics",
    "steps_of",
    "unchanged",
]

MODELS = ("world_model", "reward")
REFERENCE = "mlp"  # the kind that the others' errors are divided by: the plain regression
ONE_STEP = "heldout/rmse"
OPEN_LOOP = re.compile(re.escape(ONE_STEP) + r"_(\d+)_steps")  # of the error after H steps
NO_CHANGE = "_no_change"  # the same error of the prediction that the state stays as it is
R2 = "heldout/r2"  # of reward models alone
UNCHANGED = "the state does not change"
ESTIMATES = ("rmse", "rmse_ratio", "rmse_steps", "rmse_steps_ratio", "r2")
DIGITS = 3  # significant ones, of a mean
LEGEND = (
    "errors of world models: root mean square over held-out episodes, every dimension in its standard deviations; "
    "after one step, and after H recorded actions without a look at the states on the way",
    "errors of reward models: root mean square in the reward's unit; r²: share of the variance explained",
    "all: mean over training seeds at the end of training, with the 95 % interval over new training seeds "
    "(Student's t; none below three seeds)",
    "÷: geometric mean over training seeds of the error divided by that of the named model with the same seed, with "
    "the interval of the same kind",
    "upd/s: gradient updates a second, each of all seeds that one process trained together",
)


@dataclass(frozen=True)
class ModelRow:
    """One model on one task, or the prediction that nothing changes; None where there is nothing to say."""

    task: str
    component: str  # "world_model", "reward", or "unchanged"
    model: str  # what it is called
    kind: str
    rmse: Estimate | None = None  # one step
    rmse_ratio: Estimate | None = None
    steps: int | None = None  # H
    rmse_steps: Estimate | None = None  # after H steps
    rmse_steps_ratio: Estimate | None = None
    ratio_to: str | None = None  # the model that the ratios compare with
    r2: Estimate | None = None
    updates_per_second: float | None = None
    n_seeds: int | None = None


@dataclass(frozen=True)
class ModelsReport:
    """The models of a sweep.

    Attributes:
        sweep: its name.
        rows: task by task: world models in the order of the plan, "the state does not change", reward models.
        parts: what the rows are computed from, with the learning curves.
        notes: what is missing.
    """

    sweep: str
    rows: list[ModelRow]
    parts: list[Trained] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_csv(self) -> str:
        """Return the CSV: six significant digits, nothing for None; an estimate is name, name_low and name_high."""
        rows = pd.DataFrame([_columns(row) for row in self.rows])
        return rows.to_csv(index=False, lineterminator="\n", float_format="%.6g")

    def to_markdown(self) -> str:
        """Return a Markdown page: for every task a table of world models and one of reward models."""
        return rendering.to_markdown(f"{self.sweep}: models", self._sections(), [*self.notes, *LEGEND])

    def to_text(self, width: int = 100) -> str:
        """Return the tables for a terminal of ``width`` columns, without colours."""
        return rendering.to_text(self._sections(), [*self.notes, *LEGEND], width, fold=False)

    def _sections(self) -> list[TableSection]:
        sections = []
        for task in dict.fromkeys(row.task for row in self.rows):
            worlds = [row for row in self.rows if row.task == task and row.component != "reward"]
            rewards = [row for row in self.rows if row.task == task and row.component == "reward"]
            tables = (_world_cells(worlds), [_reward_cells(row) for row in rewards])
            sections.append(TableSection(task, [table for table in tables if table]))
        return sections


def build_models(tracking_uri: str, sweep: str) -> ModelsReport:
    """Return the held-out errors of a sweep's models, from its MLflow records.

    Args:
        tracking_uri: where the sweep was recorded.
        sweep: its name.

    Raises:
        UserError: the store or the sweep does not exist or cannot be reached, or no model of the sweep is finished.
    """
    parts, notes = trained_parts(load(sweep, tracking_uri=tracking_uri), MODELS)
    if not parts:
        why = f"none can be shown yet ({notes[0]}); run it" if notes else "it trains none; add a planner that imagines"
        raise UserError(f"sweep {sweep} has no world model and no reward model to show: {why}")
    rows: list[ModelRow] = []
    for task in dict.fromkeys(part.task for part in parts):
        worlds = [part for part in parts if part.task == task and part.component == "world_model"]
        reference = next((part for part in worlds if part.kind == REFERENCE), None)
        rows += [_row(part, None if part is reference else reference) for part in worlds]
        metrics: list[str | None] = [*open_loop_metrics(worlds)]
        rows += [_unchanged_row(task, worlds, metric) for metric in metrics or [None]] if worlds else []
        rows += [_row(part, None) for part in parts if part.task == task and part.component == "reward"]
    return ModelsReport(sweep, rows, parts, notes + [note for part in parts for note in _unjudged(part)])


def open_loop_metrics(parts: Sequence[Trained]) -> list[str]:
    """Return the names of the open-loop errors that some of these models have, shortest horizon first."""
    return sorted({name for part in parts for name in part.metrics if OPEN_LOOP.fullmatch(name)}, key=steps_of)


def steps_of(metric: str) -> int:
    """Return H of an open-loop error, from its name; 1 for another metric."""
    found = OPEN_LOOP.fullmatch(metric)
    return int(found[1]) if found else 1


def unchanged(worlds: Sequence[Trained], metric: str) -> Estimate | None:
    """Return the error of the prediction that the state does not change, for an error's name.

    It depends on a seed's held-out rows alone: the values that several models recorded for a seed count as one.
    """
    recorded = [part.last(metric + NO_CHANGE) for part in worlds]
    seeds = dict.fromkeys(seed for own in recorded for seed in own)
    return Estimate.over({seed: float(np.mean([own[seed] for own in recorded if seed in own])) for seed in seeds})


# ---- rows ---------------------------------------------------------------------------------------


def _row(part: Trained, reference: Trained | None) -> ModelRow:
    """Return the row of a world model, compared with the reference if there is one, or of a reward model."""
    metrics = open_loop_metrics([part])
    open_loop = metrics[0] if len(metrics) == 1 else None  # seeds rolled over different steps have no common mean
    return ModelRow(
        task=part.task,
        component=part.component,
        model=part.label,
        kind=part.kind,
        rmse=Estimate.over(part.last(ONE_STEP)),
        rmse_ratio=_ratio(part, reference, ONE_STEP),
        steps=steps_of(open_loop) if open_loop else None,
        rmse_steps=Estimate.over(part.last(open_loop)) if open_loop else None,
        rmse_steps_ratio=_ratio(part, reference, open_loop) if open_loop else None,
        ratio_to=reference.label if reference else None,
        r2=Estimate.over(part.last(R2)),
        updates_per_second=part.updates_per_second,
        n_seeds=len(part.curves),
    )


def _unchanged_row(task: str, worlds: Sequence[Trained], metric: str | None) -> ModelRow:
    return ModelRow(
        task=task,
        component="unchanged",
        model=UNCHANGED,
        kind="none",
        rmse=unchanged(worlds, ONE_STEP),
        steps=steps_of(metric) if metric else None,
        rmse_steps=unchanged(worlds, metric) if metric else None,
        n_seeds=len({seed for part in worlds for seed in part.last(ONE_STEP + NO_CHANGE)}),
    )


def _ratio(part: Trained, reference: Trained | None, metric: str) -> Estimate | None:
    """Return the geometric mean over seeds of a model's error divided by the reference's.

    The interval is that of the mean logarithm, so that exchanging the two models inverts mean and interval.
    """
    if reference is None:
        return None
    own, other = part.last(metric), reference.last(metric)
    logs = {seed: np.log(own[seed] / other[seed]) for seed in own if min(own[seed], other.get(seed, 0.0)) > 0}
    found = Estimate.over(logs)
    return found.exp() if found else None


def _unjudged(part: Trained) -> list[str]:
    """Say of which seeds there is no error, and that seeds were not judged alike."""
    notes = []
    lacking = sorted(set(part.curves) - set(part.last(ONE_STEP)))
    if lacking:
        where = f"{part.task}, {part.label}, {seeds_text(lacking)}"
        notes.append(f"{where}: no finite error (no held-out episodes, or diverged)")
    if len(open_loop_metrics([part])) > 1:
        notes.append(f"{part.task}, {part.label}: seeds were rolled over different numbers of steps, no mean is shown")
    return notes


# ---- how a row is shown -------------------------------------------------------------------------


def _world_cells(rows: Sequence[ModelRow]) -> list[dict[str, str]]:
    """Return the rows of a task's world models as text, by header; no ratios where there is nothing to divide by."""
    horizons = {row.steps for row in rows if row.steps}
    to = next((row.ratio_to for row in rows if row.ratio_to), None)
    h = f"{min(horizons)} steps" if len(horizons) == 1 else "H steps"
    cells = []
    for row in rows:
        own = {"world model": row.model, "one step ± 95 %": _text(row.rmse)}
        own |= {f"÷ {to} [95 %]": _ends(row.rmse_ratio)} if to else {}
        which = f" (H={row.steps})" if len(horizons) > 1 and row.rmse_steps else ""
        own |= {f"{h} ± 95 %": _text(row.rmse_steps) + which} if horizons else {}
        own |= {f"÷ {to} [95 %] ": _ends(row.rmse_steps_ratio)} if to and horizons else {}
        cells.append({**own, **_effort(row)})
    return cells


def _reward_cells(row: ModelRow) -> dict[str, str]:
    return {"reward model": row.model, "error ± 95 %": _text(row.rmse), "r² ± 95 %": _text(row.r2), **_effort(row)}


def _effort(row: ModelRow) -> dict[str, str]:
    pace = DASH if row.updates_per_second is None else f"{row.updates_per_second:,.0f}"
    return {"upd/s": pace, "seeds": DASH if row.n_seeds is None else str(row.n_seeds)}


def _text(estimate: Estimate | None) -> str:
    """Return "mean ± half the interval", with `DIGITS` digits of the mean and at least one of what follows."""
    if estimate is None:
        return DASH
    half = None if estimate.high is None else estimate.high - estimate.mean
    decimals = max(DIGITS - _magnitude(estimate.mean), 1 - _magnitude(half or estimate.mean), 0)
    mean = number(estimate.mean, f".{decimals}f")
    return mean if half is None else f"{mean} ± {half:.{decimals}f}"


def _magnitude(value: float) -> int:
    """Return how many digits stand before the decimal point: 0 for 0.5, −1 for 0.05."""
    return math.floor(math.log10(abs(value))) + 1 if value else 1


def _ends(ratio: Estimate | None) -> str:
    """Return "ratio [low, high]"; the interval of a ratio is not symmetric."""
    if ratio is None:
        return DASH
    return f"{ratio.mean:.2f}" + ("" if ratio.low is None else f" {interval_text(ratio.low, ratio.high, '.2f')}")


def _columns(row: ModelRow) -> dict[str, object]:
    """Return a row's columns; an estimate is three."""
    columns: dict[str, object] = {}
    for name, value in vars(row).items():
        columns[name] = value.mean if isinstance(value, Estimate) else value
        if name in ESTIMATES:
            columns |= {f"{name}_low": value and value.low, f"{name}_high": value and value.high}
    return columns
