"""Which failures of a unit are worth another try: until it has failed three times for the same reason.

An error of the work itself comes again, and a sweep that is continued, as one is after every interruption, should not
spend its time on it. The unit is then set aside until `mpcwdwm sweep retry`. What the machine or the storage did
(a process that was killed, a full disk, a server that does not answer) is gone the next time, and counts for nothing.
"""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["TRIES", "alike", "is_of_the_machine", "is_set_aside"]

TRIES = 3


def is_set_aside(failure: Mapping[str, Any] | None) -> bool:
    """Return whether a unit with this record in the store (`Store.failure`) is not tried any more."""
    return failure is not None and failure.get("tries", 0) >= TRIES


def alike(error: str, other: str) -> bool:
    """Return whether two lines give the same reason; numbers, as of a loss or a step, may differ."""
    return _without_numbers(error) == _without_numbers(other)


def is_of_the_machine(error: BaseException) -> bool:
    """Return whether an error, or what caused it, is one of memory, files or connections."""
    cause: BaseException | None = error
    while cause is not None:
        # torch's OutOfMemoryError is a RuntimeError; it is not imported here
        if isinstance(cause, (OSError, MemoryError)) or type(cause).__name__ == "OutOfMemoryError":
            return True
        if type(cause).__name__ == "SafetensorError" and "os error" in str(cause):  # a checkpoint that finds no room
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _without_numbers(error: str) -> str:
    return re.sub(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?", "#", error)
