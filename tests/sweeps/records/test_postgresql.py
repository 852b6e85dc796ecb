"""A PostgreSQL database as MLflow's store: written, marked, amended and loaded as with sqlite."""

from collections.abc import Iterator

import pytest
from mlflow import MlflowClient

import analysis
from analysis.mlflow_store import driver_uri
from analysis.table.comparison import build_table
from mpcwdwm.errors import UserError
from sweeps.records.tracker import Tracker
from tests.support.postgresql import BINARIES, postgresql
from tests.support.recorded_sweeps import baseline, mpc, record

pytestmark = [
    pytest.mark.services,
    pytest.mark.slow,
    pytest.mark.skipif(BINARIES is None, reason="PostgreSQL is not installed: there is no initdb"),
]
UNITS = [baseline("served", "rebrac", 0), mpc("served", 0)]
RETURNS = {UNITS[0].key: [100.0, 200.0], UNITS[1].key: [110.0, 230.0]}


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with postgresql("secret") as environment:
        yield environment


@pytest.fixture(params=["postgresql", "postgres"])
def uri(request, server) -> str:
    """A URI as users write it, of a database of its own."""
    pytest.importorskip("psycopg", reason="no driver of PostgreSQL is installed: pip install 'mpcwdwm[postgres]'")
    import psycopg

    address = f"mlflow:secret@127.0.0.1:{server['PGPORT']}"
    with psycopg.connect(f"postgresql://{address}/postgres", autocommit=True) as connection:
        connection.execute(f"create database {request.param}_records")
    return f"{request.param}://{address}/{request.param}_records"


def test_a_postgresql_store_is_written_amended_and_loaded(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="create the experiment once with 'mlflow experiments create"):
        Tracker(uri, "served").start({}, "")
    MlflowClient(driver_uri(uri)).create_experiment("mpcwdwm", (tmp_path / "artifacts").as_uri())
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
