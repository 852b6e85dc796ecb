"""Output on streams that cannot carry every character: ``PYTHONIOENCODING=ascii``, ``LANG=C``, a Latin-1 terminal.

What such a stream lacks is written in ASCII, "→" as "->", so that no command ends in an encoding error after its work
is done.
"""

import codecs
import io
import os
import sys
import unicodedata
from typing import TextIO

__all__ = ["in_ascii", "keep_printable", "open_closed_streams"]

HANDLER = "mpcwdwm.in_ascii"  # the name under which streams find it
SPELLED = {  # characters without a decomposition, as people type them
    "–": "-",
    "—": "-",
    "−": "-",
    "→": "->",
    "←": "<-",
    "·": "*",
    "×": "x",
    "÷": "/",
    "±": "+-",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "∝": "~",
    "√": "sqrt",
    "∇": "grad",
    "∫": "integral",
    "‖": "|",
    "†": "+",
    "‡": "#",
    "§": "$",
    "⚠": "!",
    "’": "'",
    "‘": "'",
    "“": '"',
    "”": '"',
    "′": "'",
    "°": "deg",
    "•": "*",
}
UNKNOWN = "?"


def open_closed_streams() -> None:
    """Have what reads or prints on a closed standard stream (``>&-``, a daemon) read nothing and print nowhere.

    Otherwise the next file that is opened takes its number, and what a library prints is written into that file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it takes the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115, open until the end
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def keep_printable(*streams: TextIO) -> None:
    """Have streams write in ASCII what their encoding lacks; they keep their encoding."""
    codecs.register_error(HANDLER, _replace)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):  # a test's or a notebook's stream takes every character
            stream.reconfigure(errors=HANDLER)


def in_ascii(text: str) -> str:
    """Return a text in ASCII: "α ≥ 1 – ψ" → "alpha >= 1 - psi"."""
    return "".join(character if character.isascii() else _spelled(character) for character in text)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_ascii(error.object[error.start : error.end]), error.end


def _spelled(character: str) -> str:
    if character in SPELLED:
        return SPELLED[character]
    words = unicodedata.name(character, "").split()
    if words[:2] == ["BOX", "DRAWINGS"]:
        upright, level = (
            {"VERTICAL", "UP", "DOWN"}.intersection(words),
            {"HORIZONTAL", "LEFT", "RIGHT"}.intersection(words),
        )
        return "+" if upright and level else "|" if upright else "-"
    if words[:1] == ["COMBINING"]:  # an accent; its letter stands before it
        return ""
    if words[:1] == ["GREEK"] and "LETTER" in words:
        letter = words[words.index("LETTER") + 1].lower()
        return letter.capitalize() if "CAPITAL" in words else letter
    parts = unicodedata.normalize("NFKD", character)
    return UNKNOWN if parts == character else in_ascii(parts)
