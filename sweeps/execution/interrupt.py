"""Ending in order: Ctrl-C and SIGTERM stop a sweep once its workers are stopped; a second one kills."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["EXIT_CODE", "Background", "catch_signals", "interruptible"]

EXIT_CODE = 130  # of a process ended by Ctrl-C, as shells count
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[None]:
    """Have the first SIGINT or SIGTERM raise KeyboardInterrupt in the block."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    catch_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            _handle(number, handler)


def catch_signals() -> None:
    """Put our handlers in place, again where a library has replaced them."""
    for number in SIGNALS:
        _handle(number, _interrupt)


def _interrupt(number: int, frame: Any) -> None:
    for each in SIGNALS:
        _handle(each, signal.SIG_DFL)
    raise KeyboardInterrupt


def _handle(number: signal.Signals, handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():  # elsewhere Python refuses
        signal.signal(number, handler)


class Background:
    """Runs a function in a thread that does not keep the process alive; `join` raises what it raised."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:  # handed to whoever joins
            self._error = error

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()
        if self._error is not None:
            raise self._error
