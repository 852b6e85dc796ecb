"""Ctrl-C ends a command without a word, also while it is loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

INTERRUPT = "os.kill(os.getpid(), signal.SIGINT)"
WHILE_LOADING = f"""
import os, signal, sys
class Finder:
    def find_spec(self, name, *others):
        if name == "sweeps.plain_text":
            {INTERRUPT}
sys.meta_path.insert(0, Finder())
from sweeps.entry import main
main()
"""
# what Python makes of a KeyboardInterrupt while a class is built, and what our own import of modules makes of that
IN_AN_IMPORT = """
import os, signal
import sweeps.cli
from mpcwdwm.errors import UserError
def app():
    try:
        {interrupt}
    except KeyboardInterrupt as error:
        raise {becomes} from error
sweeps.cli.app = app
sweeps.cli.main()
"""


@pytest.mark.parametrize(
    "script",
    [
        WHILE_LOADING,
        IN_AN_IMPORT.format(interrupt=INTERRUPT, becomes="KeyboardInterrupt"),
        IN_AN_IMPORT.format(interrupt=INTERRUPT, becomes="RuntimeError('Error calling __set_name__')"),
        IN_AN_IMPORT.format(interrupt=INTERRUPT, becomes="UserError('cannot be imported')"),
    ],
    ids=["while it is loaded", "raised", "wrapped", "reported"],
)
def test_ctrl_c_ends_without_a_word(script: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (130, "")


def test_an_error_of_ours_is_still_shown(tmp_path: Path) -> None:
    script = "import sweeps.cli as cli\ndef app(): raise RuntimeError('ours')\ncli.app = app\ncli.main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert ended.stderr.rstrip().endswith("RuntimeError: ours")
