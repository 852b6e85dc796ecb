"""The exceptions for what a user gave wrong, and for work that has to stop."""

import difflib
import re
from collections.abc import Iterable

__all__ = ["Interrupted", "UserError", "did_you_mean", "without_passwords"]

# In a URL that is quoted: the password may have any sign unescaped but blanks and quotes.
PASSWORD = re.compile(r"""(://[^:/@\s]*):[^\s"']*@""")
IN_QUERY = re.compile(r"""([?&](?:ssl)?password=)[^&\s"']*""")


class UserError(ValueError):
    """Something the user gave is wrong: one line that says what, where, and how to mend it.

    The command line prints the message without a traceback and exits with code 2. Messages quote what was given, and
    end up in logs: passwords of URLs are left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(without_passwords(" ".join(message.split())))  # one line, whatever was interpolated


class Interrupted(Exception):
    """The process has to end: a training that its progress callback tells so saves its checkpoint first."""


def without_passwords(text: str) -> str:
    """Return a text with ``***`` for every password in a URL."""
    return IN_QUERY.sub(r"\1***", PASSWORD.sub(r"\1:***@", text))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest known word, else an empty string."""
    written = {each.lower(): each for each in known}  # "ReBRAC" is near to "rebrac"
    near = difflib.get_close_matches(word.lower(), written, n=1, cutoff=0.6)
    return f" (did you mean '{written[near[0]]}'?)" if near else ""
