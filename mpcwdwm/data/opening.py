"""Opening an HDF5 file so that whatever is wrong with its bytes is one line.

HDF5 looks at most of a file only when it is asked for, and h5py has no error of its own: a damaged file raises one of
Python's, at any later access.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from mpcwdwm.errors import UserError

__all__ = ["DAMAGE", "opened", "reason"]

# UnicodeDecodeError is a ValueError; MemoryError and OverflowError: of a size that nobody has written
DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError, MemoryError, OverflowError)


@contextmanager
def opened(path: Path | str) -> Iterator[h5py.File]:
    """Open a file for reading; the block is to read from it, and nothing else.

    Raises:
        UserError: it cannot be opened, or what is read in the block is damaged.
    """
    try:
        file = h5py.File(path, "r", locking=False)  # shared file systems may refuse locks
    except DAMAGE as error:
        raise UserError(f"dataset '{path}' is not a complete HDF5 file: {reason(error)}") from None
    with file:
        try:
            yield file
        except UserError:
            raise
        except DAMAGE as error:
            raise UserError(f"dataset '{path}' is damaged and cannot be read: {reason(error)}") from None


def reason(error: Exception) -> str:
    """Return what HDF5 says in its brackets, without its prefix."""
    text = str(error)
    return text[text.find("(") + 1 : text.rfind(")")] if "(" in text else text
