"""What MLflow holds, and the connection to it: shared by the writer of the records and by their reader.

`sweeps.records.tracker` writes, `analysis.runs` reads. A run is one unit of work, found by its key, and
complete if and only if its status is FINISHED. MLflow takes seconds to import: only `MlflowStore.connect` does.
"""

import gc
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mpcwdwm.errors import UserError

__all__ = [
    "AMORTISED",
    "EXPERIMENT",
    "EXPERIMENT_KIND",
    "KEY_TAG",
    "KIND_TAG",
    "OPTIONS_TAG",
    "PLAN_FILE",
    "SPEC_FILE",
    "SWEEP_TAG",
    "MlflowStore",
    "artifact_folder",
    "check_answers",
    "check_recorded",
    "check_tracking_uri",
    "driver_uri",
    "member_tag",
    "quiet_mlflow",
    "shown_uri",
    "sqlite_file",
    "sweep_key",
    "whole_sweep",
    "without_password",
]

EXPERIMENT = "mpcwdwm"  # one experiment per tracking store
KIND_TAG = "mpcwdwm.kind"  # "sweep", "component" or "cell"
KEY_TAG = "mpcwdwm.key"
SWEEP_TAG = "mpcwdwm.sweep"  # the sweep that logged the run first
OPTIONS_TAG = "options"  # of the parent run, where it was run with some: of a part
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}  # MLflow's page opens on runs, not on traces
PLAN_FILE = "plan.json"  # of the parent run: which keys make up the sweep, in table order
SPEC_FILE = "spec.yaml"
AMORTISED = "amortised"  # kind of a cell whose policy is an improvement of another, which counts as its base
POSTGRES = ("postgresql://", "postgres://")
DRIVERS = ("psycopg", "psycopg2")  # of PostgreSQL, the first that is installed
BEFORE_HOST = r"(://[^:/@]*):.*@"  # user and password; the password may have any sign unescaped
IN_QUERY = r"([?&])((?:ssl)?password=)[^&]*"
PAGE = 1000  # runs per search request; some servers refuse more
PROBE_SECONDS = 10.0  # a server that does not answer for this long counts as unreachable


def member_tag(sweep: str) -> str:
    """Return the tag that the present units of a sweep carry, also those it shares with others: their kind."""
    return f"sweep.{sweep}"


def whole_sweep(sweep: str) -> str:
    """Return the sweep of which this is a part, "NAME" of "NAME/seeds-1-3fa2b1"; one that is no part itself.

    A run with options that change what is computed is recorded as a part, beside the whole sweep.
    """
    return sweep.split("/")[0]


def sweep_key(sweep: str) -> str:
    """Return the key of a sweep's parent run."""
    return f"sweep/{sweep}"


def check_tracking_uri(uri: str) -> str:
    """Return ``uri`` if it names a kind of MLflow store that is served.

    Raises:
        UserError: it is neither a sqlite file, nor a server, nor a PostgreSQL database whose driver is installed.
    """
    served = ("sqlite:///", "http://", "https://", *POSTGRES, "postgresql+")
    if uri.startswith(served) and len(uri) > len("sqlite:///") and ":memory:" not in uri:
        driver_uri(uri)
        return uri
    raise UserError(
        f"tracking: '{shown_uri(uri)}' is no MLflow store that can be used; give sqlite:///FOLDER/mlflow.db, "
        "http(s)://SERVER or postgresql://... (MLflow no longer maintains plain folders)"
    )


def driver_uri(uri: str) -> str:
    """Return the URI with the PostgreSQL driver that is installed, as SQLAlchemy wants it; others stay as they are.

    Users write ``postgresql://``, or ``postgres://`` as libpq allows, whatever driver they have.

    Raises:
        UserError: the driver that the URI names, or any, is missing.
    """
    scheme, _, rest = uri.partition("://")
    if not scheme.startswith("postgres"):
        return uri
    named = scheme.partition("+")[2]
    driver = next((name for name in ([named] if named else DRIVERS) if find_spec(name)), None)
    if driver is None:
        raise UserError(
            f"tracking: {shown_uri(uri)} needs the Python package {named or DRIVERS[0]}, which is not installed:"
            " pip install 'mpcwdwm[postgres]'"
        )
    return f"postgresql+{driver}://{rest}"


