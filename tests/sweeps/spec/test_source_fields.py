"""Settings that are read from the source are those of the imported classes."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_origin

import pytest
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from mpcwdwm.components import COMPONENTS, WORLD_MODELS, ActorComponent, policies
from mpcwdwm.config import Config
from mpcwdwm.planning import PLANNERS
from sweeps.spec.source_fields import declared, fields_of, is_a, kinds_of, registered

CONFIGS: Mapping[str, Mapping[str, type[Config]]] = {
    "PLANNERS": {name: PLANNERS[name].config_class for name in PLANNERS.own},
    "COMPONENTS": {name: COMPONENTS[name].config_class for name in COMPONENTS.own},
    "WORLD_MODELS": {name: WORLD_MODELS[name].config_class for name in WORLD_MODELS.own},
}
VALUES = (-1, 0, 0.5, 1, 1.5, 2, 33, 10**5, 1e12, 10**30, True, None, "auto", "x", float("nan"), float("inf"))
CHECKED_BY_FUNCTIONS = {"base", "critic_from", "judge", "planner", "of", "tilt_base"}  # names of other parts


def accepted(type_: Any, value: object) -> bool:
    try:
        TypeAdapter(type_, config=ConfigDict(allow_inf_nan=False)).validate_python(value)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("registry", CONFIGS)
def test_names_fields_and_the_values_they_take_are_those_of_the_classes(registry: str) -> None:
    found = registered(registry)
    assert list(found) == list(CONFIGS[registry])
    for name, config in CONFIGS[registry].items():
        fields, read = config.model_fields, declared(found[name])
        assert fields_of(found[name]) == {*fields, *(each.alias for each in fields.values() if each.alias)}, name
        for field, info in fields.items():
            how = read[field]
            assert how.alias == info.alias
            if how.type is None:
                assert field in CHECKED_BY_FUNCTIONS, (name, field)
                continue
            if get_origin(how.type) is Literal:
                assert how.type == info.annotation
                continue
            own = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
            taken = [accepted(Annotated[how.type, Field(**how.bounds)], value) for value in VALUES]
            assert taken == [accepted(own, value) for value in VALUES], (name, field)


def test_which_components_can_act_is_read_from_the_source() -> None:
    assert [name for name, place in registered("COMPONENTS").items() if is_a(place, "ActorComponent")] == policies(
        name for name in COMPONENTS.own
    )
    assert issubclass(COMPONENTS["rebrac"], ActorComponent)


def test_kinds_are_called_as_the_registries_call_them() -> None:
    for name, registry in (("PLANNERS", PLANNERS), ("COMPONENTS", COMPONENTS), ("WORLD_MODELS", WORLD_MODELS)):
        read = kinds_of(name)
        assert (read.noun, read.group, read.own) == (registry.noun, registry.group, registry.own)
        assert list(read) == list(registry)
