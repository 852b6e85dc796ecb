"""What the source of components and planners says of their settings: to import them takes torch, a second or more.

It names the kinds, and for each setting its type and bounds as far as these are written down; a YAML is compared with
them in `sweeps.spec.source_checks`. What a class computes about its settings, and parts of other packages, are left to
the config classes (`sweeps.spec.grid`).
"""

import ast
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import annotated_types
from pydantic import Strict

import mpcwdwm
from mpcwdwm import config
from mpcwdwm.registry import Registry

__all__ = ["Declared", "declared", "fields_of", "is_a", "kinds_of", "registered"]

PACKAGE = Path(mpcwdwm.__file__).parent
REGISTRIES = {"PLANNERS": "mpcwdwm.planning.registry", "COMPONENTS": "mpcwdwm.components.registry"}
REGISTRIES["WORLD_MODELS"] = REGISTRIES["COMPONENTS"]
BOUNDS = ("ge", "gt", "le", "lt")
NAMES = {  # what types of settings are written with
    **{name: getattr(typing, name) for name in ("Annotated", "Literal")},
    **{name: vars(config)[name] for name in ("Flag", "Int", "Real")},
    **{name: getattr(annotated_types, name) for name in ("Ge", "Gt", "Le", "Lt")},
    "Strict": Strict,
    "str": str,
}


@dataclass(frozen=True)
class Declared:
    """A setting as a class declares it."""

    type: Any  # None where the source alone does not say it
    bounds: Mapping[str, Any]  # those of `BOUNDS` that are written as numbers
    alias: str | None


@cache
def registered(registry: str) -> Mapping[str, str]:
    """Return name → "module:Class" of the parts that a registry of this package names."""
    return dict(ast.literal_eval(_registry_call(registry).args[-1]))


@cache
def kinds_of(registry: str) -> Registry[object]:
    """Return a registry as its source declares it: it knows which names there are, those of entry points included."""
    noun, group, *_ = (arg.value for arg in _registry_call(registry).args if isinstance(arg, ast.Constant))
    return Registry(str(noun), str(group), _is_anything, "", registered(registry))


@cache
def fields_of(place: str) -> frozenset[str]:
    """Return the fields of the config of a component or planner, "module:Class", with their short names."""
    return frozenset(name for field, how in declared(place).items() for name in (field, how.alias) if name)


@cache
def declared(place: str) -> Mapping[str, Declared]:
    """Return the settings of the config of a component or planner, "module:Class"."""
    module, _, name = place.partition(":")
    for node in _class(module, name).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "config_class":
            return dict(_settings(module, ast.unparse(node.value)))
    raise LookupError(place)


@cache
def is_a(place: str, base: str) -> bool:
    """Return whether a class, "module:Class", is one of these, or derived from it within this package."""
    module, _, name = place.partition(":")
    homes = {each.id: _home(module, each.id) for each in _class(module, name).bases if isinstance(each, ast.Name)}
    return base in homes or any(is_a(f"{home}:{each}", base) for each, home in homes.items() if _is_ours(home))


def _is_anything(thing: object) -> typing.TypeGuard[object]:
    return True


def _registry_call(registry: str) -> ast.Call:
    for node in ast.walk(_tree(REGISTRIES[registry])):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.target) == registry
        ):
            return node.value
    raise LookupError(registry)


def _settings(module: str, name: str) -> Iterator[tuple[str, Declared]]:
    """Yield the fields of a class of configs, those it inherits first."""
    module = _home(module, name)
    node = _class(module, name)
    for base in map(ast.unparse, node.bases):
        if _home(module, base) != config.__name__:
            yield from _settings(module, base)
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
            keywords = field.value.keywords if isinstance(field.value, ast.Call) else []
            given = {keyword.arg: keyword.value for keyword in keywords}
            alias = ast.literal_eval(given["alias"]) if "alias" in given else None
            bounds = {bound: _value(module, given[bound]) for bound in BOUNDS if bound in given}
            known = {bound: value for bound, value in bounds.items() if value is not None}
            yield ast.unparse(field.target), Declared(_value(module, field.annotation), known, alias)


class _Names(dict[str, Any]):
    """Names in a module: those of `NAMES`, and what is assigned at its top in their terms."""

    def __init__(self, module: str) -> None:
        super().__init__(NAMES)
        self._module = module

    def __missing__(self, name: str) -> Any:
        for node in _tree(_home(self._module, name)).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                return _evaluated(self._module, node.value)
        raise KeyError(name)


def _value(module: str, node: ast.expr) -> Any:
    """Return the value of an expression of this package's source; None where it needs what is not in `NAMES`."""
    try:
        return _evaluated(module, node)
    except NameError:
        return None


def _evaluated(module: str, node: ast.expr) -> Any:
    return eval(compile(ast.Expression(node), module, "eval"), {"__builtins__": {}}, _Names(module))


def _home(module: str, name: str) -> str:
    """Return the module in which a class is defined that a module uses."""
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            home = node.module or ""
            return _home(home, name) if _is_ours(home) else home
    return module


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == mpcwdwm.__name__


def _class(module: str, name: str) -> ast.ClassDef:
    module = _home(module, name)
    return next(node for node in _tree(module).body if isinstance(node, ast.ClassDef) and node.name == name)


@cache
def _tree(module: str) -> ast.Module:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))
