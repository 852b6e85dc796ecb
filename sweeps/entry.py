"""The command ``mpcwdwm``. Loading it takes half a second, in which Ctrl-C ends it as it does later: without a word."""

import os
import signal
from typing import Any

__all__ = ["main"]

INTERRUPTED = 130  # as `sweeps.execution.interrupt` says, which is not loaded yet


def main() -> None:
    """Run the command line and exit."""
    signal.signal(signal.SIGINT, _leave)
    from sweeps.cli import main as run

    run()


def _leave(number: int, frame: Any) -> None:
    os._exit(INTERRUPTED)
