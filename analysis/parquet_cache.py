"""What was read of a sweep's records, kept as Parquet: only what is new is read again, and nothing without a network.

A key says what was computed, so the record of a complete unit never changes: what is in the cache is not asked for
again. The plan is, because it says which units make up the sweep; without a connection the cached one serves.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs import Records
from mpcwdwm.data.fingerprint import cache_folder, write_json
from mpcwdwm.errors import UserError

__all__ = ["Recorded", "fetch"]

FRAMES = ("units", "episodes", "curves")
PLAN = "plan.json"
NOTES = "notes"  # in the cache, beside what is in the plan


@dataclass(frozen=True)
class Recorded:
    """The records of one sweep, as they were written.

    Attributes:
        plan: keys, labels and failures: `analysis.runs.Records.plan`.
        units: a row per complete unit, indexed by key: `analysis.runs.Records.units`, with "run_id".
        episodes: a row per episode, with its cell's "key".
        curves: a row per value: "key", "step", "metric", "value".
        notes: what was left out, and that the cache served alone.
    """

    plan: dict[str, Any]
    units: pd.DataFrame
    episodes: pd.DataFrame
    curves: pd.DataFrame
    notes: list[str] = field(default_factory=list)


def fetch(uri: str, sweep: str) -> Recorded:
    """Return the records of a sweep, from the cache as far as it has them.

    Args:
        uri: sqlite:///file, http(s)://server or postgresql://...
        sweep: its name.

    Raises:
        UserError: there is no such store or sweep, or the store cannot be reached and nothing is in the cache.
    """
    folder = cache_folder() / "analysis" / hashlib.sha256(uri.encode()).hexdigest()[:12] / sweep
    try:
        records = Records(uri)
        plan = records.plan(sweep)
    except UserError as error:
        kept = _read(folder)
        if kept is None:
            raise
        return Recorded(*kept, [f"{error}; shown is what was loaded before", *kept[0].get(NOTES, [])])
    kept = _read(folder)
    known = set(kept[1].index) if kept else set()
    missing = [key for key in (*plan["components"], *plan["cells"]) if key not in known]
    frames = kept[1:] if kept else (_empty("run_id").rename_axis("key"), _empty("key"), _long({}))
    notes: list[str] = list(kept[0].get(NOTES, [])) if kept else []
    if missing:
        units = records.units(missing)
        cells = units.loc[units.index.isin(plan["cells"])]
        parts = units.loc[units.index.isin(plan["components"])]
        episodes = records.episode_rows(cells)
        plan["failed"] = {**records.unreadable, **plan.get("failed", {})}
        whole = units.drop(index=list(records.unreadable))
        curves = records.curves(parts, skip_broken=True)
        broken = [why for key, why in records.unreadable.items() if key in parts.index]
        notes = [*filter(None, [records.left_out([*plan["components"], *plan["cells"]])]), *broken]
        whole = whole.assign(run_id=[run.info.run_id for run in whole["run"]] if len(whole) else [])
        new = (whole.drop(columns="run", errors="ignore"), episodes, _long(curves))
        frames = (
            _joined([frames[0], new[0]], "run_id").rename_axis("key"),
            _joined([frames[1], new[1]], "key").reset_index(drop=True),
            pd.concat([frames[2], new[2]], ignore_index=True),
        )
    lasting = frames[0].drop(index=list(records.unreadable), errors="ignore")  # the others may be mended
    shown = {**plan, NOTES: notes}
    if kept is None or kept[0] != shown or len(lasting) > len(kept[1]):
        _write(folder, shown, (lasting, *frames[1:]))
    return Recorded(plan, *frames, notes)


def _long(curves: dict[str, list[dict[str, float]]]) -> pd.DataFrame:
    """Return learning curves, points by key, as one row per value."""
    rows = [
        (key, int(point["step"]), name, float(value))
        for key, curve in curves.items()
        for point in curve
        for name, value in point.items()
        if name != "step"
    ]
    frame = pd.DataFrame(rows, columns=["key", "step", "metric", "value"])
    return frame.astype({"key": "str", "step": int, "metric": "str", "value": float})


def _empty(column: str) -> pd.DataFrame:
    return pd.DataFrame({column: pd.Series(dtype="str")})


def _joined(frames: Any, column: str) -> pd.DataFrame:
    """Return frames below each other; an empty one with this column if there are none."""
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled) if filled else _empty(column)


# The folder


def _read(folder: Path) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame, pd.DataFrame] | None:
    """Return plan, units, episodes and curves; None where they are not all there and whole."""
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        units, episodes, curves = (pd.read_parquet(folder / f"{name}.parquet") for name in FRAMES)
    except (OSError, ValueError):
        return None
    whole = isinstance(plan, dict) and {"components", "cells"} <= plan.keys() and "run_id" in units
    return (plan, units, episodes, curves) if whole and "key" in episodes and "key" in curves else None


def _write(folder: Path, plan: dict[str, Any], frames: tuple[pd.DataFrame, ...]) -> None:
    """Keep what was read; where nothing can be written, the next call reads it again.

    The units come last: a key that they lack is read again, whatever else is there.
    """
    try:
        write_json(folder / PLAN, plan)
        for name, frame in reversed(list(zip(FRAMES, frames, strict=True))):
            partial = folder / f".{name}.{os.getpid()}"
            frame.to_parquet(partial)
            os.replace(partial, folder / f"{name}.parquet")
    except OSError:
        return
