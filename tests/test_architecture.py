"""The structure holds: imports point one way, the science knows no framework, a file is a page."""

import ast
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGES = ("mpcwdwm", "cluster", "sweeps", "analysis")
ALLOWED = {
    "mpcwdwm": set(),
    "cluster": {"mpcwdwm"},
    "sweeps": {"mpcwdwm", "cluster"},  # and `SHARED`
    "analysis": {"mpcwdwm"},
}
SHARED = {"analysis.mlflow_store"}  # what MLflow holds, for its writer in `sweeps.records` and its readers
ENTRIES = {ROOT / "sweeps" / name for name in ("cli.py", "result_commands.py")}  # the commands alone know all four
FRAMEWORKS = {"ray", "mlflow", "typer", "rich", "pandas"}
PAGE = 400  # lines
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, anywhere in it; without what `SHARED` shares with `sweeps`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if path.relative_to(ROOT).parts[0] != "sweeps" or node.module not in SHARED:
                names.add((node.module or "").split(".")[0])
    return names


def dotted(path: Path) -> str:
    """Name of the module in a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: Path, known: set[str]) -> set[str]:
    """Modules of ours that a file names in an import anywhere in it: in functions and for type checkers, too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= below & known or {node.module}
    return found & known


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Return modules that import one another in a circle, the first again at the end; nothing if there are none."""
    done: set[str] = set()

    def from_(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        for other in sorted(imports[module]):
            if found := from_(other, [*way, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(imports) if (found := from_(module, []))), [])


def test_no_module_imports_itself_on_any_way():
    paths = {dotted(path): path for path in FILES}
    assert circle({name: imported_modules(path, set(paths)) for name, path in paths.items()}) == []


def test_a_circle_is_found():
    imports = {"a": {"b", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert circle(imports) == []
    assert circle({**imports, "d": {"b"}}) == ["b", "c", "d", "b"]


def test_there_is_something_to_check():
    assert len(FILES) > 40


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    foreign = imported(path) & set(PACKAGES) - {package}
    if path not in ENTRIES:
        assert foreign <= ALLOWED[package]
    if package == "mpcwdwm":
        assert not imported(path) & FRAMEWORKS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_a_page(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= PAGE


def test_nothing_is_unpickled():
    for path in FILES:
        names = imported(path)
        assert not names & {"pickle", "cloudpickle", "dill", "joblib"}, path
        assert "torch.load" not in path.read_text(encoding="utf-8"), path


def in_the_locales_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text in the encoding of whoever runs it, who need not have written the file."""
    name = (
        call.func.attr
        if isinstance(call.func, ast.Attribute)
        else call.func.id
        if isinstance(call.func, ast.Name)
        else ""
    )
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in named:
        return False
    texts = {argument.value for argument in [*call.args, *named.values()] if isinstance(argument, ast.Constant)}
    opened = name == "open" and not any(
        isinstance(text, str) and set(text) & set("rwa") and "b" in text for text in texts
    )
    of_os = (
        isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) and call.func.value.id == "os"
    )
    return {
        "read_text": not call.args,  # with one it is a store's, or has its encoding
        "write_text": len(call.args) == 1,
        "open": opened and not of_os,
        "run": "text" in named,
        "Popen": "text" in named,
    }.get(name, False)


def test_text_files_are_utf8_whatever_the_locale():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                assert not in_the_locales_encoding(node), f"{path}, line {node.lineno}: give encoding"


def test_a_call_without_an_encoding_is_found():
    def found(text: str) -> bool:
        call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call)
        return in_the_locales_encoding(call)

    assert all(
        map(found, ["path.read_text()", "path.write_text(text)", "open(path)", "path.open('w')", "run(x, text=True)"])
    )
    good = ["path.read_text('utf-8')", "path.open('rb')", "store.write_text(name, text)", "os.open(path, os.O_RDONLY)"]
    assert not any(map(found, [*good, "path.write_text(text, encoding='utf-8')", "open_store(place)"]))


def test_no_test_imports_from_another():
    """What tests share is built in `tests/support`."""
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests"):
                assert node.module.split(".")[1:2] == ["support"], f"{path}, line {node.lineno}"
