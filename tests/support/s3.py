"""An S3-compatible server on loopback: moto's, which keeps objects in memory and honours conditional writes."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest

__all__ = ["S3Server", "free_port", "s3_server"]

START_SECONDS = 60.0  # half a second on an idle machine
_numbers = count()


class S3Server:
    """A running server."""

    def __init__(self, port: int, secret: str = "not-a-secret") -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Point this process to the server for the rest of the test.

        fsspec keeps a file system that it has made, and the environment is no part of what it keeps it by: one that
        was made for another server would be used again.
        """
        import s3fs  # not above: a free port needs no S3

        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()

    def bucket(self) -> str:
        """Make a bucket and return its URL."""
        name = f"bucket-{next(_numbers)}"
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT")):
            return f"s3://{name}"


@contextmanager
def s3_server(secret: str = "not-a-secret") -> Iterator[S3Server]:
    """Run a server until the end of the block."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            server, deadline = S3Server(port, secret), time.monotonic() + START_SECONDS
            while not _answers(server.url):
                assert process.poll() is None, "moto's server ended at once: pip install moto flask-cors"
                assert time.monotonic() < deadline, "moto's server does not answer"
                time.sleep(0.05)
            yield server
        finally:
            process.kill()


def free_port() -> int:
    """Return a port of loopback that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/moto-api/", timeout=1):
            return True
    except (urllib.error.URLError, OSError):
        return False
