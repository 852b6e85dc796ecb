"""The hash of the code that computes a unit: its modules and all they import.

Comments, docstrings, formatting, the wording of errors and imports for type checkers do not count. An imported name
is followed to the module that defines it, so that ReBRAC's key does not depend on a planner, nor a planner's result
on IQL. Imports within `mpcwdwm` are followed, and within the package of a component or planner from elsewhere; unless
that is installed in site-packages, also to the modules beside it.
"""

import ast
import copy
import hashlib
import importlib.util
import json
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import mpcwdwm
from mpcwdwm.errors import UserError

__all__ = ["closure", "code_hash", "digest"]

PACKAGE = Path(mpcwdwm.__file__).parent
NOT_COMPUTING = {  # modules that only name or check things; followed, they would tie every key to every component
    "mpcwdwm.components.registry",
    "mpcwdwm.planning.registry",
    "mpcwdwm.registry",
    "mpcwdwm.config",  # the resolved config is in the key
    "mpcwdwm.planning.presets",  # as are the fields that a preset sets
    "mpcwdwm.errors",
    "mpcwdwm.artifact_names",
}
BLOCKS = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If, ast.For, ast.AsyncFor, ast.While, ast.With),
    *(ast.AsyncWith, ast.Try, ast.TryStar, ast.ExceptHandler, ast.match_case),
)

Places = dict[str, Path]
"""Top-level name → the package's folder, or the file of a module that stands alone."""


def digest(payload: Any) -> str:
    """Return the hash of plain data, whatever the order of its mappings."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def code_hash(*modules: str, without: Collection[str] = (), package: Path | None = None) -> str:
    """Return the hash of these modules and of all that they import, directly or not.

    Args:
        *modules: full names, such as "mpcwdwm.training.loop".
        without: modules that do not count, nor what only they import.
        package: folder of the package whose modules count; by default `mpcwdwm` as it is imported.

    Raises:
        UserError: a module of another package has no source that can be read.
    """
    places = _places(modules, package)
    covered = closure(*modules, without=without, package=package)
    return digest({module: _meaning(_text(module, places)) for module in covered})


def closure(*modules: str, without: Collection[str] = (), package: Path | None = None) -> list[str]:
    """Return the names of the modules that `code_hash` covers, sorted."""
    places = _places(modules, package)
    todo, seen, left_out = [*modules], set[str](), NOT_COMPUTING.union(without)
    while todo:
        module = todo.pop()
        if module not in seen and module not in left_out:
            seen.add(module)
            todo += _imports(module, places)
    return sorted(seen)


# Where modules lie


def _places(modules: tuple[str, ...], package: Path | None) -> dict[str, Path]:
    package = package or PACKAGE
    places: Places = {}
    for top in {module.partition(".")[0] for module in modules} - {package.name}:
        spec = importlib.util.find_spec(top)
        found = spec and (*(spec.submodule_search_locations or ()), spec.origin)
        if not found or not found[0]:
            raise UserError(f"'{top}' cannot be imported, so its code cannot be part of a key: install it")
        places |= _beside(Path(found[0])) | {top: Path(found[0])}
    return {**places, package.name: package}


def _beside(place: Path) -> Places:
    """Return the modules in the same folder: a user's own import them, too. Beside an installed one are libraries."""
    if place.parent.name in ("site-packages", "dist-packages"):
        return {}
    return {path.stem: path for path in place.parent.iterdir() if path.is_dir() or path.suffix == ".py"}


def _source(module: str, places: Places) -> Path | None:
    """Return a module's file; None if the places have no such module."""
    top, *steps = module.split(".")
    if top not in places:
        return None
    if places[top].is_file():
        return None if steps else places[top]
    place = places[top].joinpath(*steps)
    found = [place / "__init__.py", *([place.with_suffix(".py")] if steps else [])]
    return next((path for path in found if path.is_file()), None)


