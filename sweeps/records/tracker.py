"""Records of a sweep in MLflow: one parent run, one child run per unit of work.

The driver is the only writer. A unit's run is found by the tag that holds its key, so logging is an
upsert: what is FINISHED is left alone, what a killed driver left half-written is continued, and a
run deleted by hand is made again from the artifact store, which is the truth; MLflow is its index.
All points of a run carry the time at which the unit was finished, so writing them twice changes
nothing.

MLflow takes 35 ms of processor time to find, make, fill and close a run, most of it per request. So as
few requests are made as do: one each to make it, to fill it and to close it. Which runs there are is
asked once and remembered while nobody else writes (`Tracker._writing`), where artifacts are files
of this machine they are copied to the run's place without asking for it again, and of what waits to be
recorded in a sqlite file some twenty units are committed together (`sweeps.records.transaction`).
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import unquote, urlsplit

from analysis.mlflow_store import (
    EPISODES_FILE,
    EXPERIMENT,
    KEY_TAG,
    KIND_TAG,
    MANIFEST_FILE,
    PLAN_FILE,
    SPEC_FILE,
    SWEEP_TAG,
    artifact_folder,
    check_tracking_uri,
    first_line,
    quiet_mlflow,
    shown_uri,
    sqlite_file,
    sweep_key,
)
from cluster.units import CellUnit, Unit
from mpcwdwm.data.fingerprint import cache_folder
from mpcwdwm.errors import UserError
from sweeps.records.fields import Record, record_of
from sweeps.records.transaction import one_transaction

__all__ = ["TOGETHER", "Tracker"]

TOGETHER = 20  # units of one transaction: a second's work, and commits no longer count

CURVE_FILE = "curve.json"
PARAMS_PER_BATCH = 100  # MLflow's limit on one log_batch
METRICS_PER_BATCH = 500  # the limit is 1000 for metrics and params together
PAGE = 1000  # runs per search request
PROBE_SECONDS = 10.0  # a server that does not answer for this long counts as unreachable


class Index:
    """Which keys have their run: `complete`, and `unsettled`, with their runs, what is left to be done for.

    Args:
        runs: of units, those to keep first.
    """

    def __init__(self, runs: Iterable[Any]) -> None:
        self.unsettled: dict[str, list[Any]] = {}
        for run in runs:
            self.unsettled.setdefault(run.data.tags.get(KEY_TAG, ""), []).append(run)
        whole = [key for key, own in self.unsettled.items() if len(own) == 1 and own[0].info.status == "FINISHED"]
        self.complete: set[str] = set()
        for key in whole:
            self.settle(key)

    def settle(self, key: str) -> None:
        """Note that a key has one complete run."""
        self.unsettled.pop(key, None)
        self.complete.add(key)


class Tracker:
    """Writes one sweep's records.

    Args:
        uri: sqlite:///file, http(s)://server or postgresql://...
        sweep: name of the sweep.

    Raises:
        UserError: the store is of a kind that is not served (here) or cannot be reached (later).
    """

    def __init__(self, uri: str, sweep: str) -> None:
        self.uri = check_tracking_uri(uri)
        self.sweep = sweep
        self._plan: dict[str, Any] = {}
        self._client: Any = None
        self._experiment = ""
        self._parent = ""
        self._name = uuid.uuid4().hex  # what we leave in the lock, to see whether others wrote after us
        self._index: Index | None = None  # None: not asked, or somebody else has written since

    def start(self, plan: dict[str, Any], spec_text: str) -> None:
        """Create the store and the experiment where they are missing, and open the parent run.

        A fresh sqlite store takes seconds; nothing else may write to it before this returns.
        """
        self._connect()
        self._plan = plan
        with self._writing():
            runs = self._search(f"tags.`{KEY_TAG}` = '{sweep_key(self.sweep)}'")
            self._delete(runs[1:])
            if runs:
                self._parent = runs[0].info.run_id
                self._client.update_run(self._parent, status="RUNNING")
            else:
                tags = {KIND_TAG: "sweep", KEY_TAG: sweep_key(self.sweep), SWEEP_TAG: self.sweep}
                run = self._client.create_run(self._experiment, run_name=self.sweep, tags=tags)
                self._parent = run.info.run_id
            self._log_text(self._parent, PLAN_FILE, json.dumps(plan, indent=1))
            self._log_text(self._parent, SPEC_FILE, spec_text)

    def log(self, unit: Unit, folder: Path) -> bool:
        """Record one finished unit; return False if MLflow already holds it complete."""
        return self.log_all([(unit, folder)]) == 1

    def log_all(self, units_and_folders: Sequence[tuple[Unit, Path]]) -> int:
        """Record finished units; return how many of them MLflow did not hold complete."""
        pairs = units_and_folders
        with self._writing():
            # A server has writers on other machines: nothing may pass between looking for a run and making it.
            groups = [pairs] if sqlite_file(self.uri) is not None else [[pair] for pair in pairs]
            return sum(self._upsert(group, self._index or self._find(group)) for group in groups)

    def _find(self, units_and_folders: Sequence[tuple[Unit, Path]]) -> "Index":
        keys = [unit.key for unit, _ in units_and_folders]
        return Index(run for key in keys for run in self._search(f"tags.`{KEY_TAG}` = '{key}'"))

    def sync(self, units_and_folders: Iterable[tuple[Unit, Path]]) -> int:
        """Record what the artifact store holds and MLflow does not; return how many units that were."""
        with self._writing():
            index = Index(self._search(f"tags.`{KIND_TAG}` != 'sweep'"))
            written = self._upsert(units_and_folders, index)
            if sqlite_file(self.uri) is not None:  # a server has writers on other machines
                self._index = index
            return written

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"], failed: dict[str, str]) -> None:
        """Close the parent run; ``failed`` maps keys to one-line reasons, shown in the table."""
        with self._writing():
            self._log_text(self._parent, PLAN_FILE, json.dumps({**self._plan, "failed": failed}, indent=1))
            self._client.set_terminated(self._parent, status=status)

    # ---- units ------------------------------------------------------------------------------

    def _upsert(self, units_and_folders: Iterable[tuple[Unit, Path]], index: "Index") -> int:
        """Bring the runs of every key to exactly one complete run; return for how many it was not there."""
        lacking = ((unit, folder) for unit, folder in units_and_folders if unit.key not in index.complete)
        written = 0
        while some := list(islice(lacking, TOGETHER)):
            begun = [(unit, folder, index.unsettled[unit.key]) for unit, folder in some if unit.key in index.unsettled]
            for unit, folder, runs in begun:
                self._delete(runs[1:])
                if runs[0].info.status != "FINISHED":
                    self._continue(record_of(unit, folder, self.sweep), runs[0])
                    written += 1
            new = {unit.key: (unit, folder) for unit, folder in some if unit.key not in index.unsettled}
            self._write([record_of(unit, folder, self.sweep) for unit, folder in new.values()])
            written += len(new)
            for unit, _ in some:
                index.settle(unit.key)
        return written

    def _continue(self, record: Record, run: Any) -> None:
        """Complete the run that was begun for a unit."""
        if any(record.params.get(name, value) != value for name, value in run.data.params.items()):
            self._delete([run])  # MLflow's params cannot be changed: begun by a version that named them otherwise
            self._write([record])
            return
        self._log_files(record, run.info)
        self._complete(record, run.info)

    def _write(self, records: list[Record]) -> None:
        """Make the runs of units that have none."""
        if len(records) < 2 or sqlite_file(self.uri) is None:
            for record in records:
                info = self._begin(record)
                self._log_files(record, info)
                self._complete(record, info)
            return
        with one_transaction(self._client):
            infos = [self._begin(record) for record in records]
            for record, info in zip(records, infos, strict=True):
                self._complete(record, info)
            for record, info in zip(records, infos, strict=True):  # last: a kill leaves no files without their run
                self._log_files(record, info)

    def _begin(self, record: Record) -> Any:
        """Make a unit's run and return MLflow's word of it."""
        tags = {**record.tags, "mlflow.parentRunId": self._parent}
        key, begin = record.unit.key, record.begin
        return self._client.create_run(self._experiment, run_name=key, tags=tags, start_time=begin).info

    def _complete(self, record: Record, info: Any) -> None:
        self._log_numbers(info.run_id, record.params, record.metrics, record.end)
        self._client.set_terminated(info.run_id, status="FINISHED", end_time=record.end)

    def _log_files(self, record: Record, info: Any) -> None:
        for name in (MANIFEST_FILE, EPISODES_FILE if isinstance(record.unit, CellUnit) else CURVE_FILE):
            if (record.folder / name).exists():
                self._log_file(info, record.folder / name)

    def _log_file(self, info: Any, file: Path) -> None:
        """Put a file among a run's artifacts."""
        if artifact_folder(self.uri) is None:
            self._client.log_artifact(info.run_id, str(file))
            return
        target = Path(unquote(urlsplit(info.artifact_uri).path)) / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)

    def _log_numbers(self, run_id: str, params: dict[str, str], metrics: dict[str, float], end: int) -> None:
        from mlflow.entities import Metric, Param

        points = [Metric(name, value, end, 0) for name, value in sorted(metrics.items())]
        pairs = [Param(name, value) for name, value in params.items()]
        self._client.log_batch(run_id, metrics=points[:METRICS_PER_BATCH], params=pairs[:PARAMS_PER_BATCH])
        for start in range(PARAMS_PER_BATCH, len(pairs), PARAMS_PER_BATCH):
            self._client.log_batch(run_id, params=pairs[start : start + PARAMS_PER_BATCH])
        for start in range(METRICS_PER_BATCH, len(points), METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics=points[start : start + METRICS_PER_BATCH])

    def _log_text(self, run_id: str, name: str, text: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_text(text, encoding="utf-8")
            self._client.log_artifact(run_id, str(path))

    # ---- the store --------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._client is not None:
            return
        quiet_mlflow()
        with self._reachable():
            file = sqlite_file(self.uri)
            if file is not None:
                _create_sqlite_store(file)
            if self.uri.startswith("http"):
                import requests

                requests.get(self.uri.rstrip("/") + "/health", timeout=PROBE_SECONDS)
            from mlflow import MlflowClient

            self._client = MlflowClient(self.uri)
            quiet_mlflow()
            self._experiment = self._find_experiment()

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            if self.uri.startswith("postgresql"):
                raise UserError(
                    "tracking: a postgresql store has no place for files of its own; create the experiment once with "
                    f"'mlflow experiments create -n {EXPERIMENT} -l FOLDER_OR_URL', or give the URI of an MLflow server"
                )
            local = artifact_folder(self.uri)
            location = local.as_uri() if local else None
            return str(self._client.create_experiment(EXPERIMENT, artifact_location=location))
        if found.lifecycle_stage != "active":
            raise UserError(
                f"tracking: experiment '{EXPERIMENT}' of {shown_uri(self.uri)} was deleted; restore it with "
                f"'mlflow experiments restore --experiment-id {found.experiment_id}' or use another tracking uri"
            )
        here = artifact_folder(self.uri)
        if here is not None and not _same_folder(found.artifact_location, here):
            raise UserError(
                f"tracking: {sqlite_file(self.uri)} was moved from {found.artifact_location}, where its files would "
                "still go; move it back, or remove it: the next run records everything anew from the storage folder"
            )
        return str(found.experiment_id)

    def _search(self, condition: str) -> list[Any]:
        """Return the runs that match, complete ones first, then by age: the first is the one to keep."""
        runs: list[Any] = []
        token = None
        while True:
            page = self._client.search_runs([self._experiment], condition, max_results=PAGE, page_token=token)
            runs += page
            token = page.token
            if not token:
                break
        return sorted(runs, key=lambda r: (r.info.status != "FINISHED", r.info.start_time, r.info.run_id))

    def _delete(self, runs: Iterable[Any]) -> None:
        for run in runs:
            self._client.delete_run(run.info.run_id)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Have the records to oneself: two drivers on a machine would make a key's run twice, or delete both."""
        with _locked(_lock_file(self.uri)) as lock, self._reachable():
            if lock.read() != self._name:
                self._index = None
                lock.seek(0)
                lock.truncate()
                lock.write(self._name)
                lock.flush()
            try:
                yield
            except BaseException:
                self._index = None  # something may be half written
                raise

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        """Turn what MLflow, SQLAlchemy and the network raise into one line with the store's URI."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if type(error).__module__.split(".")[0] not in ("mlflow", "sqlalchemy", "requests", "urllib3"):
                raise
            raise UserError(f"tracking: MLflow at {shown_uri(self.uri)} failed: {first_line(error)}") from error


def _create_sqlite_store(file: Path) -> None:
    """Create a sqlite store with its experiment under a temporary name, then rename.

    MLflow's schema is built by dozens of migrations: a process killed among them, or a second one
    beside it, leaves a file that no MLflow opens again. A lock keeps a second driver waiting.
    """
    with _locked(_lock_file(f"sqlite:///{file}")):
        if file.exists() and file.stat().st_size > 0:
            return
        from mlflow import MlflowClient

        quiet_mlflow()
        fresh = file.with_name(file.name + ".new")
        fresh.unlink(missing_ok=True)
        client = MlflowClient(f"sqlite:///{fresh}")
        location = (file.parent / "mlartifacts").as_uri()
        client.create_experiment(EXPERIMENT, artifact_location=location)
        os.replace(fresh, file)


@contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    """Hold a lock that other processes on this machine wait for; yields its file, at the beginning."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"tracking: cannot write {path.parent}: {error.strerror}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def _lock_file(uri: str) -> Path:
    """Return a store's lock: beside a sqlite file, else among what this user has cached."""
    file = sqlite_file(uri)
    if file is not None:
        return file.with_name(file.name + ".lock")
    return cache_folder() / "tracking" / f"{hashlib.sha256(uri.encode()).hexdigest()[:12]}.lock"


def _same_folder(location: str, folder: Path) -> bool:
    if location.startswith("file:"):
        return location.rstrip("/") in (folder.as_uri(), folder.resolve().as_uri())
    return Path(location).resolve() == folder.resolve()
