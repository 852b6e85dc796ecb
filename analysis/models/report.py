"""Errors of a sweep's models on held-out episodes: the tables of world models and reward models.

`build_models` reads the records, `ModelsReport` renders them as CSV, Markdown and text. Every number is a mean over
training seeds of one value per seed, the model's at the end of its training; a ratio compares models of the same
seed. H, the steps of the open-loop error, is what the metric's name says.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text
from tabulate import tabulate

from analysis.models.curves import Estimate, Trained, trained_parts
from analysis.runs import Records
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
R2 = "heldout/r2"
UNCHANGED = "the state does not change"
ESTIMATES = ("rmse", "rmse_ratio", "rmse_steps", "rmse_steps_ratio", "r2")
DIGITS = 3  # significant ones, of a mean
DASH = "–"
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

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a frame; an estimate is three columns: name, name_low, name_high."""
        return pd.DataFrame([_flat(row) for row in self.rows])

    def to_csv(self) -> str:
        """Return the CSV: six significant digits, nothing for None."""
        return self.to_frame().to_csv(index=False, lineterminator="\n", float_format="%.6g")

    def to_markdown(self) -> str:
        """Return a Markdown page: for every task a table of world models and one of reward models."""
        parts = [f"# {self.sweep}: models"]
        for task in dict.fromkeys(row.task for row in self.rows):
            parts.append(f"## {task}")
            for cells in self._grids(task):
                aligned = ("left", *("right",) * (len(cells[0]) - 1))
                lines = [list(row.values()) for row in cells]
                parts.append(
                    tabulate(lines, headers=cells[0], tablefmt="github", disable_numparse=True, colalign=aligned)
                )
        parts.append("\n".join(f"- {note}" for note in [*self.notes, *LEGEND]))
        return "\n\n".join(parts) + "\n"

    def to_text(self, width: int = 100) -> str:
        """Return the tables for a terminal of ``width`` columns, without colours."""
        out = io.StringIO()
        console = Console(file=out, width=width, force_terminal=False, color_system=None, highlight=False)
        for task in dict.fromkeys(row.task for row in self.rows):
            console.print(Text(task, style="bold"))
            for cells in self._grids(task):
                grid = Grid(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
                for i, name in enumerate(cells[0]):
                    grid.add_column(name, justify="right" if i else "left", overflow="fold", no_wrap=i > 0)
                for row in cells:
                    grid.add_row(*(Text(cell) for cell in row.values()))
                console.print(grid)
        for note in [*self.notes, *LEGEND]:
            console.print(Text(f"· {note}"))
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"

    def _grids(self, task: str) -> list[list[dict[str, str]]]:
        """Return a task's tables as text: rows by header."""
        worlds = [row for row in self.rows if row.task == task and row.component != "reward"]
        rewards = [row for row in self.rows if row.task == task and row.component == "reward"]
        return [grid for grid in (_world_cells(worlds), [_reward_cells(row) for row in rewards]) if grid]


def build_models(tracking_uri: str, sweep: str) -> ModelsReport:
    """Return what a sweep's models are worth, from its MLflow records.

    Args:
        tracking_uri: where the sweep was recorded.
        sweep: its name.

    Raises:
        UserError: the store or the sweep does not exist or cannot be reached, or no model of the sweep is finished.
    """
    records = Records(tracking_uri)
    plan = records.plan(sweep)
    parts, notes = trained_parts(records, plan, MODELS)
    if not parts:
        why = f"none is finished yet ({notes[0]}); run it" if notes else "it trains none; add a planner that imagines"
        raise UserError(f"sweep {sweep} has no world model and no reward model to show: {why}")
    rows: list[ModelRow] = []
    for task in dict.fromkeys(part.task for part in parts):
        worlds = [part for part in parts if part.task == task and part.component == "world_model"]
        reference = next((part for part in worlds if part.kind == REFERENCE), None)
        rows += [_world_row(part, reference) for part in worlds]
        metrics: list[str | None] = [*open_loop_metrics(worlds)]
        rows += [_unchanged_row(task, worlds, metric) for metric in metrics or [None]] if worlds else []
        rows += [_reward_row(part) for part in parts if part.task == task and part.component == "reward"]
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

    It is a matter of the data and the seed's held-out rows: what several models say of a seed counts as one value.
    """
    said: dict[int, list[float]] = {}
    for part in worlds:
        for seed, value in part.last(metric + NO_CHANGE).items():
            said.setdefault(seed, []).append(value)
    return Estimate.over({seed: float(np.mean(values)) for seed, values in said.items()})


# ---- rows ---------------------------------------------------------------------------------------


def _world_row(part: Trained, reference: Trained | None) -> ModelRow:
    metrics = open_loop_metrics([part])
    open_loop = metrics[0] if len(metrics) == 1 else None  # seeds that were judged otherwise have no common mean
    compared = None if reference is part else reference
    return ModelRow(
        task=part.task,
        component=part.component,
        model=part.label,
        kind=part.kind,
        rmse=Estimate.over(part.last(ONE_STEP)),
        rmse_ratio=_ratio(part, compared, ONE_STEP),
        steps=steps_of(open_loop) if open_loop else None,
        rmse_steps=Estimate.over(part.last(open_loop)) if open_loop else None,
        rmse_steps_ratio=_ratio(part, compared, open_loop) if open_loop else None,
        ratio_to=compared.label if compared else None,
        updates_per_second=_mean(part.updates_per_second),
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


def _reward_row(part: Trained) -> ModelRow:
    return ModelRow(
        task=part.task,
        component=part.component,
        model=part.label,
        kind=part.kind,
        rmse=Estimate.over(part.last(ONE_STEP)),
        r2=Estimate.over(part.last(R2)),
        updates_per_second=_mean(part.updates_per_second),
        n_seeds=len(part.curves),
    )


def _ratio(part: Trained, reference: Trained | None, metric: str) -> Estimate | None:
    """Return the geometric mean of the paired ratios of a model's error to the reference's, from their logarithms.

    So a model that is twice as good for one seed and half as good for another is level, whichever is the reference.
    """
    if reference is None:
        return None
    own, other = part.last(metric), reference.last(metric)
    logs = {seed: np.log(own[seed] / other[seed]) for seed in own if min(own[seed], other.get(seed, 0.0)) > 0}
    found = Estimate.over(logs)
    if found is None or found.low is None or found.high is None:
        return None if found is None else Estimate(float(np.exp(found.mean)), None, None)
    return Estimate(float(np.exp(found.mean)), float(np.exp(found.low)), float(np.exp(found.high)))


def _mean(values: Mapping[int, float]) -> float | None:
    return float(np.mean(list(values.values()))) if values else None


def _unjudged(part: Trained) -> list[str]:
    """Say of which seeds there is no error, and that seeds were not judged alike."""
    notes = []
    lacking = sorted(set(part.curves) - set(part.last(ONE_STEP)))
    if lacking:
        seeds = f"{'seed' if len(lacking) == 1 else 'seeds'} {', '.join(map(str, lacking))}"
        notes.append(f"{part.task}, {part.label}, {seeds}: no finite error (no held-out episodes, or diverged)")
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
    mean = f"{estimate.mean:.{decimals}f}".replace("-", "−")
    return mean if half is None else f"{mean} ± {half:.{decimals}f}"


def _magnitude(value: float) -> int:
    """Return how many digits stand before the decimal point: 0 for 0.5, −1 for 0.05."""
    return math.floor(math.log10(abs(value))) + 1 if value else 1


def _ends(ratio: Estimate | None) -> str:
    """Return "ratio [low, high]"; the interval of a ratio is not symmetric."""
    if ratio is None:
        return DASH
    interval = "" if ratio.low is None or ratio.high is None else f" [{ratio.low:.2f}, {ratio.high:.2f}]"
    return f"{ratio.mean:.2f}{interval}"


def _flat(row: ModelRow) -> dict[str, object]:
    """Return a row's columns."""
    columns: dict[str, object] = {}
    for name, value in vars(row).items():
        if name in ESTIMATES:
            ends = (None, None, None) if value is None else (value.mean, value.low, value.high)
            columns |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
        else:
            columns[name] = value
    return columns
