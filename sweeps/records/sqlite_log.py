"""The sqlite file in which MLflow records, while sweeps write to it: how it is made, logged ahead, and locked.

sqlite waits at each of MLflow's four commits a unit until the disk has it. So the file is kept with a
write-ahead log (`_write_ahead`): a commit is appended to ``mlflow.db-wal`` without waiting. A killed process loses
nothing; a power cut may lose the last records, and the next run makes them again from the artifact store.
`end_write_ahead` moves the log into ``mlflow.db``, which can then be copied alone and read where nothing can be
written, unless another process has it open. All processes that use the file at the same time must be on one machine,
as sqlite demands; several machines need a server.
"""

import hashlib
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from weakref import WeakSet

from analysis.mlflow_store import EXPERIMENT, EXPERIMENT_KIND, quiet_mlflow, sqlite_file
from mpcwdwm.data.fingerprint import cache_folder

__all__ = ["create_sqlite_store", "end_write_ahead", "lock_file"]

LOCKED_SECONDS = 1.0  # how long the end of the log waits for other processes

_ENGINES: WeakSet[Any] = WeakSet()  # SQLAlchemy's, of this process: their connections are closed to end the log


def create_sqlite_store(file: Path) -> None:
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


def end_write_ahead(file: Path) -> None:
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


def lock_file(uri: str) -> Path:
    """Return a store's lock: beside a sqlite file, else in the user's cache."""
    file = sqlite_file(uri)
    if file is not None:
        return file.with_name(file.name + ".lock")
    return cache_folder() / "tracking" / f"{hashlib.sha256(uri.encode()).hexdigest()[:12]}.lock"
