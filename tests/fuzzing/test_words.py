"""YAML files and words of the command line that were changed: one line, or they are right.

``MPCWDWM_FUZZ=10000`` for the long version.
"""

import shlex
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings

from mpcwdwm.errors import UserError
from sweeps.cli import app
from sweeps.spec.spec import load_spec
from tests.support.fuzz_targets import SHIPPED, SPEC
from tests.support.mutations import FUZZED, INPUTS, changed_text, within

COMMANDS = [
    "sweep status nothing --json",
    "sweep logs nothing mpc --seeds 0,1",
    "sweep run nothing --set evaluation.episodes=3 --tasks hopper-* --cluster slurm --dry-run",
    "sweep plan nothing --seeds 3",
    "table nothing --format latex --layout paper --out table.tex",
    "compare one@abc two --format json",
    "data audit nothing --env Hopper-v4",
    "data verify nothing.hdf5 --env Hopper-v4 --rows 10",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("words")


def check(text: str, folder: Path) -> None:
    path = folder / "s.yaml"
    path.write_text(text, encoding="utf-8")
    with within(), suppress(UserError):
        load_spec(path)


@FUZZED
@given(text=changed_text([SPEC]))
def test_a_changed_yaml_is_right_or_refused_in_one_line(text: str, folder: Path) -> None:
    check(text, folder)


@settings(FUZZED, max_examples=max(1, INPUTS // 8))  # they take longer
@given(text=changed_text(SHIPPED))
def test_a_changed_yaml_of_ours_is_right_or_refused_in_one_line(text: str, folder: Path) -> None:
    check(text, folder)


@pytest.mark.parametrize("text", [SPEC, *SHIPPED])
def test_what_is_changed_was_right(text: str, folder: Path) -> None:
    (folder / "right.yaml").write_text(text)
    assert load_spec(folder / "right.yaml").tasks


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)),
        "name: mine\ntasks: " + "[" * 5000 + "]" * 5000,
        "name: mine\ntasks: &t [*t]\n",
        SPEC.replace("seeds: [0, 1]", "seeds: 99999999999"),
        SPEC.replace("horizon: [1, 3]", "horizon: 99999999999999999999999"),
        SPEC.replace("mine", "x" * 100_000),
    ],
    ids=["aliases of aliases", "deep lists", "a list in itself", "many seeds", "a large number", "a long name"],
)
def test_a_yaml_that_would_take_all_memory_is_refused(text: str, folder: Path) -> None:
    path = folder / "s.yaml"
    path.write_text(text)
    with within(), pytest.raises(UserError):
        load_spec(path)


@pytest.mark.parametrize("name", ["../x", "a/b", "/tmp/x", "..", ".hidden", "~", "a b", "$HOME", "x" * 101])
@pytest.mark.parametrize("place", ["name: mine", "name: other", "mpc: {kind"])
def test_a_name_that_leads_out_of_its_folder_is_refused(place: str, name: str, folder: Path) -> None:
    """Of a sweep, a task, a planner: folders and files are called by them."""
    changed = f"'{name}': {{kind" if "kind" in place else f"name: '{name}'"
    (folder / "s.yaml").write_text(SPEC.replace(place, changed, 1))
    with pytest.raises(UserError, match="name"):
        load_spec(folder / "s.yaml")


def test_a_tag_makes_no_object(folder: Path) -> None:
    text = SPEC.replace("name: mine", f"name: !!python/object/apply:os.mkdir ['{folder}/made']")
    (folder / "s.yaml").write_text(text)
    with pytest.raises(UserError):
        load_spec(folder / "s.yaml")
    assert not (folder / "made").exists()


@settings(FUZZED, max_examples=max(1, INPUTS // 4))
@given(text=changed_text(COMMANDS))
@example(text="data audit /dev/zero --env Hopper-v4")
@example(text="sweep status " + "a" * 300)
@example(text="data audit " + "a" * 300 + ".hdf5 --env Hopper-v4")
@example(text="sweep plan " + "a" * 300 + "/mine.yaml")
@example(text="sweep status " + "a" * 300)
def test_changed_words_of_a_command_are_answered(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words are split as a shell does; nothing that they could name exists."""
    monkeypatch.chdir(folder)
    try:
        words = shlex.split(text)
    except ValueError:
        return
    with within(), suppress(UserError, SystemExit):
        app(words, prog_name="mpcwdwm")
