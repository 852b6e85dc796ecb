"""What is wrong with components, planners and baselines as far as their source shows it: said before torch is loaded.

Names, types and bounds are checked here (`sweeps.spec.source_fields`), so that nearly every mistake is said at once.
The config classes then check the whole again (`sweeps.spec.grid`): they alone know what settings mean together.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from mpcwdwm.errors import UserError
from mpcwdwm.validation import Where, dotted, name_hint
from sweeps.spec.axes import Settings, read_settings
from sweeps.spec.document import Document
from sweeps.spec.places import elsewhere
from sweeps.spec.schema import OverrideSection, SpecFile
from sweeps.spec.source_fields import Declared, declared, fields_of, is_a, kinds_of, registered

__all__ = ["check_by_source", "refuse_unknown_name"]

SAID_BY_CLASSES = ("preset", "kind")  # they have more to say of a wrong word
DEFAULT_KINDS = {"PLANNERS": "policy", "WORLD_MODELS": "diffusion"}


def check_by_source(document: Document, file: SpecFile) -> None:
    """Raise UserError for the first name, type or bound that is wrong, with file and line."""
    sections: list[tuple[Where, SpecFile | OverrideSection]] = [((), file)]
    sections += [(("overrides", index), section) for index, section in enumerate(file.overrides)]
    for at, section in sections:
        for name, given in section.components.items():
            here = (*at, "components", name)
            if ":" in name:
                continue  # one's own
            refuse_unknown_name(document, here, list(kinds_of("COMPONENTS")))
            if name == "world_model":
                _check(document, here, given, "WORLD_MODELS", _kinds(each.components.get(name) for _, each in sections))
            elif name in registered("COMPONENTS"):
                settings = read_settings(document, here, given)
                place = [registered("COMPONENTS")[name]]
                _refuse_unknown(document, here, settings, place, place)
                _refuse_impossible(document, here, settings, place)
        for name, given in section.planners.items():
            here = (*at, "planners", name)
            refuse_unknown_name(document, here, list(file.planners))
            _check(document, here, given, "PLANNERS", _kinds(each.planners.get(name) for _, each in sections))
    _check_baselines(document, file)


def refuse_unknown_name(document: Document, at: Where, known: Sequence[str]) -> None:
    """Raise UserError unless the key that stands there is one of these."""
    name, section = str(at[-1]), str(at[-2])
    if name not in known:
        hint = f"{name_hint(name, known)}; known: {', '.join(known)}"
        message = f"unknown {section.removesuffix('s')} '{name}' in {dotted(at[:-1])}{hint}"
        raise document.error(at, message, key=True)


def _check(document: Document, at: Where, given: Any, registry: str, kinds: list[str]) -> None:
    """Check what is set of a planner or a world model that is of these kinds, here or there in the sweep."""
    settings = read_settings(document, at, given)
    for index, kind in enumerate(settings["kind"].values if "kind" in settings else ()):
        if isinstance(kind, str) and ":" not in kind and kind not in kinds_of(registry):
            try:
                kinds_of(registry)[kind]
            except UserError as error:
                place = settings["kind"].place(index)
                raise document.error(place, f"{dotted(at)}: {error}") from None
    own = registered(registry)
    kinds = kinds or [DEFAULT_KINDS[registry]]
    if all(kind in own for kind in kinds):
        _refuse_unknown(document, at, settings, own.values(), [own[kind] for kind in kinds])
        _refuse_impossible(document, at, settings, [own[kind] for kind in kinds])


def _kinds(sections: Iterable[Any]) -> list[str]:
    """Return the kinds that settings name; none if none of them names one."""
    found = [section["kind"] for section in sections if isinstance(section, dict) and "kind" in section]
    return [str(kind) for kinds in found for kind in (kinds if isinstance(kinds, list) else [kinds])]


def _refuse_unknown(
    document: Document, at: Where, settings: Settings, places: Iterable[str], asked: Iterable[str]
) -> None:
    """Refuse the first setting that none of these classes has; names of those asked for are suggested first."""
    known, likely = ({name for place in each for name in fields_of(place)} for each in (places, asked))
    unknown = [name for name in settings if name not in known]
    if unknown:
        hint = next(
            (hint for names in (likely, known) if (hint := name_hint(unknown[0], filter(_is_word, names), elsewhere))),
            "",
        )
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise document.error((*at, unknown[0]), f"unknown key '{unknown[0]}' in {dotted(at)}{hint}{more}", key=True)


def _is_word(name: str) -> bool:
    return len(name) > 1  # not H, M or E


def _refuse_impossible(document: Document, at: Where, settings: Settings, places: Sequence[str]) -> None:
    """Refuse the first values that no class of these takes; an axis is looked at value by value."""
    plain = {name for place in places for name, how in _names(place).items() if how.type is not None}
    for name, axis in settings.items():
        if name in plain and any(isinstance(value, (dict, list)) for value in axis.values):
            raise document.error(axis.at, f"{dotted(axis.at)} should be a value or a list of values")
    for point in _points(settings):
        found = []
        for place in places:
            try:
                _values(place).model_validate({name: settings[name].values[index] for name, index in point.items()})
            except ValidationError as error:
                found.append(error)
        if len(found) < len(places):
            continue

        def locate(location: Where, point: Mapping[str, int] = point) -> Where:
            name = str(location[0])
            return settings[name].place(point[name])

        raise document.translated(found[0], locate, lambda _: (), lambda _: "")


def _points(settings: Settings) -> Iterator[dict[str, int]]:
    """Yield indices of values until each value has come; mappings are left to the config classes."""
    plain = {
        name: len(axis.values)
        for name, axis in settings.items()
        if not any(isinstance(value, (dict, list)) for value in axis.values)
    }
    for index in range(max(plain.values(), default=0)):
        yield {name: min(index, count - 1) for name, count in plain.items()}


@cache
def _values(place: str) -> type[BaseModel]:
    """Return a model of a class' settings, each under both of its names, with the types and bounds of the source."""
    fields: dict[str, Any] = {
        name: (how.type, Field(None, **how.bounds))
        for name, how in _names(place).items()
        if how.type is not None and name not in SAID_BY_CLASSES
    }
    return create_model("Values", __config__=ConfigDict(extra="ignore", allow_inf_nan=False), **fields)


def _names(place: str) -> dict[str, Declared]:
    """Return a class' settings, each under both of its names."""
    own = declared(place)
    return {**own, **{how.alias: how for how in own.values() if how.alias}}


def _check_baselines(document: Document, file: SpecFile) -> None:
    """Refuse the first baseline that is no policy's name, where no other package's can be meant."""
    own = registered("COMPONENTS")
    known = [name for name, place in own.items() if is_a(place, "ActorComponent")]
    if set(kinds_of("COMPONENTS")) != set(own):
        return
    for index, name in enumerate(file.baselines):
        if ":" not in name and name not in known:
            hint = f"{name_hint(name, known)}; known: {', '.join(known)}"
            raise document.error(("baselines", index), f"baselines: unknown policy '{name}'{hint}")
