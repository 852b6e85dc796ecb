"""Records of a sweep in MLflow: one parent run, one child run per unit of work.

Only the driver writes. A unit's run is found by the tag that holds its key, so logging is an upsert: a FINISHED run
is left alone, one that a killed driver left half-written is continued, and one deleted by hand is made again from
the artifact store. The time of every point follows from the unit's manifest, so writing it twice changes nothing.

Every unit that a sweep consists of carries the sweep's mark (`analysis.mlflow_store.member_tag`): also one that another
sweep recorded. Units of an earlier run that are no longer in the plan lose it.

MLflow takes ten to twenty milliseconds of processor time to make, fill and close a run, so requests are few: runs
are searched once and remembered until another process writes to the file (`Tracker._writing`), and artifacts are
copied to the run's folder where that is on this machine.

sqlite waits at each of MLflow's four commits a unit until the disk has it. So the file is kept with a
write-ahead log (`_write_ahead`): a commit is appended to ``mlflow.db-wal`` without waiting. A killed process loses
nothing; a power cut may lose the last records, and the next run makes them again from the artifact store.
`Tracker.finish` moves the log into ``mlflow.db``, which can then be copied alone and read where nothing can be written,
unless another process has it open. All processes that use the file at
the same time must be on one machine, as sqlite demands; several machines need a server.
"""

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit
from weakref import WeakSet

from filelock import FileLock

from analysis.mlflow_store import (
    EXPERIMENT,
    EXPERIMENT_KIND,
    KEY_TAG,
    KIND_TAG,
    PLAN_FILE,
    SPEC_FILE,
    SWEEP_TAG,
    MlflowStore,
    artifact_folder,
    member_tag,
    quiet_mlflow,
    shown_uri,
    sqlite_file,
    sweep_key,
)
from cluster.units import CellUnit, ComponentUnit, TaskRef, Unit
from mpcwdwm.artifact_names import CURVE, EPISODES, MANIFEST
from mpcwdwm.data.fingerprint import cache_folder
from mpcwdwm.errors import UserError
from sweeps.records.fields import Record, dataset_of, record_of

__all__ = ["Tracker"]

PARAMS_PER_BATCH = 100  # MLflow's limit on one log_batch
METRICS_PER_BATCH = 500  # the limit is 1000 for metrics and params together
LOCKED_SECONDS = 1.0  # how long the end of the log waits for other processes

_ENGINES: WeakSet[Any] = WeakSet()  # SQLAlchemy's, of this process: their connections are closed to end the log


Index = dict[str, list[Any] | None]
"""Key → its runs, the one to keep first; None once it has exactly one, complete and marked as of this sweep."""


def _index(runs: Iterable[Any], sweep: str) -> Index:
    found = dict[str, list[Any]]()
    for run in runs:
        found.setdefault(run.data.tags.get(KEY_TAG, ""), []).append(run)
    return {key: None if len(own) == 1 and _is_settled(own[0], sweep) else own for key, own in found.items()}


def _is_settled(run: Any, sweep: str) -> bool:
    return run.info.status == "FINISHED" and member_tag(sweep) in run.data.tags


