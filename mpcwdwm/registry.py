"""Registries: planners, components, world models, termination rules and judges by name.

A name is one of this package's, one that was registered, one that an installed package offers as an entry point, or
``my_package.planners:Shooting``, an attribute of a module. Modules are imported when a name is looked up, so that a
registry ties no module to another.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, ClassVar, Generic, Protocol, TypeGuard, TypeVar

from mpcwdwm.errors import UserError, did_you_mean

__all__ = ["Registry", "is_function", "slug", "subclass_of"]

T = TypeVar("T")


class _Configured(Protocol):
    config_class: ClassVar[type[Any]]


C = TypeVar("C", bound=_Configured)


class Registry(Generic[T]):
    """Classes or functions of one kind by name.

    Args:
        noun: what the things are called in messages.
        group: entry-point group in which installed packages offer more of them.
        accepts: whether an object is of this kind.
        expected: the kind in words, for messages.
        own: name → "module:attribute", for those of this package.
    """

    def __init__(
        self,
        noun: str,
        group: str,
        accepts: Callable[[object], TypeGuard[T]],
        expected: str,
        own: Mapping[str, str],
    ) -> None:
        self.noun, self.group, self.accepts, self.expected = noun, group, accepts, expected
        self.own = tuple(own)
        self._things: dict[str, T | str] = dict(own)

    def register(self, name: str, thing: T) -> T:
        """Give `thing` a name in this process.

        Raises:
            UserError: the name is another's, or `thing` is not of this kind.
        """
        if name in self._things and self._things[name] is not thing:
            raise UserError(f"{self.noun} '{name}' is registered already: choose another name")
        self._things[name] = self._checked(name, thing)
        return thing

    def __iter__(self) -> Iterator[str]:
        """Go through the known names, this package's first."""
        return iter(dict.fromkeys((*self._things, *_entry_points(self.group, tuple(sys.path)))))

    def __getitem__(self, name: str) -> T:
        """Return what has this name.

        Raises:
            UserError: there is none, its module cannot be imported, or it is something else.
        """
        thing = self._things.get(name)
        if thing is None:
            offered = _entry_points(self.group, tuple(sys.path)).get(name)
            if not offered and ":" not in name:
                known = list(self)
                raise UserError(
                    f"unknown {self.noun} '{name}'{did_you_mean(name, known)}; known: {', '.join(known)};"
                    " one of your own is module:Name"
                )
            thing = offered or name
        if not isinstance(thing, str):
            return thing
        found = self._checked(name, self._imported(name, thing))
        if name in self._things:  # the known names stay those they were
            self._things[name] = found
        return found

    def _imported(self, name: str, place: str) -> object:
        module_name, _, attribute = place.partition(":")
        if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
            raise UserError(f"{self.noun} '{name}': expected module:Name, such as my_package.module:Name")
        try:
            module = import_module(module_name)
        except (Exception, SystemExit) as error:  # whatever the module's own code raises
            raise UserError(
                f"{self.noun} '{name}': cannot import {module_name}: {type(error).__name__}: {error};"
                " install it, or put it beside the YAML or on PYTHONPATH"
            ) from None
        if not hasattr(module, attribute):
            raise UserError(
                f"{self.noun} '{name}': {module_name} has no {attribute}{did_you_mean(attribute, vars(module))}"
            )
        found: object = getattr(module, attribute)
        return found

    def _checked(self, name: str, thing: object) -> T:
        if not self.accepts(thing):
            raise UserError(f"{self.noun} '{name}' has to be {self.expected}, not {thing!r}")
        return thing


@cache
def _entry_points(group: str, path: tuple[str, ...]) -> dict[str, str]:
    """Return a group's entry points; reading all packages' metadata takes 25 ms, so once for each `sys.path`."""
    return {point.name: point.value for point in entry_points(group=group)}


def is_function(thing: object) -> TypeGuard[Callable[..., Any]]:
    """Return whether something can be called."""
    return callable(thing)


def subclass_of(base: type[C]) -> Callable[[object], TypeGuard[type[C]]]:
    """Return the check whether something is a subclass of `base`, with a config that is a subclass of its config."""

    def accepts(thing: object) -> TypeGuard[type[C]]:
        if not (isinstance(thing, type) and issubclass(thing, base)):
            return False
        return isinstance(thing.config_class, type) and issubclass(thing.config_class, base.config_class)

    return accepts


def slug(name: str) -> str:
    """Return a name as a part of folder names: "my_package.parts:TD3BC" → "my_package.parts-TD3BC"."""
    return name.replace(":", "-")
