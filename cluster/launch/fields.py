"""Types of what a YAML says of a site.

These values end up in batch scripts and in objects of Kubernetes. A pattern says what each may look like, none begins
with a dash, and whatever has no pattern is quoted where it is written (`quoted`, `exports`).
"""

import re
import shlex
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Strict

from mpcwdwm.validation import shortened

__all__ = [
    "MOST_CORES",
    "MOST_GPUS",
    "MOST_NODES",
    "AbsolutePath",
    "Command",
    "DnsName",
    "Features",
    "Image",
    "LabelName",
    "LabelValue",
    "Partitions",
    "Quantity",
    "SlurmMemory",
    "SlurmTime",
    "Variables",
    "Word",
    "exports",
    "quoted",
    "seconds_of",
]

MOST_NODES, MOST_CORES, MOST_GPUS = 10_000, 4096, 64  # of a job, of a node; more is a slip
SHELL_SYNTAX = "$`;&|<>(){}*?[]!#\\"
CREDENTIAL = re.compile(r"(?i).*(SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|API_?KEY|ACCESS_KEY).*")


def _like(pattern: str, what: str) -> AfterValidator:
    """Return a validator: the whole text has to look like the pattern."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"should be {what}, not {shortened(value)}")
        return value

    return AfterValidator(check)


def _command(line: str) -> str:
    if found := sorted({sign for sign in line if sign in SHELL_SYNTAX or not sign.isprintable()}):
        raise ValueError(f"should be one command with its arguments, without {found[0]!r}: `source` a script for more")
    try:
        words = shlex.split(line)
    except ValueError:
        raise ValueError(f"has a quotation mark without its pair: {shortened(line)}") from None
    if not words or words[0].startswith("-"):
        raise ValueError(f"should begin with a command, not {shortened(line)}")
    return line


def _variables(given: dict[str, str]) -> dict[str, str]:
    for name, value in given.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"{shortened(name)} is no name of an environment variable")
        if CREDENTIAL.fullmatch(name):
            raise ValueError(f"{name}: no credentials in a YAML: set it where you give the command, or name a secret")
        if not value.isprintable():
            raise ValueError(f"{name} should be one line of text")
    return given


Word = Annotated[
    str, Strict(), _like(r"[A-Za-z0-9][A-Za-z0-9_.:@+-]{0,127}", "a word of letters, digits and any of _.:@+-")
]
"""A name that a site gives: of an account, a quality of service."""
Partitions = Annotated[
    str, Strict(), _like(r"[A-Za-z0-9][A-Za-z0-9_.:@+,-]{0,255}", "a partition, or several with commas and no blanks")
]
Features = Annotated[
    str,
    Strict(),
    _like(r"[A-Za-z0-9\[(][A-Za-z0-9_.:&|*,()\[\]-]{0,255}", 'features of nodes without blanks, such as "a100|h100"'),
]
SlurmMemory = Annotated[str, Strict(), _like(r"[1-9][0-9]{0,8}[KMGT]?", "a size such as 128G")]
Quantity = Annotated[str, Strict(), _like(r"[1-9][0-9]{0,11}([KMGT]i|[kMGT])?", "a size such as 32Gi")]
"""Of memory, in Kubernetes."""
LabelName = Annotated[
    str,
    Strict(),
    _like(
        r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?",
        "the name of a label, such as nvidia.com/gpu.product",
    ),
]
LabelValue = Annotated[
    str, Strict(), _like(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?", "the value of a label")
]
DnsName = Annotated[
    str,
    Strict(),
    _like(
        r"(?=.{1,63}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*",
        "a name of lower-case letters, digits, '-' and '.'",
    ),
]
"""A name of an object of Kubernetes."""
Image = Annotated[
    str,
    Strict(),
    _like(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}(@sha256:[0-9a-f]{64})?", "an image, such as registry.org/mpcwdwm:1"),
]
SlurmTime = Annotated[
    str,
    Strict(),
    _like(r"([0-9]{1,3}-)?[0-9]{1,4}(:[0-9]{2}){0,2}", "a time such as 24:00:00 or 2-12 (days-hours), in quotes"),
]
# PATH is split at colons, and Kubernetes mounts at no path with one
AbsolutePath = Annotated[str, Strict(), _like(r"/[^:\x00-\x1f\x7f]{1,1023}", "an absolute path without colons")]
Command = Annotated[str, Strict(), AfterValidator(_command)]
"""A command with its arguments: words and quotation marks, no other syntax of a shell."""
Variables = Annotated[dict[str, str], AfterValidator(_variables)]


def seconds_of(time: str) -> int:
    """Return the length of a `SlurmTime`: minutes, m:s, h:m:s, days-h, days-h:m or days-h:m:s."""
    days, dash, rest = time.rpartition("-")
    numbers = [int(number) for number in rest.split(":")]
    if dash:
        return sum(number * unit for number, unit in zip([int(days), *numbers], (86400, 3600, 60, 1), strict=False))
    units = (3600, 60, 1) if len(numbers) == 3 else (60, 1)
    return sum(number * unit for number, unit in zip(numbers, units, strict=False))


def quoted(line: str) -> str:
    """Return a `Command` with every word quoted, so that a shell takes each as it is."""
    return shlex.join(shlex.split(line))


def exports(variables: Mapping[str, str]) -> list[str]:
    """Return the lines of a shell script that set environment variables."""
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
