"""The records of a sweep, read from MLflow into data frames.

A unit of work is looked up by its key: of the runs with this key the oldest FINISHED one counts. A unit that two
sweeps share is recorded once, under the sweep that was first, so units are found by the keys of the plan and not by
parent run.
"""

import json
import os
import tempfile
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from analysis.mlflow_store import (
    EXPERIMENT,
    KEY_TAG,
    KIND_TAG,
    PLAN_FILE,
    SWEEP_TAG,
    MlflowStore,
    artifact_folder,
    check_recorded,
    shown_uri,
    sweep_key,
    whole_sweep,
)
from mpcwdwm.artifact_names import CURVE, EPISODES, STEPS
from mpcwdwm.errors import UserError, did_you_mean

__all__ = ["Records", "facts_by_key", "part_keys"]

UNIT_KINDS = ("component", "cell")  # of runs
DOWNLOADS = 8  # files fetched from a server at a time: it answers one worker's requests in turn


class Records:
    """The records in one tracking store, read-only.

    Args:
        uri: sqlite:///file, http(s)://server or postgresql://...

    Raises:
        UserError: there is no such store, nothing was recorded in it, or it cannot be reached.
    """

    def __init__(self, uri: str) -> None:
        self._store = MlflowStore(uri)
        self.unreadable: dict[str, str] = {}  # key of a unit whose file was skipped → why
        check_recorded(uri)
        if self._store.connect() is None:
            raise UserError(f"tracking: {shown_uri(uri)} has no experiment '{EXPERIMENT}': run the sweep first")

    def sweeps(self) -> list[str]:
        """Return the names of the recorded sweeps, oldest first, behind them those of parts: "SWEEP/PART"."""
        runs = self._store.search(f"tags.`{KIND_TAG}` = 'sweep'")
        names = [run.data.tags.get(SWEEP_TAG, run.info.run_name) for run in runs]
        return sorted(names, key=lambda name: name != whole_sweep(name))

    def plan(self, sweep: str) -> dict[str, Any]:
        """Return a sweep's plan: the keys of its components and cells, in table order, and its failures.

        Raises:
            UserError: no such sweep was recorded.
        """
        runs = self._store.runs_of(sweep_key(sweep))
        if not runs:
            known, where = self.sweeps(), shown_uri(self._store.uri)
            parts = [name for name in known if name != sweep and whole_sweep(name) == sweep]
            if parts:
                shown = ", ".join(f"'{name}'" for name in parts)
                raise UserError(
                    f"{where} has sweep '{sweep}' only as it was run with options: {shown}; "
                    "run it without, or give the same options"
                )
            raise UserError(f"sweep '{sweep}' is not recorded in {where}{did_you_mean(sweep, known)}: run it first")
        with tempfile.TemporaryDirectory() as folder:
            text = self._file(runs[0], PLAN_FILE, Path(folder)).read_text(encoding="utf-8")
        try:
            return dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise UserError(f"the record of sweep '{sweep}' was cut short by a kill: run the sweep again") from error

    def units(self, keys: Collection[str]) -> pd.DataFrame:
        """Return one row per recorded unit, indexed by key, in the order of ``keys``.

        Columns are the run's params, tags and metrics under their own names, params and tags as
        strings, and ``run``, MLflow's run. Units that are not complete have no row.
        """
        found = self._complete
        there = [key for key in keys if key in found]
        data = ((found[key], found[key].data) for key in there)
        frame = pd.DataFrame([{**unit.tags, **unit.params, **unit.metrics, "run": run} for run, unit in data])
        frame.index = pd.Index(there, name="key", dtype=object)
        return frame

    def left_out(self, keys: Collection[str]) -> str:
        """Say which runs count for none of ``keys``: foreign, unfinished, repeated and deleted ones; "" if none.

        Of a unit that has a complete run, unfinished and deleted ones are not counted: nothing is lost with them.
        """
        wanted, done = set(keys), self._complete.keys()
        own = [run for run in self._runs if run.data.tags.get(KEY_TAG) in wanted]
        complete = sum(run.info.status == "FINISHED" for run in own)
        begun = {run.data.tags[KEY_TAG] for run in own} - done
        deleted = {run.data.tags.get(KEY_TAG, "") for run in self._store.search("", deleted=True)}
        lost = (deleted & wanted) - done - begun
        counts = {
            "of other programs": sum(KIND_TAG not in run.data.tags for run in self._runs),
            "of units that have an older one": complete - len(wanted & done),
            "begun and not finished": len(begun),
            "deleted in MLflow (`sweep run` records them again)": len(lost),
        }
        parts = [f"{count} {'run' if count == 1 else 'runs'} {which}" for which, count in counts.items() if count]
        return f"{shown_uri(self._store.uri)}: left out: {', '.join(parts)}" if parts else ""

    def cells_at(self, sweep: str, commit: str) -> list[str]:
        """Return the keys of the complete cells that a sweep recorded first, with code of one git commit, by task.

        Args:
            sweep: its name; what its parts recorded counts.
            commit: the first digits of the commit.

        Raises:
            UserError: there are none; the commits that there are are named.
        """
        runs = [
            run
            for run in self._complete.values()
            if run.data.tags[KIND_TAG] == "cell" and whole_sweep(run.data.tags.get(SWEEP_TAG, "")) == sweep
        ]
        chosen = [run for run in runs if run.data.tags.get("git_sha", "").startswith(commit)]
        chosen.sort(key=lambda run: [run.data.tags.get(name, "") for name in ("task", "method")])
        found = [run.data.tags[KEY_TAG] for run in chosen]
        if not found:
            known = ", ".join(dict.fromkeys(run.data.tags.get("git_sha", "unknown") for run in runs)) or "none"
            raise UserError(f"sweep '{sweep}' recorded no cell at commit '{commit}'; commits of its cells: {known}")
        return found

    @cached_property
    def _runs(self) -> list[Any]:
        """All runs: one search serves all frames."""
        return self._store.search("")

    @cached_property
    def _complete(self) -> dict[str, Any]:
        """The run of every complete unit, by key."""
        found: dict[str, Any] = {}
        for run in self._runs:
            if run.info.status == "FINISHED" and run.data.tags.get(KIND_TAG) in UNIT_KINDS:
                found.setdefault(run.data.tags.get(KEY_TAG, ""), run)
        return found

    def episodes(self, cells: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Return the episodes of each cell in ``cells`` (rows of `units`), by key; `unreadable` ones have none."""
        return {
            key: table.to_pandas() for key, table in self._read(cells, EPISODES, _episodes, skip_broken=True).items()
        }

    def episode_rows(self, cells: pd.DataFrame) -> pd.DataFrame:
        """Return the episodes of all ``cells`` below each other, with the cell's "key"; `unreadable` ones have none.

        Thousands of small tables are joined by Arrow, which takes a tenth of pandas' time.
        """
        tables = self._read(cells, EPISODES, _episodes, skip_broken=True)
        if not tables:
            return pd.DataFrame({"key": pd.Series(dtype="str")})
        joined = pyarrow.concat_tables(tables.values(), promote_options="permissive").to_pandas(ignore_metadata=True)
        return joined.assign(key=np.repeat(list(tables), [table.num_rows for table in tables.values()]))

    def steps(self, cells: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Return the steps of each traced cell in ``cells`` (rows of `units`), by key.

        Raises:
            UserError: the file of some is missing or not whole.
        """
        return {key: table.to_pandas() for key, table in self._read(cells, STEPS, _episodes).items()}

    def curves(self, components: pd.DataFrame, *, skip_broken: bool = False) -> dict[str, list[dict[str, float]]]:
        """Return the learning curve of each component in ``components`` (rows of `units`), by key.

        A curve is a list of points: "step", the gradient updates done, and metrics by name.

        Raises:
            UserError: the file of a curve is missing or not whole, unless those are to be skipped.
        """
        return self._read(components, CURVE, _curve, skip_broken)

    def _read(
        self, units: pd.DataFrame, name: str, read: Callable[[Path], Any], skip_broken: bool = False
    ) -> dict[str, Any]:
        """Return the content of one artifact of each unit, by key."""

        def content(run: Any) -> Any:
            try:
                return read(self._file(run, name, Path(folder) / run.info.run_id))
            except UserError as error:
                if not skip_broken:
                    raise
                self.unreadable[run.data.tags[KEY_TAG]] = str(error)
                return None

        runs = list(units["run"]) if len(units) else []
        here = all(urlsplit(run.info.artifact_uri).scheme in ("", "file") for run in runs)
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(DOWNLOADS) as pool:
            contents = map(content, runs) if here else pool.map(content, runs)
            found = dict(zip(units.index, contents, strict=True))
        return {key: one for key, one in found.items() if one is not None}

    def _file(self, run: Any, name: str, folder: Path) -> Path:
        """Return a path to a run's artifact: where it lies if that is a local folder, else a copy in ``folder``."""
        uri = run.info.artifact_uri
        if urlsplit(uri).scheme in ("", "file"):
            local = Path(unquote(urlsplit(uri).path) if uri.startswith("file:") else uri) / name
            beside = artifact_folder(self._store.uri)
            if not local.exists() and beside is not None:  # the store was moved together with its files
                local = beside / run.info.run_id / "artifacts" / name
            if local.exists():
                return local
            raise UserError(f"tracking: {local} is missing; delete MLflow's run and run the sweep again")
        from mlflow.artifacts import download_artifacts

        os.makedirs(folder, exist_ok=True)
        with self._store.reachable():
            path = download_artifacts(
                run_id=run.info.run_id, artifact_path=name, dst_path=str(folder), tracking_uri=self._store.uri
            )
        return Path(path)


def _episodes(path: Path) -> pyarrow.Table:
    """Return a file of episodes; for ten rows `pyarrow.parquet.read_table` takes three times as long."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            return file.read(use_threads=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"tracking: {path} cannot be read; delete MLflow's run and run the sweep again") from error


def _curve(path: Path) -> list[dict[str, float]]:
    try:
        return [dict(point) for point in json.loads(path.read_text(encoding="utf-8"))]
    except (TypeError, ValueError) as error:
        raise UserError(f"tracking: {path} is no learning curve; delete its run and sweep again") from error


def part_keys(cells: pd.DataFrame) -> Sequence[str]:
    """Return the keys of the components that some of ``cells`` are built on, each once, in column order."""
    columns = [name for name in cells.columns if str(name).startswith("part.")]
    return list(dict.fromkeys(key for name in columns for key in cells[name].dropna() if key))


def facts_by_key(units: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the rows of `Records.units` as mappings from the columns' names, by key."""
    return {str(key): {str(name): value for name, value in row.items()} for key, row in units.to_dict("index").items()}
