"""What the writer and the reader of the MLflow records agree on: names, and which stores are served.

`sweeps.records.tracker` writes the records and `analysis.runs` reads them; neither imports the other, and
this module does not import MLflow. A run is one unit of work, found by its key, and complete if and
only if its status is FINISHED.
"""

import logging
import os
import re
from pathlib import Path

from mpcwdwm.errors import UserError

__all__ = [
    "EPISODES_FILE",
    "EXPERIMENT",
    "KEY_TAG",
    "KIND_TAG",
    "MANIFEST_FILE",
    "PLAN_FILE",
    "SPEC_FILE",
    "SWEEP_TAG",
    "artifact_folder",
    "check_tracking_uri",
    "first_line",
    "quiet_mlflow",
    "shown_uri",
    "sqlite_file",
    "sweep_key",
]

EXPERIMENT = "mpcwdwm"  # one experiment per tracking store
KIND_TAG = "mpcwdwm.kind"  # "sweep", "component" or "cell"
KEY_TAG = "mpcwdwm.key"
SWEEP_TAG = "mpcwdwm.sweep"  # the sweep that logged the run first
PLAN_FILE = "plan.json"  # of the parent run: which keys make up the sweep, in table order
SPEC_FILE = "spec.yaml"
EPISODES_FILE = "episodes.parquet"
MANIFEST_FILE = "manifest.json"


def sweep_key(sweep: str) -> str:
    """Return the key of a sweep's parent run."""
    return f"sweep/{sweep}"


def check_tracking_uri(uri: str) -> str:
    """Return ``uri`` if it names a kind of MLflow store that is served.

    Raises:
        UserError: it is neither a sqlite file, nor a server, nor a Postgres database.
    """
    served = ("sqlite:///", "http://", "https://", "postgresql://", "postgresql+")
    if uri.startswith(served) and len(uri) > len("sqlite:///") and ":memory:" not in uri:
        return uri
    raise UserError(
        f"tracking: '{shown_uri(uri)}' is no MLflow store that can be used; give sqlite:///FOLDER/mlflow.db, "
        "http(s)://SERVER or postgresql://... (MLflow no longer maintains plain folders)"
    )


def sqlite_file(uri: str) -> Path | None:
    """Return the file behind a sqlite URI, absolute; None for other stores."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").split("?")[0]).absolute()


def artifact_folder(uri: str) -> Path | None:
    """Return where a sqlite store keeps its artifacts: beside the file; None for other stores."""
    file = sqlite_file(uri)
    return file.parent / "mlartifacts" if file else None


def shown_uri(uri: str) -> str:
    """Return the URI as it may be printed: a password in it becomes ``***``."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", uri)


def first_line(error: BaseException) -> str:
    """Return what an error of a library says, cut to one readable line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def quiet_mlflow() -> None:
    """Silence MLflow's and alembic's progress lines and MLflow's usage reports; errors still show.

    Environment variables count only if this runs before MLflow is first imported.
    """
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.ERROR)
