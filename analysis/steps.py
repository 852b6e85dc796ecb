"""The steps of traced episodes: `Runs.steps`, read when they are asked for, and kept as they are read.

They are an artifact of cells whose sweep says `evaluation: {traced_episodes: N}`.
"""

import os
from pathlib import Path

import pandas as pd

from analysis.runs import Records
from mpcwdwm.data.fingerprint import cache_folder
from mpcwdwm.errors import UserError

__all__ = ["TRACED", "read_steps"]

TRACED = "traced_episodes"  # a cell's column: of how many episodes the steps are recorded
ABOUT = ("key", "task", "method", "name", "seed")  # a cell's columns that its steps have, too


def read_steps(uri: str, cells: pd.DataFrame) -> pd.DataFrame:
    """Return a row per recorded step of complete cells, with what tells the cell.

    Args:
        uri: of MLflow; only asked for what was not read before.
        cells: rows of `analysis.frames.Runs.cells`.

    Raises:
        UserError: no cell is traced, or the records are gone or cannot be reached or read.
    """
    traced = cells[(cells["status"] == "ok") & (pd.to_numeric(cells[TRACED], errors="coerce") > 0)]
    if not len(traced):
        raise UserError(
            "steps: no complete cell has any; give `evaluation: {traced_episodes: 1}` in the YAML, and run the sweep"
        )
    folder = cache_folder() / "analysis" / "steps"
    known = {str(key): frame for key in traced["key"] if (frame := _read(folder / f"{key}.parquet")) is not None}
    missing = [str(key) for key in traced["key"] if key not in known]
    if missing:
        records = Records(uri)
        for key, frame in records.steps(records.units(missing)).items():
            known[key] = frame
            _write(folder / f"{key}.parquet", frame)
    gone = [str(key) for key in traced["key"] if key not in known]
    if gone:  # the cells are known from the cache
        raise UserError(f"steps: the records of {', '.join(gone)} are no longer in MLflow: run the sweep again")
    steps = pd.concat([known[str(key)].assign(key=key) for key in traced["key"]], ignore_index=True)
    return traced[list(ABOUT)].merge(steps, on="key")


def _read(file: Path) -> pd.DataFrame | None:
    try:
        return pd.read_parquet(file)
    except (OSError, ValueError):
        return None


def _write(file: Path, frame: pd.DataFrame) -> None:
    """Keep what was read; where nothing can be written, the next call reads it again."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(partial)
        os.replace(partial, file)
    except OSError:
        return
