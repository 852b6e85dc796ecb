"""The Containerfile names what exists. No image is built here, so its steps are not run."""

import sys
from importlib.metadata import version

from tests.support import ROOT

FILE = ROOT / "cluster" / "launch" / "Containerfile"


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments, in order."""
    lines = [line for line in FILE.read_text().splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_it_names_the_python_of_this_checkout_and_no_version_of_this_package() -> None:
    assert ("FROM", f"python:{sys.version_info.major}.{sys.version_info.minor}-slim-bookworm") in instructions()
    assert "mpcwdwm==" not in FILE.read_text()
    assert version("mpcwdwm") not in FILE.read_text()
    copied = [rest.split()[0] for word, rest in instructions() if word == "COPY"]
    assert copied == ["constraints.txt", "dist"]  # what the commands at its top leave in the context
