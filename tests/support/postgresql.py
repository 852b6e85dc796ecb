"""A PostgreSQL server of a test's own: a fresh database in a temporary folder, on loopback, with a password."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.s3 import free_port

__all__ = ["BINARIES", "postgresql"]

USER = "postgres"  # where tests run as root, which PostgreSQL refuses to
FOUND = [shutil.which("initdb"), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")))]
BINARIES = next((Path(found).resolve().parent for found in FOUND if found), None)  # folder; None: it is not installed


@contextmanager
def postgresql(password: str) -> Iterator[dict[str, str]]:
    """Run a server until the end of the block; yield the environment with which clients reach it."""
    assert BINARIES is not None
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix="mpcwdwm-postgresql-"))
    own = {"user": USER} if os.geteuid() == 0 else {}
    (folder / "password").write_text(password)
    if own:
        for path in (folder, folder / "password"):
            os.chown(path, pwd.getpwnam(USER).pw_uid, -1)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    control = [BINARIES / "pg_ctl", "-D", folder / "data", "-w"]
    make = [BINARIES / "initdb", "-D", folder / "data", "-U", "mlflow", "-A", "scram-sha-256", "-E", "UTF8", "-N"]
    run = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder, **own}
    subprocess.run([*make, "--no-locale", "--pwfile", folder / "password"], **run)
    subprocess.run([*control, "-l", folder / "log", "-o", options, "start"], **run)
    try:
        yield {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "mlflow", "PGPASSWORD": password}
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **run)
        shutil.rmtree(folder)
