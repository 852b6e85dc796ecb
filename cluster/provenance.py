"""Host, process, versions and commit of a computation: part of every manifest and lease."""

import hashlib
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import mpcwdwm

__all__ = ["code_digest", "cores", "git_sha", "host_name", "is_dead", "now", "process", "provenance"]


def host_name() -> str:
    """Return the name of this machine as it appears in manifests, leases and temporary names."""
    return socket.gethostname()


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def now() -> str:
    """Return the present time, UTC, as ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def process() -> dict[str, Any]:
    """Return host, pid and time, which identify this process."""
    return {"host": host_name(), "pid": os.getpid(), "started": now()}


def is_dead(host: str, pid: int) -> bool:
    """Say whether the process is known to have ended; of another host nothing is known."""
    if host != host_name():
        return False
    try:
        # A zombie has ended: where nobody reaps (a container without init) it stays in the table.
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@cache
def git_sha() -> str:
    """Return the commit this package is at, "-dirty" appended if changed since; else "unknown".

    The package's files have to be tracked there: a virtual environment may lie inside another repository.
    """
    package = Path(mpcwdwm.__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


@cache
def code_digest() -> str:
    """Return the hash of this package's source, files of `mpcwdwm` and `cluster`, to compare machines by."""
    digest = hashlib.sha256()
    for package in (Path(mpcwdwm.__file__).parent, Path(__file__).parent):
        for path in sorted(package.rglob("*.py")):
            digest.update(f"{path.relative_to(package.parent)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@cache  # looking one up reads a file, which takes milliseconds
def _version(name: str) -> str:
    """Return a package's version; "unknown" for one that was not installed, but lies on Python's path."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def provenance() -> dict[str, Any]:
    """Return the fields of a manifest on commit, versions, host and time."""
    versions = {name: _version(name) for name in ("torch", "mpcwdwm")}
    return {"git_sha": git_sha(), **versions, "host": host_name(), "finished_at": now()}
