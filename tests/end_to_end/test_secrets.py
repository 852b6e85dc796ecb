"""Credentials of the environment and of the YAML are in nothing that a sweep writes, prints or renders.

`test_services.py` looks into a database, a bucket and an MLflow server's log as well.
"""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.disturbed_sweeps import COMMAND, SWEEP, TINY, Sandbox

pytestmark = [pytest.mark.services, pytest.mark.slow]

VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_URI",
    "HF_TOKEN",
    "PGPASSWORD",
    "DATABASE_URL",
    "RAY_AUTH_TOKEN",
    "WANDB_API_KEY",
    "GITHUB_TOKEN",
)
SITES = {
    "slurm": {"nodes": 2, "cpus_per_node": 4},
    "kubernetes": {"image": "registry.example.org/mpcwdwm:1", "claim": "shared"},
}
BROKEN = {**TINY, "actor_lr": 1e30}  # its loss is not finite: a failure with a traceback


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where Ray keeps its logs: a socket's path there may have 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_no_credential_is_written_printed_or_rendered(tmp_path: Path, ray_folder: Path) -> None:
    hidden = {name: secrets.token_hex(16) for name in VARIABLES}
    values = dict(hidden)
    values["DATABASE_URL"] = f"postgresql://me:{hidden['DATABASE_URL']}@127.0.0.1/x"
    values["MLFLOW_TRACKING_URI"] = f"http://me:{hidden['MLFLOW_TRACKING_URI']}@127.0.0.1:1"
    in_uri = secrets.token_hex(16)
    environment = {**values, "XDG_CACHE_HOME": str(tmp_path / "cache"), "RAY_TMPDIR": str(ray_folder)}
    components = {**SWEEP["components"], "bc": TINY, "iql": BROKEN}
    sandbox = Sandbox(
        tmp_path / "sweep", environment, cluster=SITES, components=components, baselines=["rebrac", "iql"], seeds=1
    )
    said = [run(sandbox, 1, "sweep", "run", "spec.yaml")]
    for command in (
        ("sweep", "status", "spec.yaml", "--json"),
        ("sweep", "logs", "spec.yaml"),
        ("sweep", "run", "spec.yaml", "--cluster", "slurm", "--dry-run"),
        ("sweep", "run", "spec.yaml", "--cluster", "kubernetes", "--dry-run"),
        ("store", "ls", "--json"),
        ("table", "spec.yaml"),
        ("report", "spec.yaml"),
    ):
        said.append(run(sandbox, 0, *command))
    for uri in (f"postgresql://me:{in_uri}@127.0.0.1:1/x", f"http://me:{in_uri}@127.0.0.1:1", f"foo://me:{in_uri}@x"):
        said.append(run(sandbox, 2, "sweep", "run", "spec.yaml", "--set", f"tracking.uri={uri}"))
    said.append(run(sandbox, 2, "sweep", "run", "spec.yaml", "--set", f"tracking={uri}"))  # quoted as no mapping
    for place in (f"s3://me:{in_uri}@bucket/x", f"[s3://me:{in_uri}@bucket]"):
        said.append(run(sandbox, 2, "sweep", "run", "spec.yaml", "--set", f"storage={place}"))
    said.append(run(sandbox, 2, "store", "ls", f"s3://me:{in_uri}@bucket/x"))
    files = [path for folder in (tmp_path, ray_folder) for path in folder.rglob("*") if path.is_file()]
    assert {"mlflow.db", "manifest.json", "raylet.out"} <= {path.name for path in files}
    assert any(path.parent.name == "logs" and path.parent.parent.name == "runs" for path in files)
    for name, word in (*hidden.items(), ("a URI", in_uri)):
        assert [each[:300] for each in said if word in each] == [], name
        assert [str(path) for path in files if word.encode() in path.read_bytes()] == [], name


def run(sandbox: Sandbox, code: int | None, *arguments: str) -> str:
    """Run a command in the sweep's folder and return what it prints."""
    ended = subprocess.run(
        [COMMAND, *arguments],
        cwd=sandbox.folder,
        env={**os.environ, **sandbox.environment},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert code in (None, ended.returncode), ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.stdout + ended.stderr