class Tracker:
    """Writes one sweep's records.

    Args:
        uri: sqlite:///file, http(s)://server or postgresql://...
        sweep: name of the sweep.

    Raises:
        UserError: the store is of a kind that is not served (here) or cannot be reached (later).
    """

    def __init__(self, uri: str, sweep: str) -> None:
        self._store = MlflowStore(uri)
        self._file = sqlite_file(uri)
        self.sweep = sweep
        self._plan: dict[str, Any] = {}
        self._parent = ""
        self._index: Index | None = None  # None: not searched, or another process has written since
        self._written = ""  # the file's state after our last write

    def start(
        self, plan: dict[str, Any], spec_text: str, tags: Mapping[str, str] | None = None, tasks: Iterable[TaskRef] = ()
    ) -> None:
        """Create the store and the experiment where they are missing, and open the parent run.

        A fresh sqlite store takes seconds; nothing else may write to it before this returns.

        Args:
            plan: `sweeps.records.fields.plan_record`.
            spec_text: the sweep as YAML.
            tags: of the parent run: `sweeps.records.fields.parent_tags`.
            tasks: whose datasets are the parent run's inputs.
        """
        self._connect()
        from mlflow.entities import RunTag

        self._plan = plan
        with self._writing():
            runs = self._store.runs_of(sweep_key(self.sweep))
            self._delete(runs[1:])
            if runs:
                self._parent = runs[0].info.run_id
                self._client.update_run(self._parent, status="RUNNING")
            else:
                tags = {KIND_TAG: "sweep", KEY_TAG: sweep_key(self.sweep), SWEEP_TAG: self.sweep}
                run = self._client.create_run(self._store.experiment_id, run_name=self.sweep, tags=tags)
                self._parent = run.info.run_id
            self._client.log_batch(self._parent, tags=[RunTag(name, text) for name, text in (tags or {}).items()])
            self._log_datasets(self._parent, tasks)
            self._client.log_text(self._parent, json.dumps(plan, indent=1), PLAN_FILE)
            self._client.log_text(self._parent, spec_text, SPEC_FILE)

    def log(self, unit: Unit, folder: Path) -> bool:
        """Record one finished unit; return False if MLflow already holds it complete."""
        with self._writing():
            index = _index(self._store.runs_of(unit.key), self.sweep) if self._index is None else self._index
            return self._upsert([(unit, folder)], index) == 1

    def sync(self, units_and_folders: Iterable[tuple[Unit, Path]]) -> int:
        """Record what the artifact store holds and MLflow does not; return how many units that were.

        Units of an earlier run of this sweep that it no longer consists of lose its mark.
        """
        with self._writing():
            runs = self._store.unit_runs()
            self._dismiss(runs)
            index = _index(runs, self.sweep)
            written = self._upsert(units_and_folders, index)
            if self._file is not None:  # a server has writers on other machines
                self._index = index
            return written

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"], failed: dict[str, str]) -> None:
        """Close the parent run; ``failed`` maps keys to one-line reasons, shown in the table."""
        with self._writing():
            self._client.log_text(self._parent, json.dumps({**self._plan, "failed": failed}, indent=1), PLAN_FILE)
            self._client.set_terminated(self._parent, status=status)
            if self._file is not None:
                _end_write_ahead(self._file)

    # Units

    def _upsert(self, units_and_folders: Iterable[tuple[Unit, Path]], index: Index) -> int:
        """See that every key has exactly one run, complete and marked; return how many had to be written."""
        written = 0
        for unit, folder in units_and_folders:
            runs = index.get(unit.key, [])
            if runs is None:
                continue
            self._delete(runs[1:])
            if not runs or runs[0].info.status != "FINISHED":
                self._write(record_of(unit, folder, self.sweep), runs[0] if runs else None)
                written += 1
            elif not _is_settled(runs[0], self.sweep):  # recorded by another sweep
                self._client.set_tag(runs[0].info.run_id, member_tag(self.sweep), unit.kind)
            index[unit.key] = None
        return written

    def _dismiss(self, runs: Iterable[Any]) -> None:
        """Take this sweep's mark from runs whose units are not in its plan."""
        mark, present = member_tag(self.sweep), {*self._plan["components"], *self._plan["cells"]}
        for run in runs:
            if mark in run.data.tags and run.data.tags.get(KEY_TAG) not in present:
                self._client.delete_tag(run.info.run_id, mark)
                del run.data.tags[mark]

    def _write(self, record: Record, begun: Any) -> None:
        """Make and fill a unit's run, or complete the one that was begun for it."""
        if begun and any(record.params.get(name, value) != value for name, value in begun.data.params.items()):
            self._delete([begun])  # MLflow's params cannot be changed: begun by a version that named them otherwise
            begun = None
        if not begun:
            tags = {**record.tags, "mlflow.parentRunId": self._parent}
            begun = self._client.create_run(
                self._store.experiment_id, run_name=record.name, tags=tags, start_time=record.begin
            )
        if isinstance(record.unit, ComponentUnit):
            self._log_datasets(begun.info.run_id, [record.unit.task])
        for name in (MANIFEST, EPISODES if isinstance(record.unit, CellUnit) else CURVE):
            if (record.folder / name).exists():
                self._log_file(begun.info, record.folder / name)
        self._log_numbers(begun.info.run_id, record)
        self._client.set_terminated(begun.info.run_id, status="FINISHED", end_time=record.end)

    def _log_file(self, info: Any, file: Path) -> None:
        """Put a file among a run's artifacts."""
        if self._file is None:
            self._client.log_artifact(info.run_id, str(file))
            return
        target = Path(unquote(urlsplit(info.artifact_uri).path)) / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)

    def _log_datasets(self, run_id: str, tasks: Iterable[TaskRef]) -> None:
        """Name the datasets of tasks as a run's inputs; one that is named already stays as it is."""
        from mlflow.entities import Dataset, DatasetInput

        inputs = [DatasetInput(Dataset(**dataset_of(task))) for task in tasks]
        if inputs:
            self._client.log_inputs(run_id, datasets=inputs)

    def _log_numbers(self, run_id: str, record: Record) -> None:
        from mlflow.entities import Metric, Param

        metrics = [Metric(*point) for point in record.points]
        params = [Param(name, value) for name, value in record.params.items()]
        while metrics or params:
            self._client.log_batch(run_id, metrics=metrics[:METRICS_PER_BATCH], params=params[:PARAMS_PER_BATCH])
            metrics, params = metrics[METRICS_PER_BATCH:], params[PARAMS_PER_BATCH:]

    # The store

    @property
    def _client(self) -> Any:
        return self._store.client

    def _connect(self) -> None:
        if self._store.experiment_id:
            return
        if self._file is not None:
            with self._locked(), self._store.reachable():
                _create_sqlite_store(self._file)
        found = self._store.connect()
        uri, here = self._store.uri, artifact_folder(self._store.uri)
        if found is None:
            if uri.startswith("postgresql"):
                raise UserError(
                    "tracking: a postgresql store has no place for files of its own; create the experiment once with "
                    f"'mlflow experiments create -n {EXPERIMENT} -l FOLDER_OR_URL', or give the URI of an MLflow server"
                )
            with self._store.reachable():
                location = here.as_uri() if here else None
                self._store.experiment_id = str(
                    self._store.client.create_experiment(EXPERIMENT, location, EXPERIMENT_KIND)
                )
        elif found.lifecycle_stage != "active":
            raise UserError(
                f"tracking: experiment '{EXPERIMENT}' of {shown_uri(uri)} was deleted; restore it with "
                f"'mlflow experiments restore --experiment-id {found.experiment_id}' or use another tracking uri"
            )
        elif here is not None and not _same_folder(found.artifact_location, here):
            raise UserError(
                f"tracking: {self._file} was moved from {found.artifact_location}, where its files would "
                "still go; move it back, or remove it: the next run records everything anew from the storage folder"
            )
        elif not EXPERIMENT_KIND.keys() <= found.tags.keys():  # of an earlier version
            with self._store.reachable():
                for name, kind in EXPERIMENT_KIND.items():
                    self._client.set_experiment_tag(found.experiment_id, name, kind)

    def _delete(self, runs: Iterable[Any]) -> None:
        for run in runs:
            self._client.delete_run(run.info.run_id)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock while writing: two drivers on a machine could make a key's run twice, or delete both."""
        with self._locked(), self._store.reachable():
            if self._written != self._state():
                self._index = None
            try:
                yield
            except BaseException:
                self._index = None  # something may be half written
                raise
            self._written = self._state()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock that other drivers on this machine wait for."""
        path = _lock_file(self._store.uri)
        lock = FileLock(path, mode=0o666)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            raise UserError(f"tracking: cannot write {path.parent}: {error.strerror}") from error
        try:
            yield
        finally:
            lock.release()

    def _state(self) -> str:
        """Return size and time of the sqlite file and its log, which every writer changes."""
        if self._file is None:
            return ""
        there = [file.stat() for file in (self._file, Path(f"{self._file}-wal")) if file.exists()]
        return " ".join(f"{status.st_size} {status.st_mtime_ns}" for status in there)


def _create_sqlite_store(file: Path) -> None:
    """Create a sqlite store with its experiment under a temporary name, then rename; the lock must be held.

    MLflow's schema is built by dozens of migrations: a process killed among them leaves a file that no
    MLflow opens again.
    """
    quiet_mlflow()
    import sqlalchemy
    from mlflow import MlflowClient

    for moment, listener in (("connect", _write_ahead), ("engine_connect", _note_engine)):
        if not sqlalchemy.event.contains(sqlalchemy.Engine, moment, listener):
            sqlalchemy.event.listen(sqlalchemy.Engine, moment, listener)
    if file.exists() and file.stat().st_size > 0:
        return
    fresh = file.with_name(file.name + ".new")
    fresh.unlink(missing_ok=True)
    client = MlflowClient(f"sqlite:///{fresh}")
    client.create_experiment(EXPERIMENT, (file.parent / "mlartifacts").as_uri(), EXPERIMENT_KIND)
    os.replace(fresh, file)


def _write_ahead(connection: Any, _: Any) -> None:
    """Have a new connection to a sqlite store log its commits and not wait for the disk."""
    if isinstance(connection, sqlite3.Connection):
        file = next(iter(connection.execute("PRAGMA database_list")))[2]
        if not file.endswith(".new"):  # that one is renamed while it is open, and its log would not be
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")


def _note_engine(connection: Any) -> None:
    _ENGINES.add(connection.engine)


def _end_write_ahead(file: Path) -> None:
    """Move the log into the file and go on without one, because its readers write, too; not while others use the file.

    Our own connections are closed, and the next ones of this process begin no log before another `Tracker` does.
    """
    import sqlalchemy

    if sqlalchemy.event.contains(sqlalchemy.Engine, "connect", _write_ahead):
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", _write_ahead)
    for engine in [each for each in _ENGINES if Path(each.url.database or "").absolute() == file]:
        engine.dispose()
    with closing(sqlite3.connect(file, LOCKED_SECONDS)) as connection, suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")


def _lock_file(uri: str) -> Path:
    """Return a store's lock: beside a sqlite file, else in the user's cache."""
    file = sqlite_file(uri)
    if file is not None:
        return file.with_name(file.name + ".lock")
    return cache_folder() / "tracking" / f"{hashlib.sha256(uri.encode()).hexdigest()[:12]}.lock"


def _same_folder(location: str, folder: Path) -> bool:
    if location.startswith("file:"):
        return location.rstrip("/") in (folder.as_uri(), folder.resolve().as_uri())
    return Path(location).resolve() == folder.resolve()
