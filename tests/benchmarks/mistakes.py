"""Processor seconds of commands that refuse a mistake or only look: user and system time, whatever else runs.

    PYTHONPATH=. python tests/benchmarks/mistakes.py     # a minute on one core

Lines are ``NAME SECONDS EXIT_CODE``, the least of three processes each.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from sweeps.spec.document import write_yaml
from tests.support.disturbed_sweeps import SWEEP

COMMAND = [sys.executable, "-c", "from sweeps.cli import main; main()"]
TRIES = 3
RIGHT = write_yaml(SWEEP)
FILES = {
    "right.yaml": RIGHT,
    "syntax.yaml": "name: [",
    "section.yaml": RIGHT.replace("episodes:", "episodse:"),
    "planner.yaml": RIGHT.replace("horizon:", "horizn:"),
    "value.yaml": RIGHT.replace("rollouts: 2", "rollouts: two"),
    "environment.yaml": RIGHT.replace("Hopper-v4", "Hoper-v4"),
}
CASES = {
    "no-such-file": "sweep plan absent.yaml",
    "no-such-sweep": "sweep plan absent",
    "syntax": "sweep plan syntax.yaml",
    "key-of-a-section": "sweep plan section.yaml",
    "key-of-a-planner": "sweep run planner.yaml",
    "value": "sweep plan value.yaml",
    "environment": "sweep plan environment.yaml",
    "command": "sweep stauts right.yaml",
    "nothing-recorded": "table right.yaml",
    "no-such-dataset": "data audit absent.hdf5 --env Hopper-v4",
    "no-such-task": "data audit absent",
    "help": "--help",
    "data-list": "data list",
}


def main() -> None:
    """Print all lines."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in FILES.items():
            (Path(folder) / name).write_text(text)
        for name, words in CASES.items():
            seconds, code = min(measure(words.split(), folder) for _ in range(TRIES))
            print(f"{name} {seconds:.2f} {code}", flush=True)


def measure(words: list[str], folder: str) -> tuple[float, int]:
    """Return processor seconds and exit code of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = subprocess.run([*COMMAND, *words], cwd=folder, capture_output=True).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, code


if __name__ == "__main__":
    main()
