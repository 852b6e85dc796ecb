"""The exceptions for what a user gave wrong, and for work that has to stop."""

import difflib
from collections.abc import Iterable

__all__ = ["Interrupted", "UserError", "did_you_mean"]


class UserError(ValueError):
    """Something the user gave is wrong: one line that says what, where, and how to mend it.

    The command line prints the message without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # one line, whatever was interpolated


class Interrupted(Exception):
    """The process has to end: a training that its progress callback tells so saves its checkpoint first."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest known word, else an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""
