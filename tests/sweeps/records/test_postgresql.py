"""A PostgreSQL database as MLflow's store: written, marked, amended and loaded as with sqlite."""

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

import analysis
from analysis.table.comparison import build_table
from mpcwdwm.errors import UserError
from sweeps.records.tracker import Tracker
from tests.support.recorded_sweeps import baseline, mpc, record

USER = "postgres"  # where tests run as root, which PostgreSQL refuses to
FOUND = [shutil.which("initdb"), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")))]
INITDB = next(filter(None, FOUND), None)
DRIVER = next((name for name in ("psycopg", "psycopg2") if importlib.util.find_spec(name)), None)

pytestmark = [
    pytest.mark.services,
    pytest.mark.slow,
    pytest.mark.skipif(INITDB is None, reason="PostgreSQL is not installed: there is no initdb"),
    pytest.mark.skipif(DRIVER is None, reason="no driver of PostgreSQL is installed: pip install 'psycopg[binary]'"),
]
UNITS = [baseline("served", "rebrac", 0), mpc("served", 0)]
RETURNS = {UNITS[0].key: [100.0, 200.0], UNITS[1].key: [110.0, 230.0]}


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    """A fresh database in a temporary folder, on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="mpcwdwm-postgresql-"))
    own = {"user": USER} if os.geteuid() == 0 else {}
    if own:
        os.chown(folder, pwd.getpwnam(USER).pw_uid, -1)
    assert INITDB is not None
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    control = [Path(INITDB).with_name("pg_ctl"), "-D", folder / "data", "-w"]
    run = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder, **own}
    subprocess.run([INITDB, "-D", folder / "data", "-U", "mlflow", "-A", "trust", "-E", "UTF8", "--no-locale"], **run)
    subprocess.run([*control, "-l", folder / "log", "-o", options, "start"], **run)
    try:
        uri = f"postgresql+{DRIVER}://mlflow:secret@127.0.0.1:{port}/postgres"
        yield uri
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **run)
        shutil.rmtree(folder)


def test_a_postgresql_store_is_written_amended_and_loaded(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="create the experiment once with 'mlflow experiments create"):
        Tracker(uri, "served").start({}, "")
    MlflowClient(uri).create_experiment("mpcwdwm", (tmp_path / "artifacts").as_uri())
    record(uri, "served", UNITS, RETURNS, tmp_path)
    assert Tracker(uri, "served").amend({UNITS[1].key: {"gain": 2.0}}, {"table.csv": "1"}) == 1
    assert Tracker(uri, "served").shows("table.csv", "1")
    loaded = analysis.load("served", tracking_uri=uri)
    assert loaded.cells["status"].tolist() == ["ok", "ok"]
    assert loaded.cells["gain"].tolist()[1] == pytest.approx(2.0)
    assert loaded.episodes["return"].tolist() == [100.0, 200.0, 110.0, 230.0]
    assert loaded.notes == ()
    assert analysis.load(tracking_uri=uri).cells.equals(loaded.cells)
    assert build_table(uri, "served").rows[-1].gain_mean == pytest.approx(2.0)
    assert not any("secret" in str(path) for path in (tmp_path / "cache").rglob("*"))
