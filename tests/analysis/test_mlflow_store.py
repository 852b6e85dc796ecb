"""Addresses of MLflow's store: which are served, by which driver, and what is shown of them."""

import pytest

from analysis import mlflow_store
from analysis.runs import Records
from mpcwdwm.errors import UserError
from sweeps.records.tracker import Tracker


@pytest.mark.parametrize(
    ("scheme", "package"),
    [("postgresql+psycopg2", "psycopg2"), ("postgresql", "psycopg"), ("postgres", "psycopg")],
)
def test_a_database_whose_driver_is_missing_is_one_line(scheme, package, monkeypatch):
    monkeypatch.setattr(mlflow_store, "find_spec", lambda _: None)
    for use in (Records, lambda uri: Tracker(uri, "x").start({}, "")):
        with pytest.raises(
            UserError, match=rf"me:\*\*\*@.* needs the Python package {package}, .*pip install 'mpcwdwm\[postgres\]'"
        ) as error:
            use(f"{scheme}://me:secret@127.0.0.1:9/x")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_the_driver_of_postgresql_is_the_one_that_is_installed(scheme, driver, monkeypatch):
    monkeypatch.setattr(mlflow_store, "find_spec", lambda name: name if name == driver else None)
    assert mlflow_store.driver_uri(f"{scheme}://me@host/x") == f"postgresql+{driver}://me@host/x"
    assert mlflow_store.driver_uri("sqlite:///a/b.db") == "sqlite:///a/b.db"


@pytest.mark.parametrize(
    ("uri", "shown", "bare"),
    [
        ("postgresql://me:pass@host/x", "postgresql://me:***@host/x", "postgresql://me@host/x"),
        ("postgresql://me:p/a@ss@host/x", "postgresql://me:***@host/x", "postgresql://me@host/x"),
        ("http://me:pass@host:5000", "http://me:***@host:5000", "http://me@host:5000"),
        ("postgresql://host/x?user=me&password=pass", "postgresql://host/x?user=me&password=***", None),
        ("http://host:5000", "http://host:5000", "http://host:5000"),
    ],
)
def test_a_password_is_neither_shown_nor_recorded(uri, shown, bare):
    assert mlflow_store.shown_uri(uri) == shown
    assert mlflow_store.without_password(uri) == (bare or "postgresql://host/x?user=me")
