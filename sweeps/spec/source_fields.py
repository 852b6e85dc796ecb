"""Which settings components and planners have, read from their source: to import them takes torch, a second or more.

A setting that no kind has is then said at once. Everything else, and parts of other packages, is left to the config
classes (`sweeps.spec.grid`).
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import mpcwdwm
from mpcwdwm.validation import Where, dotted, name_hint
from sweeps.spec.document import Document
from sweeps.spec.schema import SpecFile

__all__ = ["fields_of", "refuse_unknown_settings", "registered"]

PACKAGE = Path(mpcwdwm.__file__).parent
REGISTRIES = {"PLANNERS": "mpcwdwm.planning.registry", "COMPONENTS": "mpcwdwm.components.registry"}
REGISTRIES["WORLD_MODELS"] = REGISTRIES["COMPONENTS"]


def refuse_unknown_settings(document: Document, file: SpecFile) -> None:
    """Raise UserError for the first setting that none of its owner's kinds has, if a similar name is known.

    Without a similar name the config classes are asked, which know where else the setting belongs.
    """
    sections: list[tuple[Where, Any]] = [((), file)]
    sections += [(("overrides", index), section) for index, section in enumerate(file.overrides)]
    planners = set(registered("PLANNERS").values())
    for at, section in sections:
        for name, given in section.components.items():
            kinds = registered("WORLD_MODELS" if name == "world_model" else "COMPONENTS")
            classes = kinds.values() if name == "world_model" else [kinds[name]] if name in kinds else []
            _refuse(document, (*at, "components", name), given, classes)
        for name, given in section.planners.items():
            _refuse(document, (*at, "planners", name), given, planners)


def _refuse(document: Document, at: Where, given: Any, classes: Iterable[str]) -> None:
    known = {name for place in classes for name in fields_of(place)}
    if not isinstance(given, dict) or not known:
        return
    kinds = given.get("kind", "")
    if any(":" in str(kind) for kind in (kinds if isinstance(kinds, list) else [kinds])):
        return  # another package's, with fields of its own
    unknown = [name for name in given if name not in known]
    if unknown and (hint := name_hint(unknown[0], [name for name in known if len(name) > 1])):
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise document.error((*at, unknown[0]), f"unknown key '{unknown[0]}' in {dotted(at)}{hint}{more}", key=True)


@cache
def registered(registry: str) -> Mapping[str, str]:
    """Return name → "module:Class" of the parts that a registry of this package names."""
    for node in ast.walk(_tree(REGISTRIES[registry])):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.target) == registry
        ):
            return dict(ast.literal_eval(node.value.args[-1]))
    raise LookupError(registry)


@cache
def fields_of(place: str) -> frozenset[str]:
    """Return the fields of the config of a component or planner, "module:Class", with their short names."""
    module, _, name = place.partition(":")
    for node in _class(module, name).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "config_class":
            return frozenset(_fields(module, ast.unparse(node.value)))
    raise LookupError(place)


def _fields(module: str, name: str) -> Iterator[str]:
    """Yield the fields of a class of configs, those it inherits included."""
    node = _class(module, name)
    for base in map(ast.unparse, node.bases):
        home = _home(module, base)
        if home != "mpcwdwm.config":
            yield from _fields(home, base)
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
            yield ast.unparse(field.target)
            aliases = field.value.keywords if isinstance(field.value, ast.Call) else []
            yield from (ast.literal_eval(keyword.value) for keyword in aliases if keyword.arg == "alias")


def _home(module: str, name: str) -> str:
    """Return the module in which a class is defined that a module uses."""
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return _home(node.module or "", name)
    return module


def _class(module: str, name: str) -> ast.ClassDef:
    module = _home(module, name)
    return next(node for node in _tree(module).body if isinstance(node, ast.ClassDef) and node.name == name)


@cache
def _tree(module: str) -> ast.Module:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))
