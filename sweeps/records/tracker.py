"""Records of a sweep in MLflow: one parent run, one child run per unit of work.

Only the driver writes. A unit's run is found by the tag that holds its key, so logging is an upsert: a FINISHED run
is left alone, one that a killed driver left half-written is continued, and one deleted by hand is made again from
the artifact store. The time of every point follows from the unit's manifest, so writing it twice changes nothing.

Every unit that a sweep consists of carries the sweep's mark (`analysis.mlflow_store.member_tag`): also one that another
sweep recorded. Units of an earlier run that are no longer in the plan lose it. What a part of a sweep (a run with
``--tasks`` and the like) records of the whole sweep's units carries both marks.

MLflow takes ten to twenty milliseconds of processor time to make, fill and close a run, so requests are few: runs
are searched once and remembered until another process writes to the file (`Tracker._writing`), and artifacts are
copied to the run's folder where that is on this machine.

How a sqlite file is written to, and by whom, is in `sweeps.records.sqlite_log`.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from analysis.mlflow_store import (
    EXPERIMENT,
    EXPERIMENT_KIND,
    KEY_TAG,
    KIND_TAG,
    OPTIONS_TAG,
    PLAN_FILE,
    SPEC_FILE,
    SWEEP_TAG,
    MlflowStore,
    artifact_folder,
    member_tag,
    shown_uri,
    sqlite_file,
    sweep_key,
    whole_sweep,
)
from cluster.units import CellUnit, ComponentUnit, TaskRef, Unit
from mpcwdwm.artifact_names import CURVE, EPISODES, MANIFEST, STEPS
from mpcwdwm.errors import UserError
from sweeps.records.fields import Record, dataset_of, record_of
from sweeps.records.sqlite_log import create_sqlite_store, end_write_ahead, lock_file
from sweeps.records.system_metrics import SystemMetrics

__all__ = ["Tracker"]

PARAMS_PER_BATCH = 100  # MLflow's limit on one log_batch
METRICS_PER_BATCH = 500  # the limit is 1000 for metrics and params together
REPORT = "report"  # folder of tables and figures among the parent run's artifacts


Index = dict[str, list[Any] | None]
"""Key → its runs, the one to keep first; None once it has exactly one, complete and marked as of this sweep."""
Folder = Path | Callable[[], Path]
"""Where a unit is published, or what says so: behind a URL the folder has to be downloaded first."""


class Tracker:
    """Writes one sweep's records.

    Args:
        uri: sqlite:///file, http(s)://server or postgresql://...
        sweep: name of the sweep, or of a part: `analysis.mlflow_store.whole_sweep`.
        system_metrics: seconds between measurements of this machine, from start to finish; None: none.

    Raises:
        UserError: the store is of a kind that is not served (here) or cannot be reached (later).
    """

    def __init__(self, uri: str, sweep: str, system_metrics: float | None = None) -> None:
        self._store = MlflowStore(uri)
        self._file = sqlite_file(uri)
        self.sweep = sweep
        self._measure_every = system_metrics
        self._system_metrics: SystemMetrics | None = None
        self._plan: dict[str, Any] = {}
        self._whole = frozenset[str]()  # of a part: keys of the whole sweep's units, if that was recorded
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

        self._plan, given = plan, tags or {}
        with self._writing():
            self._whole = self._keys_of_whole()
            runs = self._store.runs_of(sweep_key(self.sweep))
            self._delete(runs[1:])
            if runs:
                self._parent = runs[0].info.run_id
                self._client.update_run(self._parent, status="RUNNING")
            else:
                own = {KIND_TAG: "sweep", KEY_TAG: sweep_key(self.sweep), SWEEP_TAG: self.sweep}
                name = " ".join(filter(None, (whole_sweep(self.sweep), given.get(OPTIONS_TAG))))
                run = self._client.create_run(self._store.experiment_id, run_name=name, tags=own)
                self._parent = run.info.run_id
            self._client.log_batch(self._parent, tags=[RunTag(name, text) for name, text in given.items()])
            self._log_datasets(self._parent, tasks)
            self._client.log_text(self._parent, json.dumps(plan, indent=1), PLAN_FILE)
            self._client.log_text(self._parent, spec_text, SPEC_FILE)
        if self._measure_every is not None and self._system_metrics is None:
            self._system_metrics = SystemMetrics(self._store.driver_uri, self._parent, self._measure_every)

    def log(self, unit: Unit, folder: Path) -> bool:
        """Record one finished unit; return False if MLflow already holds it complete."""
        with self._writing():
            index = self._indexed(self._store.runs_of(unit.key)) if self._index is None else self._index
            return self._upsert([(unit, folder)], index) == 1

    def sync(self, units_and_folders: Iterable[tuple[Unit, Folder]]) -> int:
        """Record what the artifact store holds and MLflow does not; return how many units that were.

        Only of those the folders are asked for. What this sweep no longer consists of loses its mark.
        """
        with self._writing():
            runs = self._store.unit_runs()
            self._dismiss(runs)
            index = self._indexed(runs)
            written = self._upsert(units_and_folders, index)
            if self._file is not None:  # a server has writers on other machines
                self._index = index
            return written

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"], failed: dict[str, str]) -> None:
        """Close the parent run; ``failed`` maps keys to one-line reasons, shown in the table."""
        if self._system_metrics is not None:
            self._system_metrics.end()
        with self._writing():
            self._client.log_text(self._parent, json.dumps({**self._plan, "failed": failed}, indent=1), PLAN_FILE)
            self._client.set_terminated(self._parent, status=status)
            if self._file is not None:
                end_write_ahead(self._file)

    def amend(self, metrics: Mapping[str, Mapping[str, float]], files: Mapping[str, str | bytes]) -> int:
        """Add what follows from all results together, once the sweep is recorded; return how many runs got metrics.

        Args:
            metrics: by the key of a unit, or the parent's, `sweep_key`; what a run has already is not written again.
            files: content by name, for the folder `REPORT` of the parent run, in place of earlier ones.
        """
        self._connect()
        with self._writing(), tempfile.TemporaryDirectory() as folder:
            parents = self._store.runs_of(sweep_key(self.sweep))[:1]
            changed = 0
            for run in [*parents, *self._store.search(f"tags.`{member_tag(self.sweep)}` = 'cell'")]:
                known, wanted = run.data.metrics, metrics.get(run.data.tags[KEY_TAG], {})
                new = {name: value for name, value in wanted.items() if known.get(name) != value}
                self._log_metrics(run.info.run_id, new)
                changed += bool(new)
            for (name, content), parent in product(files.items(), parents):
                file = Path(folder) / name
                file.write_bytes(content if isinstance(content, bytes) else content.encode())
                self._log_file(parent.info, file, REPORT)
            if self._file is not None:
                end_write_ahead(self._file)
        return changed

    def shows(self, name: str, content: str) -> bool:
        """Return whether the parent run has this file with this content in its folder `REPORT`."""
        self._connect()
        with self._locked(), self._store.reachable():
            runs = self._store.runs_of(sweep_key(self.sweep))
            text = self._artifact(runs[0].info.run_id, f"{REPORT}/{name}") if runs else None
            if self._file is not None:
                end_write_ahead(self._file)
        return text == content

    # Units

    def _indexed(self, runs: Iterable[Any]) -> Index:
        found = dict[str, list[Any]]()
        for run in runs:
            found.setdefault(run.data.tags.get(KEY_TAG, ""), []).append(run)
        return {key: None if len(own) == 1 and self._is_settled(key, own[0]) else own for key, own in found.items()}

    def _is_settled(self, key: str, run: Any) -> bool:
        return run.info.status == "FINISHED" and self._marks(key) <= run.data.tags.keys()

    def _marks(self, key: str) -> set[str]:
        """Return the tags that name the sweeps to which a unit belongs."""
        return {member_tag(self.sweep), *([member_tag(whole_sweep(self.sweep))] if key in self._whole else [])}

    def _keys_of_whole(self) -> frozenset[str]:
        """Return the keys of the units of the sweep of which this is a part; none if it is none, or not recorded."""
        whole = whole_sweep(self.sweep)
        runs = self._store.runs_of(sweep_key(whole)) if whole != self.sweep else []
        try:
            plan = json.loads(self._artifact(runs[0].info.run_id, PLAN_FILE) or "{}") if runs else {}
        except json.JSONDecodeError:  # of a killed run; the next one writes it again
            return frozenset()
        return frozenset([*plan.get("components", []), *plan.get("cells", [])])

    def _artifact(self, run_id: str, name: str) -> str | None:
        """Return the text of a run's file; None if it has none."""
        from mlflow.exceptions import MlflowException

        try:
            with tempfile.TemporaryDirectory() as folder:
                return Path(self._client.download_artifacts(run_id, name, folder)).read_text("utf-8")
        except (OSError, MlflowException):
            return None

    def _upsert(self, units_and_folders: Iterable[tuple[Unit, Folder]], index: Index) -> int:
        """See that every key has exactly one run, complete and marked; return how many had to be written."""
        written = 0
        for unit, folder in units_and_folders:
            runs = index.get(unit.key, [])
            if runs is None:
                continue
            self._delete(runs[1:])
            if not runs or runs[0].info.status != "FINISHED":
                place = folder() if callable(folder) else folder
                self._write(record_of(unit, place, self.sweep), runs[0] if runs else None)
                written += 1
            else:  # recorded by another sweep, or twice
                self._mark(runs[0], unit)
            index[unit.key] = None
        return written

    def _mark(self, run: Any, unit: Unit) -> None:
        """Give a run the marks it lacks."""
        for mark in self._marks(unit.key) - run.data.tags.keys():
            self._client.set_tag(run.info.run_id, mark, unit.kind)

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
            marks = dict.fromkeys(self._marks(record.unit.key), record.unit.kind)
            tags = {**record.tags, **marks, "mlflow.parentRunId": self._parent}
            begun = self._client.create_run(
                self._store.experiment_id, run_name=record.name, tags=tags, start_time=record.begin
            )
        else:
            self._mark(begun, record.unit)
        if isinstance(record.unit, ComponentUnit):
            self._log_datasets(begun.info.run_id, [record.unit.task])
        for name in (MANIFEST, *((EPISODES, STEPS) if isinstance(record.unit, CellUnit) else (CURVE,))):
            if (record.folder / name).exists():
                self._log_file(begun.info, record.folder / name)
        self._log_numbers(begun.info.run_id, record)
        self._client.set_terminated(begun.info.run_id, status="FINISHED", end_time=record.end)

    def _log_file(self, info: Any, file: Path, folder: str = "") -> None:
        """Put a file among a run's artifacts."""
        if self._file is None:
            self._client.log_artifact(info.run_id, str(file), folder or None)
            return
        target = Path(unquote(urlsplit(info.artifact_uri).path)) / folder / file.name
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

    def _log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Log metrics as of now."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        points = [Metric(name, value, now, 0) for name, value in metrics.items()]
        for first in range(0, len(points), METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics=points[first : first + METRICS_PER_BATCH])

    # The store

    @property
    def _client(self) -> Any:
        return self._store.client

    def _connect(self) -> None:
        if self._store.experiment_id:
            return
        if self._file is not None:
            with self._locked(), self._store.reachable():
                create_sqlite_store(self._file)
        found = self._store.connect()
        uri, here = self._store.uri, artifact_folder(self._store.uri)
        if found is None:
            if uri.startswith("postgres"):
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
            except BaseException as error:
                self._index = None  # something may be half written
                if isinstance(error, OSError) and not isinstance(error, UserError):  # a disk that is full
                    raise UserError(f"tracking: records cannot be written: {error}") from error
                raise
            self._written = self._state()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock that other drivers on this machine wait for."""
        path = lock_file(self._store.uri)
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


def _same_folder(location: str, folder: Path) -> bool:
    if location.startswith("file:"):
        return location.rstrip("/") in (folder.as_uri(), folder.resolve().as_uri())
    return Path(location).resolve() == folder.resolve()
