"""A sweep with storage on S3 and records on an MLflow server with accounts gives the table of one in a folder.

The server is started by the commands of docs/cluster.md.
"""

import csv
import os
import re
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.store import open_store
from cluster.work import run_pack
from sweeps.plan.plan import build_plan, cell_packs, component_packs
from sweeps.spec.document import write_yaml
from sweeps.spec.spec import Spec, load_spec
from tests.support import ROOT
from tests.support.parts import BUNDLED
from tests.support.postgresql import BINARIES, postgresql
from tests.support.s3 import S3Server, free_port, s3_server

pytestmark = [
    pytest.mark.services,
    pytest.mark.slow,
    pytest.mark.skipif(BINARIES is None, reason="PostgreSQL is not installed: there is no initdb"),
]
TINY = {"steps": 20, "hidden_dim": 8, "batch_size": 16, "evaluations": 1}
START_SECONDS = 120.0  # seven on an idle machine
SECRETS = {name: f"{name}-{secrets.token_hex(16)}" for name in ("database", "admin", "flask", "s3")}


@pytest.fixture(scope="module")
def s3_of_its_own() -> Iterator[S3Server]:
    with s3_server(SECRETS["s3"]) as server:
        yield server


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow") / "server.log"


@pytest.fixture(scope="module")
def database() -> Iterator[dict[str, str]]:
    with postgresql(SECRETS["database"]) as environment:
        yield environment


@pytest.fixture(scope="module")
def mlflow_server(s3_of_its_own: S3Server, database: dict[str, str], log: Path) -> Iterator[str]:
    """The URL of a server that was started as the page shows."""
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    (commands,) = (block for block in re.findall(r"```sh\n(.*?)```", page, flags=re.S) if "basic-auth" in block)
    port = free_port()
    environment = {
        **os.environ,
        **s3_of_its_own.environment,
        **database,
        "MLFLOW_AUTH_ADMIN_PASSWORD": SECRETS["admin"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": SECRETS["flask"],
        "FILES": f"{s3_of_its_own.bucket()}/files",
        "PORT": str(port),
        "PATH": f"{Path(sys.executable).parent}:{BINARIES}:{os.environ['PATH']}",
    }
    with (
        log.open("w") as output,
        subprocess.Popen(
            ["bash", "-euc", commands],
            cwd=log.parent,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        ) as process,
    ):
        try:
            deadline = time.monotonic() + START_SECONDS
            while not answers(f"http://127.0.0.1:{port}/health"):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, 9)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except (urllib.error.URLError, OSError):
        return False


def mpcwdwm(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from sweeps.cli import main; main()", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT), **environment},
        timeout=600,
    )


def spec(folder: Path, **places: object) -> None:
    sweep = {
        "name": "tiny",
        "tasks": [BUNDLED],
        "seeds": 2,
        "components": {"rebrac": TINY, "reward": TINY, "world_model": {**TINY, "denoising_steps": 2}},
        "baselines": ["rebrac"],
        "planners": {"mpc": {"kind": "policy", "horizon": [1, 2], "rollouts": 2, "updates": 1}},
        "evaluation": {"episodes": 2, "max_episode_steps": 20},
        **places,
    }
    folder.mkdir()
    (folder / "tiny.yaml").write_text(write_yaml(sweep))


def compute(sweep: Spec) -> None:
    """Compute all packs of a sweep in this process; a run that finds everything done then needs no Ray."""
    store = open_store(sweep.storage)
    plan = build_plan(sweep, store)
    for pack in [*component_packs(plan), *cell_packs(plan)]:
        run_pack(sweep.storage, pack, device="cpu", threads=1)


def test_storage_on_s3_and_records_behind_accounts_give_the_table_of_a_folder(
    mlflow_server: str,
    s3_of_its_own: S3Server,
    database: dict[str, str],
    log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, there, bucket = tmp_path / "here", tmp_path / "there", s3_of_its_own.bucket()
    spec(here)
    spec(there, storage=f"{bucket}/runs", tracking={"uri": mlflow_server})
    access = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": SECRETS["admin"]}
    access |= s3_of_its_own.environment

    s3_of_its_own.use(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for folder in (here, there):
        compute(load_spec(folder / "tiny.yaml"))

    refused = mpcwdwm(there, "sweep", "run", "tiny.yaml", **{**access, "MLFLOW_TRACKING_PASSWORD": "wrong-password"})
    assert refused.returncode == 2
    assert "401" in refused.stderr.splitlines()[-1]
    runs = [mpcwdwm(here, "sweep", "run", "tiny.yaml"), mpcwdwm(there, "sweep", "run", "tiny.yaml", **access)]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(run.stderr for run in runs)
    tables = [
        mpcwdwm(folder, "table", "tiny.yaml", "--format", "csv", **access).stdout.splitlines()
        for folder in (here, there)
    ]
    assert len(tables[0]) > 3
    assert without_times(tables[0]) == without_times(tables[1])

    store = open_store(bucket)
    stored = b"".join(store._files.cat(store._files.find("")).values())
    dump = subprocess.run(
        [str(BINARIES and BINARIES / "pg_dump"), "mlflow"], env={**os.environ, **database}, capture_output=True
    ).stdout
    assert b"mpcwdwm.key" in dump
    assert b"mpc H=2" in stored
    written = [path.read_bytes() for path in there.rglob("*") if path.is_file()]
    said = [text.encode() for run in (refused, *runs) for text in (run.stdout, run.stderr)]
    for secret in (*SECRETS.values(), "wrong-password"):
        assert not any(secret.encode() in each for each in (stored, dump, log.read_bytes(), *written, *said)), secret


def without_times(table: list[str]) -> list[list[str]]:
    """The cells of a CSV without its columns of milliseconds."""
    rows = list(csv.reader(table))
    kept = [index for index, name in enumerate(rows[0]) if not name.startswith("ms_per_step")]
    return [[row[index] for index in kept if index < len(row)] for row in rows]
