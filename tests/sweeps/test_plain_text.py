"""Every print of every command survives a stream that is not Unicode."""

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.plain_text import UNKNOWN, in_ascii, keep_printable
from tests.support.parts import BUNDLED

ROOT = Path(__file__).parents[2]
ASCII = [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


def printed_texts() -> list[str]:
    """All texts of the code that may be printed: every literal but docstrings."""
    found = []
    for package in ("sweeps", "cluster", "analysis", "mpcwdwm"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            found += [
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements
            ]
    return found


def test_every_character_that_the_code_prints_can_be_read_in_ascii() -> None:
    unreadable = {c for text in printed_texts() for c in text if not c.isascii() and UNKNOWN in in_ascii(c)}
    assert unreadable == set()


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("→ gain −1.5 [–2, 3] ‡", "-> gain -1.5 [-2, 3] #"),
        ("12 × α ᾱ Φ ψ₀ 10² …", "12 x alpha alpha Phi psi0 102 ..."),
        ("──┬──│", "--+--|"),
        ("Jörg \udcc3", "Jorg ?"),
    ],
)
def test_text_is_spelled_in_ascii_and_one_column_stays_one(text: str, plain: str) -> None:
    assert in_ascii(text) == plain


def test_a_stream_keeps_what_its_encoding_has() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    keep_printable(stream)
    print("Jörg × 3 → 4", file=stream, flush=True)
    assert raw.getvalue().decode("latin-1") == "Jörg × 3 -> 4\n"


@pytest.mark.parametrize("environment", ASCII)
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("data", "audit", BUNDLED), 0, "faults            none found"),
        (("sweep", "plan", "ä→.yaml"), 2, "there is no such file"),
        (("--help",), 0, "Adaptive MPC"),
    ],
)
def test_commands_answer_on_an_ascii_terminal(
    tmp_path: Path, environment: dict[str, str], arguments: tuple[str, ...], code: int, says: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from sweeps.cli import main; main()", *arguments],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=100,
    )
    assert ended.returncode == code, ended.stderr
    assert says in (ended.stdout + ended.stderr).decode("ascii")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_place_for_the_next_file(tmp_path: Path, closed: str) -> None:
    """Else what is printed is written into the file, whatever it is."""
    script = (
        "import os, sys; from sweeps.execution.interrupt import leave; from sweeps.plain_text import *;"
        " open_closed_streams(); keep_printable(sys.stdout, sys.stderr); file = open('file', 'w');"
        " print('out'); print('err', file=sys.stderr); os.system('echo child'); leave(3 if file.fileno() > 2 else 4)"
    )
    ended = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{script}" {closed}'],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (ended.returncode, (tmp_path / "file").read_text()) == (3, "")
    assert "Traceback" not in ended.stderr
