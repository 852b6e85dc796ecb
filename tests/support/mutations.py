"""Inputs with mistakes nobody thought of: texts and bytes that were right, with some of them changed."""

import os
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

__all__ = ["FUZZED", "INPUTS", "changed_bytes", "changed_text", "within"]

INPUTS = int(os.environ.get("MPCWDWM_FUZZ", "200"))  # of each kind; 10000 is the long version
HANGS = 60  # seconds for one input, on a machine that is busy with other things
FUZZED = settings(max_examples=INPUTS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
MOST_CHANGES = 4
WORD = re.compile(r"[\w.\-]+")
CHARACTERS = ":,[]{}&*#'\"|>%@ -?!x0\t\n"
NASTY = (
    *("null", "~", "-1", "0", "1e400", ".inf", ".nan", "-.inf", "[]", "{}", "[[]]", "{a: 1}", "''", "'x'", "true"),
    *("!!python/object/apply:os.abort []", "!x y", "&a [*a]", "*a", "2026-01-01", "0x1F", "1_000", "0o7", "1:30:00"),
    *("99999999999999999999", "[1, two]", "{? [a] : b}", "|", "? a", "<<", "'\\0'", "\u200b", "\U0001f600", "é" * 50),
    *("..", "../../x", "/dev/zero", "s3://x", "file:///etc/passwd", "@", "`", "%", "a: b: c", "- -", "\t", "\x00"),
    *("{kind: nope}", "[{kind: flow}]", "1e-5", "-0.0", "0.5", "--help", "-", "$HOME", "$(id)", "%00", "a" * 300),
)


@st.composite
def changed_text(draw: st.DrawFn, texts: Sequence[str]) -> str:
    """Draw one of the texts with some lines dropped, doubled or shifted, and some words or characters replaced."""
    lines = draw(st.sampled_from(texts)).split("\n")
    for _ in range(draw(st.integers(1, MOST_CHANGES))):
        place = draw(st.integers(0, len(lines) - 1))
        line = lines[place]
        change = draw(st.sampled_from(("word", "word", "other", "character", "drop", "double", "shift")))
        words = list(WORD.finditer(line))
        if change == "drop" and len(lines) > 1:
            del lines[place]
        elif change == "double":
            lines.insert(place, line)
        elif change == "shift":
            lines[place] = " " * draw(st.integers(1, 5)) + line
        elif change == "character":
            at = draw(st.integers(0, len(line)))
            lines[place] = line[:at] + draw(st.sampled_from(CHARACTERS)) + line[at + draw(st.integers(0, 1)) :]
        elif words:
            word = draw(st.sampled_from(words))
            others = WORD.findall(draw(st.sampled_from(lines))) if change == "other" else NASTY
            lines[place] = line[: word.start()] + draw(st.sampled_from(others or NASTY)) + line[word.end() :]
    return "\n".join(lines)


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes, structure: Sequence[int] = ()) -> bytes:
    """Draw the bytes with some of them changed, most of these at the places named as structure, or cut short."""
    changed = bytearray(content)
    anywhere = st.integers(0, len(content) - 1)
    place = st.one_of(anywhere, *[st.sampled_from(structure)] * (3 if structure else 0))
    for _ in range(draw(st.integers(1, MOST_CHANGES))):
        at = draw(place)
        changed[at] = draw(st.sampled_from((0, 1, 255, changed[at] ^ 1, changed[at] ^ 128)) | st.integers(0, 255))
    return bytes(changed[: draw(anywhere)] if draw(st.integers(0, 9)) == 0 else changed)


@contextmanager
def within(seconds: int = HANGS) -> Iterator[None]:
    """Raise TimeoutError in a block that takes longer."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
