"""The records of a sweep as tidy data frames, to group, filter and plot.

    import analysis

    run = analysis.load("quickstart", where="H in (1, 3)")
    run.cells.groupby(["task", "method"])["score"].agg(["mean", "count"])  # over seeds

Every frame is long: one row is one cell, episode, component, or value of a learning curve. What is chosen (H, M, E,
step size, …) stands in columns of its own, so that everything but the seed can be grouped by.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.mlflow_store import AMORTISED, EXPERIMENT, shown_uri, whole_sweep
from analysis.parquet_cache import Recorded, fetch
from analysis.rendering import reason_missing
from analysis.runs import Records
from analysis.steps import TRACED, read_steps
from mpcwdwm.errors import UserError

__all__ = ["Runs", "load"]

STORE = "runs/mlflow.db"  # where the quickstart and sweeps with `storage: runs` record
LETTERS = {"horizon": "H", "rollouts": "M", "updates": "E", "denoising_steps": "K"}  # labels, as the paper calls them
SETTINGS = ("H", "M", "E", "K", "step_size")
WORDS = ("task", "method", "name", "variant", "kind", "base", "world_model", "role")  # labels that stay text
IDENTITY = ("sweep", "key", "task", "method", "name", "variant", "kind", "base", "world_model", "role", "seed")
GROUPING = ("sweep", "task", "method", "name", "variant", "seed", "role", *SETTINGS)  # of an episode's cell
MEANS = (
    *("return", "length", "ms_per_step", "evaluations_per_step"),
    *("imagined_return", "adapted_share", "action_change"),
)
FACTS = ("score_unit", TRACED, "env_id", "mujoco", "dataset_sha256", "git_sha", "device", "run_id")
PLANNER, CONFIG, PART = "planner.", "config.", "part."  # before the names of config fields and parts, in columns
DATASET = ("dataset_score", "dataset_return")  # means over the dataset's episodes


@dataclass(frozen=True)
class Runs:
    """The records of one sweep, or of all sweeps of a store.

    Attributes:
        sweeps: their names; a unit that several share is in the frames once, under the first.
        cells: a row per planned cell: what was chosen, "status" ("ok", "failed" or "missing") with "reason", "score"
            (mean over episodes, in "score_unit"), "gain" (mean paired difference to the base policy of the same
            training seed on the same environment seeds; none unless every episode has its counterpart), means, the
            planner's fields as "planner.NAME" and the keys of its parts as "part.NAME", both text.
        episodes: a row per episode of complete cells, with its cell's settings, "score" and "gain".
        components: a row per planned component: config fields as "config.NAME", keys of what it was trained with as
            "part.NAME", metrics at the end of training.
        curves: a row per value of a learning curve: "key", "component", "task", "seed", "step" (gradient updates
            done), "metric", "value".
        notes: what was left out, and why.
        uri: of MLflow, where they are from.
    """

    sweeps: tuple[str, ...]
    cells: pd.DataFrame
    episodes: pd.DataFrame
    components: pd.DataFrame
    curves: pd.DataFrame
    notes: tuple[str, ...] = ()
    uri: str = ""

    @cached_property
    def steps(self) -> pd.DataFrame:
        """A row per step of the traced episodes (`evaluation.traced_episodes` in the YAML), read when first asked for.

        Columns are "key", "task", "method", "name", "seed", "episode", "step" (from 0), "reward", "real_return" (from
        this step on) and "imagined_return" (both discounted, in the critic's unit), "action_change" (distance of the
        action from the frozen policy's) and "fell_back".

        Raises:
            UserError: no cell is traced.
        """
        return read_steps(self.uri, self.cells)

    def __str__(self) -> str:
        counts = self.cells["status"].value_counts()
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        head = f"{', '.join(self.sweeps)}: {len(self.cells)} cells ({states}), {len(self.episodes)} episodes, "
        head += f"{len(self.components)} components"
        return "\n".join([head, *(f"note: {note}" for note in self.notes)])


def load(experiment_or_sweep: str = EXPERIMENT, where: str | None = None, tracking_uri: str | None = None) -> Runs:
    """Return the records of a sweep, or of all sweeps, as data frames.

    The first call reads MLflow, later ones only what is new; what was read once can be loaded without a connection.

    Args:
        experiment_or_sweep: name of a sweep, or "SWEEP/PART" of a run with options; "mpcwdwm", the name of the
            experiment, stands for all whole sweeps of the store.
        where: keep the cells for which this holds, in the language of `pandas.DataFrame.query` over the columns of
            `Runs.cells`, as in "task == 'hopper-medium-v2' and H > 1"; episodes follow, components stay.
        tracking_uri: of MLflow; by default the variable MLFLOW_TRACKING_URI, else runs/mlflow.db in this folder.

    Raises:
        UserError: no such store or sweep, a store that cannot be reached and was not loaded before, or a `where`
            that is no condition on the columns.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(STORE).absolute()}"
    sweeps, left_out = [experiment_or_sweep], list[str]()
    if experiment_or_sweep == EXPERIMENT:
        sweeps, left_out = _whole_sweeps(uri)
    recorded = {sweep: fetch(uri, sweep) for sweep in sweeps}
    notes = tuple(dict.fromkeys([*left_out, *(note for one in recorded.values() for note in one.notes)]))
    cells = _first(_cells(sweep, one) for sweep, one in recorded.items())
    episodes = _first((one.episodes for one in recorded.values()), ["key", "episode"])
    cells, episodes = _with_scores(cells, episodes)
    cells = _chosen(cells, where)
    if where is not None and cells.empty:
        notes += (f"no cell is left by where={where!r}; planner.NAME and part.NAME are text, as in \"'3'\"",)
    episodes = cells[["key", *GROUPING]].merge(episodes, on="key", validate="one_to_many")
    components = _first(_components(sweep, one) for sweep, one in recorded.items())
    curves = _first((one.curves for one in recorded.values()), ["key", "step", "metric"])
    about = components[["key", "component", "task", "seed"]]
    return Runs(tuple(sweeps), cells, episodes, components, about.merge(curves, on="key"), notes, uri)


