"""Settings that are read from the source are those of the imported classes."""

from collections.abc import Mapping

import pytest

from mpcwdwm.components import COMPONENTS, WORLD_MODELS
from mpcwdwm.config import Config
from mpcwdwm.errors import UserError
from mpcwdwm.planning import PLANNERS
from sweeps.spec.document import parse_document
from sweeps.spec.schema import SpecFile
from sweeps.spec.source_fields import fields_of, refuse_unknown_settings, registered

CONFIGS: Mapping[str, Mapping[str, type[Config]]] = {
    "PLANNERS": {name: PLANNERS[name].config_class for name in PLANNERS.own},
    "COMPONENTS": {name: COMPONENTS[name].config_class for name in COMPONENTS.own},
    "WORLD_MODELS": {name: WORLD_MODELS[name].config_class for name in WORLD_MODELS.own},
}
SPEC = "name: x\ntasks: [hopper-medium-v2]\nseeds: 1\n"


@pytest.mark.parametrize("registry", CONFIGS)
def test_names_and_fields_are_those_of_the_classes(registry: str) -> None:
    found = registered(registry)
    assert list(found) == list(CONFIGS[registry])
    for name, config in CONFIGS[registry].items():
        fields = config.model_fields
        assert fields_of(found[name]) == {*fields, *(each.alias for each in fields.values() if each.alias)}, name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "planners: {mpc: {stepsize: [1e-6, 1e-4]}}",
            r"x\.yaml:4: unknown key 'stepsize' in planners\.mpc .*'step_size'",
        ),
        ("components: {rebrac: {gamma: 0.9}}", "did you mean 'discount'"),
        ("components: {world_model: {kind: [flow, mlp], ensembel: 3}}", "did you mean 'ensemble'"),
        ('overrides: [{tasks: ["*"], planners: {mpc: {horizn: 1, rolouts: 2}}}]', r"'horizon'.*\(and 1 more\)"),
    ],
)
def test_a_misspelt_setting_is_refused(text: str, says: str) -> None:
    document = parse_document(SPEC + text, "x.yaml")
    with pytest.raises(UserError, match=says):
        refuse_unknown_settings(document, SpecFile.model_validate(document.data))


@pytest.mark.parametrize(
    "text",
    [
        "planners: {mpc: {H: 1, M: 2, E: [1, 2], kind: mppi}}",
        "planners: {mpc: {kind: 'my.planners:Mine', width: 3}}",  # only its class knows
        "planners: {mpc: {zzzz: 1}}",  # without a similar name the classes are asked
        "components: {'my.parts:Part': {width: 3}, unknown: {a: 1}}",
        "planners: {mpc: 3}",
    ],
)
def test_what_only_the_classes_know_is_left_to_them(text: str) -> None:
    document = parse_document(SPEC + text, "x.yaml")
    refuse_unknown_settings(document, SpecFile.model_validate(document.data))
