"""Signals: the first Ctrl-C or SIGTERM lets a sweep stop its workers and end; a second one kills it."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

__all__ = ["EXIT_CODE", "catch_signals", "interruptible", "leave", "leave_if_interrupted", "remember_interrupts"]

EXIT_CODE = 130  # of a process ended by Ctrl-C, as shells count
SIGNALS = (signal.SIGINT, signal.SIGTERM)


_heard = threading.Event()


def remember_interrupts() -> None:
    """Have Ctrl-C raise KeyboardInterrupt, as ever, and be remembered."""

    def interrupt(number: int, frame: Any) -> None:
        _heard.set()
        raise KeyboardInterrupt

    _handle(signal.SIGINT, interrupt)


def leave_if_interrupted() -> None:
    """End without a word if there was a Ctrl-C: in the middle of an import it becomes some other error."""
    if _heard.is_set():
        leave(EXIT_CODE)


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


def leave(code: int) -> NoReturn:
    """Exit at once: nothing is left to be written, and threads of libraries are not waited for."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(
            OSError
        ):  # whoever read it has ended, as in `mpcwdwm sweep run SPEC | head -1`, or a disk is full
            stream.flush()
    os._exit(code)