def _whole_sweeps(uri: str) -> tuple[list[str], list[str]]:
    """Return the names of a store's sweeps, and a note on the parts that are left out."""
    known = Records(uri).sweeps()
    parts = [name for name in known if name != whole_sweep(name)]
    if parts == known:
        shown = f"; runs with options can be loaded by name: {', '.join(parts)}" if parts else ""
        raise UserError(f"{shown_uri(uri)} has no whole sweep{shown}")
    notes = [f"left out are runs with options, which can be loaded by name: {', '.join(parts)}"] if parts else []
    return [name for name in known if name not in parts], notes


def _first(frames: Any, by: list[str] | None = None) -> pd.DataFrame:
    """Return frames below each other, of rows that several have the first."""
    joined = pd.concat(list(frames), ignore_index=True)
    return joined.drop_duplicates(by or ["key"], ignore_index=True)


def _chosen(cells: pd.DataFrame, where: str | None) -> pd.DataFrame:
    if where is None:
        return cells
    try:  # the condition sees the columns alone: no variables or modules of this file
        holds: object = cells.eval(where, local_dict={}, global_dict={})
        why = "it is not true or false for each cell"
    except Exception as error:  # whatever pandas, numexpr and the parser raise
        holds, why = None, " ".join(str(error).split())
    if isinstance(holds, pd.Series) and holds.dtype == bool:
        return cells.loc[holds.to_numpy()].reset_index(drop=True)
    columns = ", ".join(map(str, cells.columns))
    raise UserError(f"where: {where!r} is no condition ({why}); columns are {columns}")


# ---- cells and episodes -------------------------------------------------------------------------


def _cells(sweep: str, recorded: Recorded) -> pd.DataFrame:
    """Return a row for every cell of the plan, under the sweep's own labels."""
    plan, units = recorded.plan, recorded.units.reindex(recorded.plan["cells"])
    labels = [_label(plan.get("labels", {}).get(key), facts) for key, facts in _rows(units).items()]
    frame = pd.DataFrame(labels, columns=[*WORDS, "base_key", "policy_key", "seed", *SETTINGS])
    if frame["seed"].notna().all():  # plans of early versions do not name those of missing cells
        frame["seed"] = frame["seed"].astype("int64")
    frame["sweep"], frame["key"] = sweep, pd.Series(units.index, dtype="str")
    frame = frame.reindex(columns=[*IDENTITY, *SETTINGS, "base_key", "policy_key"])
    frame["status"], frame["reason"] = _states(plan, units)
    for name in (*FACTS, *DATASET):
        frame[name] = units[name].to_numpy() if name in units else None
    frame = frame.join(_chosen_fields(units, (PLANNER, PART)))
    hours = pd.to_numeric(units["seconds"], errors="coerce") / 3600 if "seconds" in units else np.nan
    frame["hours"] = np.asarray(hours, dtype=float) if np.ndim(hours) else np.nan
    return frame


