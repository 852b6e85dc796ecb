"""Servers under a running sweep are killed and started again, or answer with errors for a while."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.disturbed_sweeps import ACTOR, Sandbox, wait_for, wait_until
from tests.support.failing_proxy import failing_proxy
from tests.support.s3 import S3Server, free_port

pytestmark = [pytest.mark.services, pytest.mark.slow]

START_SECONDS = 120.0  # of MLflow's server; seven on an idle machine


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[None]:
    """Run MLflow's server on a sqlite file; at the end of the block it is killed, as it is."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/files"]
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True) as server,
    ):
        try:
            deadline = time.monotonic() + START_SECONDS
            while not answers(f"http://127.0.0.1:{port}/health"):
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
            yield
        finally:
            os.killpg(server.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except (urllib.error.URLError, OSError):
        return False


def test_an_mlflow_server_is_killed_and_started_again(undisturbed: Sandbox, tmp_path: Path) -> None:
    port = free_port()
    sandbox = Sandbox(tmp_path / "disturbed", tracking={"uri": f"http://127.0.0.1:{port}"})
    with mlflow_server(tmp_path / "server", port):
        driver = sandbox.start()
        assert wait_until(lambda: len(sandbox.published()["component"]) >= 2, driver), sandbox.log()
    time.sleep(3.0)  # in which units are finished
    with mlflow_server(tmp_path / "server", port):
        sandbox.ended(driver, 0)
        sandbox.check_like(undisturbed)


def test_an_mlflow_server_that_stays_away_costs_no_work_and_the_next_run_records_it(
    undisturbed: Sandbox, tmp_path: Path
) -> None:
    port = free_port()
    short = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
    sandbox = Sandbox(tmp_path / "disturbed", short, tracking={"uri": f"http://127.0.0.1:{port}"})
    with mlflow_server(tmp_path / "server", port):
        driver = sandbox.start()
        assert wait_until(lambda: len(sandbox.published()["component"]) >= 2, driver), sandbox.log()
    sandbox.ended(driver, 2)
    assert sandbox.published() == undisturbed.published()
    assert "going on, the records follow at the end" in sandbox.log()
    with mlflow_server(tmp_path / "server", port):
        sandbox.finish()
        sandbox.check_like(undisturbed)


def test_an_s3_server_is_gone_for_a_while_and_then_busy(
    undisturbed: Sandbox,
    new_sandbox: Callable[..., Sandbox],
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its objects outlive it: the proxy before it ends all connections, and refuses new ones."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bucket = s3.bucket()
    with failing_proxy(int(s3.url.rsplit(":", 1)[1])) as proxy:
        sandbox = new_sandbox(
            tmp_path / "disturbed", {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}, storage=f"{bucket}/runs"
        )
        driver = sandbox.start()
        assert wait_for(sandbox.mark, ACTOR, driver, 0.5), sandbox.log()
        with proxy.gone(15.0):
            pass
        assert wait_until(lambda: len(sandbox.published()["cell"]) > 0, driver), sandbox.log()
        with proxy.busy():
            time.sleep(15.0)
        sandbox.ended(driver, 0)
        assert "it is tried again for" in sandbox.log()
        sandbox.check_like(undisturbed)
