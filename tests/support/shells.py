"""Stand-ins for commands of a scheduler: scripts on PATH that note their words and what they read."""

from pathlib import Path

HOSTILE = [
    "a b",
    "x; touch {mark}",
    "$(touch {mark})",
    "`touch {mark}`",
    "x\ntouch {mark}\n",
    "'; touch {mark}; '",
    '"; touch {mark}; "',
    "x && touch {mark}",
    "x | tee {mark}",
    "> {mark}",
    "--flag",
    "-c",
    "*",
    "~",
    "${{HOME}}",
    "\\",
    "#x",
    "é\u00a0x",
]
"""Texts that a shell would do something with; {mark} is a file that has to stay away."""


def hostile(mark: Path) -> list[str]:
    """The texts for one mark."""
    return [text.format(mark=mark) for text in HOSTILE]


def stand_in(folder: Path, name: str, body: str) -> None:
    """Put a command on PATH, if `folder` is there."""
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)