def _rows(units: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {str(key): {str(name): value for name, value in row.items()} for key, row in units.to_dict("index").items()}


def _label(planned: Mapping[str, Any] | None, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a cell is, from the plan or, for plans without labels, from its record."""
    facts = planned or recorded
    label = {name: facts.get(name) or "" for name in (*WORDS, "base_key")}
    own = facts.get("policy_key")  # records of earlier versions lack it
    label["policy_key"] = own if isinstance(own, str) and own else label["base_key"]
    numbers = {LETTERS.get(name, name): facts.get(name) for name in ("seed", *LETTERS, "step_size")}
    return {**label, **{name: _number(value) for name, value in numbers.items()}}


def _number(value: Any) -> float:
    """Return a recorded setting as a number; nan where it is none, as what is unset or "auto"."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _states(plan: Mapping[str, Any], units: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return "ok", "failed" or "missing" for every unit, and why it is not ok."""
    failed, states, reasons = plan.get("failed", {}), list[str](), list[str]()
    for key, run in units["run_id"].items():
        there = isinstance(run, str)
        states.append("ok" if there else "failed" if key in failed else "missing")
        reasons.append("" if there else reason_missing(failed.get(key)))
    return states, reasons


def _with_scores(cells: pd.DataFrame, episodes: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both frames with "score" and "gain", the cells with means over their episodes."""
    facts = cells[["key", "seed", "base_key", "policy_key", "kind", "score_unit"]]
    needed = ["key", "episode", "env_seed", "normalized_score", "evaluations_per_step"]  # old records lack the last
    own = episodes.reindex(columns=[*dict.fromkeys([*needed, *episodes])])
    own = own.merge(facts, on="key")
    normalized = pd.to_numeric(own["normalized_score"], errors="coerce")
    own["score"] = normalized.where(own["score_unit"] == "normalized", own.get("return"))
    frozen = own.loc[own["kind"].isin(["none", AMORTISED]), ["policy_key", "seed", "env_seed", "score"]]
    frozen = frozen.rename(columns={"policy_key": "base_key"}).drop_duplicates(["base_key", "seed", "env_seed"])
    paired = own.merge(frozen, on=["base_key", "seed", "env_seed"], how="left", suffixes=("", "_base"))
    own["gain"] = (paired["score"] - paired["score_base"]).where(paired["kind"] != "none").to_numpy()
    means = [name for name in ("score", *MEANS) if name in own]
    for name in means:
        own[name] = pd.to_numeric(own[name], errors="coerce")
    by_key = own.groupby("key")
    found = by_key[means].mean()
    found["gain"] = by_key["gain"].mean().where(by_key["gain"].count() == by_key.size())
    found["episodes"] = by_key.size()
    tidy = own.drop(columns=["seed", "base_key", "policy_key", "kind", "score_unit", "normalized_score"])
    return cells.merge(found, left_on="key", right_index=True, how="left"), tidy


# ---- components ---------------------------------------------------------------------------------


def _components(sweep: str, recorded: Recorded) -> pd.DataFrame:
    """Return a row for every component of the plan; of one without a record nothing but its key is known."""
    units = recorded.units.reindex(recorded.plan["components"])
    frame = pd.DataFrame({"sweep": sweep, "key": pd.Series(units.index, dtype="str")})
    frame["component"] = units["method"].to_numpy() if "method" in units else None
    frame["task"] = units["task"].to_numpy() if "task" in units else None
    frame["seed"] = pd.to_numeric(units["seed"]).to_numpy() if "seed" in units else np.nan
    frame["status"], frame["reason"] = _states(recorded.plan, units)
    numeric = [name for name in units if pd.api.types.is_numeric_dtype(units[name]) and units[name].notna().any()]
    for name in (*numeric, *FACTS):
        if name in units:
            frame[name] = units[name].to_numpy()
    return frame.join(_chosen_fields(units, (CONFIG, PART)))


# ---- both ---------------------------------------------------------------------------------------


def _chosen_fields(units: pd.DataFrame, prefixes: tuple[str, ...]) -> pd.DataFrame:
    """Return the columns of units with these prefixes that some have, as text, in the order of the units."""
    names = [name for name in units if str(name).startswith(prefixes) and units[name].notna().any()]
    return units[names].reset_index(drop=True)
