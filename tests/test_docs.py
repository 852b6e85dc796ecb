"""The pages are true: the links, paths, modules, commands, make targets, fields and YAML that they name exist."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from mpcwdwm.components.registry import COMPONENTS, WORLD_MODELS
from mpcwdwm.planning import PLANNERS
from sweeps.cli import app
from sweeps.spec.spec import load_spec
from tests.support import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SPECS = [ROOT / "quickstart.yaml", *sorted((ROOT / "sweeps" / "specs").glob("*.yaml"))]
LAUNCH = sorted(path for path in (ROOT / "cluster" / "launch").iterdir() if path.is_file() and path.suffix != ".py")
FOLDERS = ("mpcwdwm", "cluster", "sweeps", "analysis", "tests")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FILE = re.compile(r"`([\w-]+\.(?:py|yaml|md|sh))`")
PATH = re.compile(
    r"(?<![\w/.<-])(?!mpcwdwm/(?:AntMaze|PointMaze)-)(?:mpcwdwm|cluster|sweeps|analysis|tests|docs)/[\w./*-]*\w(?:/(?![\w*]))?"
)
MODULE = re.compile(r"(?<![\w./(-])(?:mpcwdwm|cluster|sweeps|analysis)(?:\.\w+)+")
GROUPS = {"mpcwdwm.planners", "mpcwdwm.world_models", "mpcwdwm.termination", "mpcwdwm.judges"}  # of entry points
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
texts = pytest.mark.parametrize("path", [*PAGES, *SPECS, *LAUNCH], ids=lambda path: path.name)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str) -> Iterator[list[str]]:
    """Every `mpcwdwm …` of code spans, which may go on in the next line of a comment, and of lines by themselves."""
    text = re.sub(r"\\\n", " ", text)
    spans = re.findall(r"`(?:\.venv/bin/)?mpcwdwm ([^`]+)`", re.sub(r"\n# ", " ", text))
    lines = re.findall(r"^(?:\$ |# +)?(?:\.venv/bin/)?mpcwdwm ([a-z].*)$", text, re.MULTILINE)
    yield from (shlex.split(found, comments=True) for found in (*spans, *lines))


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


def test_the_site_has_every_page_once() -> None:
    toctrees = re.findall(
        r"^```{toctree}\n(.*?)^```", (ROOT / "docs" / "index.md").read_text(), re.DOTALL | re.MULTILINE
    )
    listed = [line for tree in toctrees for line in tree.split() if not line.startswith(":")]
    names = {page.stem for page in PAGES if page.parent.name == "docs"} - {"index"}
    assert names == {entry for entry in listed if entry in names}
    assert len(listed) == len(set(listed))


def test_the_fields_page_has_every_component_world_model_and_planner() -> None:
    shown = set(re.findall(r"{config-fields} (\S+)", (ROOT / "docs" / "fields.md").read_text()))
    classes = [registry[name] for registry in (COMPONENTS, WORLD_MODELS, PLANNERS) for name in registry.own]
    assert {f"{one.config_class.__module__}.{one.config_class.__name__}" for one in classes} <= shown


@texts
def test_paths_exist(path: Path) -> None:
    for found in PATH.findall(path.read_text()):
        assert list(ROOT.glob(found)), found
    ours = {file.name for folder in FOLDERS for file in (ROOT / folder).rglob("*")} | {file.name for file in PAGES}
    assert {*FILE.findall(path.read_text())} <= ours | {"spec.yaml", "mine.yaml", "quickstart.yaml"}


@texts
def test_modules_exist(path: Path) -> None:
    for found in set(MODULE.findall(path.read_text())) - GROUPS:
        module, rest = importlib.import_module(found.split(".")[0]), found.split(".")[1:]
        for name in rest:
            if not hasattr(module, name):
                importlib.import_module(f"{module.__name__}.{name}")
            module = getattr(module, name)


@texts
def test_commands_and_their_options_exist(path: Path) -> None:
    for words in commands(path.read_text()):
        command = typer.main.get_command(app)
        while isinstance(command, TyperGroup) and words:
            assert words[0] in command.commands, words
            command, words = command.commands[words[0]], words[1:]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, words


def test_every_folder_of_the_packages_has_its_line_among_the_rooms() -> None:
    rooms = set(re.findall(r"^\| `([\w/]+)/` \|", (ROOT / "docs" / "development.md").read_text(), re.MULTILINE))
    folders = {path.parent for name in FOLDERS[:4] for path in (ROOT / name).rglob("*.py")}
    assert {str(folder.relative_to(ROOT)) for folder in folders} <= rooms


@pages
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([\w-]+)", page.read_text(), re.MULTILINE)) <= targets


def test_fields_of_the_deviations_exist() -> None:
    code = "".join(path.read_text() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    fields = set(re.findall(r"^    (\w+): .*= setting\(", code, re.MULTILINE)) | set(COMPONENTS.own)
    for row in re.findall(r"^\|.*\|$", (ROOT / "docs" / "deviations.md").read_text(), re.MULTILINE):
        cells = row.strip("| ").split(" | ")
        named = re.findall(r"`([\w.*]+)`", cells[3]) if len(cells) == 4 else []
        assert {name.split(".")[-1] for name in named} <= fields, row


def test_yaml_of_the_pages_is_accepted(tmp_path: Path) -> None:
    """Whole sweeps as they stand, sections within a small sweep; another package in them has its own test."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.hdf5").touch()
    whole = {"name": "x", "tasks": "[hopper-medium-v2]", "seeds": "2", "planners": "{mpc: {horizon: 1}}"}
    blocks = [block for page in PAGES for language, block in FENCE.findall(page.read_text()) if language == "yaml"]
    assert len(blocks) >= 6
    for block in blocks:
        if "my_package" not in block:
            lacking = [f"{key}: {value}\n" for key, value in whole.items() if f"\n{key}:" not in f"\n{block}"]
            (tmp_path / "spec.yaml").write_text("".join(lacking) + block)
            load_spec(tmp_path / "spec.yaml")