def sqlite_file(uri: str) -> Path | None:
    """Return the file behind a sqlite URI, absolute; None for other stores."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").split("?")[0]).absolute()


def check_recorded(uri: str) -> None:
    """Raise UserError if the store is a sqlite file that is not there: said before MLflow is loaded."""
    file = sqlite_file(uri)
    if file is not None and not (file.exists() and file.stat().st_size > 0):
        raise UserError(f"tracking: there is no {file}: nothing was recorded yet, run the sweep first")


def check_answers(uri: str) -> None:
    """Raise UserError if no server answers, or a sqlite file cannot be one; MLflow itself would wait minutes.

    A database is tried when it is connected to.
    """
    file = sqlite_file(uri)
    if file is not None and file.is_dir():
        raise UserError(f"tracking: {file} is a folder: give a file, as in sqlite:///{file.name}/mlflow.db")
    if not uri.startswith("http"):
        return
    import requests

    try:
        requests.get(uri.rstrip("/") + "/health", timeout=PROBE_SECONDS)
    except requests.RequestException as error:
        silent = f"tracking: no MLflow server answers at {shown_uri(uri)} ({_reason(error)})"
        raise UserError(f"{silent}: start it, or correct tracking.uri") from None


def _reason(error: BaseException) -> str:
    """Return what the system says of a connection, in a few words, from whatever libraries wrapped it in."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def artifact_folder(uri: str) -> Path | None:
    """Return where a sqlite store keeps its artifacts: beside the file; None for other stores."""
    file = sqlite_file(uri)
    return file.parent / "mlartifacts" if file else None


def shown_uri(uri: str) -> str:
    """Return the URI as it may be printed: a password in it becomes ``***``."""
    return re.sub(IN_QUERY, r"\1\2***", re.sub(BEFORE_HOST, r"\1:***@", uri))


def without_password(uri: str) -> str:
    """Return the URI as it may be recorded: without a password, which the environment then has to give."""
    return re.sub(IN_QUERY, "", re.sub(BEFORE_HOST, r"\1@", uri))


def first_line(error: BaseException) -> str:
    """Return what an error of a library says, cut to one readable line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def quiet_mlflow() -> None:
    """Silence MLflow's and alembic's progress lines, its usage reports and errors of its database, which are raised.

    Environment variables count only if this runs before MLflow is first imported.
    """
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks of what is raised as well


class MlflowStore:
    """The runs of one tracking store, for those who write them and those who read them.

    Args:
        uri: sqlite:///file, http(s)://server or postgresql://...

    Raises:
        UserError: it is a kind of store that is not served.
    """

    def __init__(self, uri: str) -> None:
        self.uri = check_tracking_uri(uri)
        self.driver_uri = driver_uri(uri)  # what MLflow is given
        self.client: Any = None  # MLflow's, once connected
        self.experiment_id = ""

    def connect(self) -> Any:
        """Connect and return MLflow's experiment; None where there is none yet.

        Raises:
            UserError: the store cannot be reached or is not MLflow's.
        """
        quiet_mlflow()
        with self.reachable():
            check_answers(self.uri)
            if not self.uri.startswith("http"):
                _try_database(self.driver_uri)
            from mlflow import MlflowClient

            self.client = MlflowClient(self.driver_uri)
            quiet_mlflow()
            experiment = self.client.get_experiment_by_name(EXPERIMENT)
        self.experiment_id = str(experiment.experiment_id) if experiment else ""
        return experiment

    def runs_of(self, key: str) -> list[Any]:
        """Return the runs of one key, the one to keep first."""
        return self.search(f"tags.`{KEY_TAG}` = '{key}'")

    def unit_runs(self) -> list[Any]:
        """Return the runs of all units of work, of each key the one to keep first."""
        return self.search(f"tags.`{KIND_TAG}` != 'sweep'")

    def search(self, condition: str, *, deleted: bool = False) -> list[Any]:
        """Return the runs that match, complete ones first, then by age; those that were deleted instead, if asked."""
        from mlflow.entities import ViewType

        view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
        runs: list[Any] = []
        token = None
        with self.reachable(), _collector_paused():
            while True:
                page = self.client.search_runs([self.experiment_id], condition, view, PAGE, page_token=token)
                runs += page
                token = page.token
                if not token:
                    break
        return sorted(runs, key=lambda run: (run.info.status != "FINISHED", run.info.start_time, run.info.run_id))

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """Turn what MLflow, SQLAlchemy and the network raise into one line with the store's URI."""
        try:
            yield
        except Exception as error:
            if type(error).__module__.split(".")[0] not in ("mlflow", "sqlalchemy", "requests", "urllib3"):
                raise
            raise UserError(f"tracking: MLflow at {shown_uri(self.uri)} failed: {first_line(error)}") from error


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep Python's collector from running: while millions of objects are made it looks at all again and again.

    Of 30,000 runs, that is two thirds of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _try_database(uri: str) -> None:
    """Read from a database once; MLflow would try again for 100 seconds before it says what is wrong."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        sqlalchemy.inspect(connection).get_table_names()