def _text(module: str, places: Places) -> str:
    path = _source(module, places)
    if path is None or path.suffix != ".py":
        raise UserError(f"module '{module}' has no Python source, so its code cannot be part of a key")
    return path.read_text(encoding="utf-8")


# The code in a module's text. Cached by the text itself, so that an edited file is never taken for the old one.


@cache
def _tree(text: str) -> ast.Module:
    return ast.parse(text)


@cache
def _meaning(text: str) -> str:
    """Return a module's code without what cannot change a result."""
    return ast.unparse(ast.fix_missing_locations(_Bare().visit(copy.deepcopy(_tree(text)))))


class _Bare(ast.NodeTransformer):
    """Strips docstrings and other bare strings, the wording of errors and what documents a setting."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Drop strings that stand alone."""
        bare = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if bare else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        """Drop what only a type checker reads."""
        return [self.visit(below) for below in node.orelse] if _for_type_checkers(node) else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Keep that something is raised, drop what: a result exists only where nothing was raised."""
        return ast.Raise()

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Keep a setting's default, drop its description and limits: its value is in the key."""
        if isinstance(node.func, ast.Name) and node.func.id == "setting":
            node = ast.Call(node.func, node.args[:1], [])
        return self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """Write an f-string as a call: from 3.12 on it is unparsed with other quotes, and can have empty parts."""
        parts = [self.visit(part) for part in node.values if ast.unparse(part) != "''"]
        return ast.Call(ast.Name("f", ast.Load()), parts, [])

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        """Write what it formats, how it is converted, and to which format."""
        spec = [] if node.format_spec is None else [node.format_spec]
        parts = [node.value, ast.Constant(node.conversion), *spec]
        return ast.Tuple([self.visit(part) for part in parts], ast.Load())

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Leave no body of a definition or branch empty."""
        super().generic_visit(node)
        if isinstance(node, BLOCKS) and not node.body:
            node.body = [ast.Pass()]
        return node


def _for_type_checkers(node: ast.AST) -> bool:
    """Say whether a node is `if TYPE_CHECKING:`."""
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            return True
    return False


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes below one, functions included, without what only a type checker reads."""
    below = node.orelse if isinstance(node, ast.If) and _for_type_checkers(node) else ast.iter_child_nodes(node)
    for child in below:
        yield child
        yield from _executed(child)


@cache
def _import_statements(text: str) -> tuple[ast.Import | ast.ImportFrom, ...]:
    return tuple(node for node in _executed(_tree(text)) if isinstance(node, (ast.Import, ast.ImportFrom)))


def _imports(module: str, places: Places) -> Iterator[str]:
    """Yield the modules in these places that a module imports anywhere, functions included."""
    for node in _import_statements(_text(module, places)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if _source(name.name, places))
        else:
            origin = _origin(module, node, places)
            if _source(origin, places):
                yield from (_home(origin, name.name, places) for name in node.names)


def _origin(module: str, node: ast.ImportFrom, places: Places) -> str:
    """Return the full name of what a from-import imports from."""
    if not node.level:
        return node.module or ""
    steps = module.split(".")
    source = _source(module, places)
    if source is not None and source.name == "__init__.py":
        steps = [*steps, ""]
    return ".".join([*steps[: -node.level], *([node.module] if node.module else [])])


def _home(origin: str, name: str, places: Places) -> str:
    """Return the module where a name imported from `origin` is defined: packages only pass names on."""
    if _source(f"{origin}.{name}", places):
        return f"{origin}.{name}"
    source = _source(origin, places)
    if source is None or source.name != "__init__.py":
        return origin
    for node in _tree(_text(origin, places)).body:
        if isinstance(node, ast.ImportFrom):
            inner = _origin(origin, node, places)
            passed = {alias.asname or alias.name: alias.name for alias in node.names}
            if name in passed and _source(inner, places):
                return _home(inner, passed[name], places)
    return origin
