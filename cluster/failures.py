"""Which failures of a unit are worth another try: until it has failed three times for the same reason.

An error of the work itself comes again, and a sweep that is continued, as one is after every interruption, should not
spend its time on it. The unit is then set aside until `mpcwdwm sweep retry`. What the machine or the storage did
(a process that was killed, a full disk, a server that does not answer) is gone the next time, and counts for nothing.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["TRIES", "alike", "is_of_the_machine", "is_out_of_memory", "is_set_aside"]

TRIES = 3
# What torch says in a RuntimeError of its own, on a processor and from its libraries on a GPU.
NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|CUDA out of memory|_STATUS_ALLOC_FAILED")


def is_set_aside(failure: Mapping[str, Any] | None) -> bool:
    """Return whether a unit with this record in the store (`Store.failure`) is not tried any more."""
    return failure is not None and failure.get("tries", 0) >= TRIES


def alike(error: str, other: str) -> bool:
    """Return whether two lines give the same reason; numbers, as of a loss or a step, may differ."""
    return _without_numbers(error) == _without_numbers(other)


def is_of_the_machine(error: BaseException) -> bool:
    """Return whether an error, or what caused it, is one of memory, files or connections."""
    return is_out_of_memory(error) or any(
        isinstance(cause, OSError) or _is_full_disk(cause) for cause in _causes(error)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or what caused it, is that there was no memory left, of the machine or a GPU."""
    # torch's OutOfMemoryError is a RuntimeError; it is not imported here
    return any(
        isinstance(cause, MemoryError)
        or type(cause).__name__ == "OutOfMemoryError"
        or (isinstance(cause, RuntimeError) and NO_MEMORY.search(str(cause)) is not None)
        for cause in _causes(error)
    )


def _is_full_disk(error: BaseException) -> bool:
    """Return whether an error is that of a checkpoint that finds no room."""
    return type(error).__name__ == "SafetensorError" and "os error" in str(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what caused it, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _without_numbers(error: str) -> str:
    return re.sub(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?", "#", error)
