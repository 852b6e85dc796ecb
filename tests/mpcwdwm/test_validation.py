"""What is wrong with a config is one line, in Python as in the YAML, and other programs' names are recognised."""

import pytest
from pydantic import ValidationError

from mpcwdwm import MpcConfig
from mpcwdwm.components import COMPONENTS, WORLD_MODELS
from mpcwdwm.errors import UserError
from mpcwdwm.planning import PLANNERS
from mpcwdwm.validation import OTHER_NAMES, name_hint
from sweeps.spec.schema import SECTIONS, TaskSection

CONFIGS = [registry[name].config_class for registry in (COMPONENTS, WORLD_MODELS, PLANNERS) for name in registry.own]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"horizon": -1}, "MpcConfig: horizon should be greater than or equal to 0, not -1"),
        ({"horizn": 3}, "MpcConfig: unknown key 'horizn' (did you mean 'horizon'?)"),
        ({"n_rollouts": 3}, "MpcConfig: unknown key 'n_rollouts' (did you mean 'rollouts'?)"),
        ({"critic": "mni"}, "MpcConfig: critic should be 'min', 'mean' or 'first', not \"mni\" (did you mean 'min'?)"),
        (
            {"horizon": "3", "updates": True},
            'MpcConfig: horizon should be a whole number, not "3": leave out the quotes (and 1 more)',
        ),
        (
            {"step_size": "1e-3"},
            "MpcConfig: step_size should be a number or 'auto', not \"1e-3\": leave out the quotes",
        ),
        ({"step_size": "aut"}, "MpcConfig: step_size should be a number or 'auto', not \"aut\" (did you mean 'auto'?)"),
        ({"step_size": -1}, "MpcConfig: step_size should be greater than or equal to 0, not -1"),
        ({"base": "td3"}, "MpcConfig: base: unknown policy 'td3'"),
    ],
)
def test_a_constructor_raises_one_line(fields: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as error:
        MpcConfig(**fields)
    assert str(error.value).startswith(says)
    assert ("more" in str(error.value)) == ("more" in says)
    assert "pydantic" not in str(error.value)


def test_model_validate_keeps_the_places_for_the_yaml() -> None:
    with pytest.raises(ValidationError) as error:
        MpcConfig.model_validate({"horizon": -1, "horizn": 2})
    assert [each["loc"] for each in error.value.errors()] == [("horizon",), ("horizn",)]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("gamma", "discount"),  # all
        ("tau", "polyak"),
        ("max_timesteps", "steps"),  # CORL
        ("iql_tau", "expectile"),
        ("vf_lr", "value_lr"),
        ("n_steps", "steps"),  # d3rlpy
        ("target_smoothing_sigma", "policy_noise"),
        ("weight_temp", "temperature"),
        ("total_timesteps", "steps"),  # CleanRL
        ("policy_frequency", "policy_freq"),
        ("Learning-Rate", "lr"),
        ("stepsize", "step_size"),
    ],
)
def test_names_of_other_programs_are_recognised_wherever_the_setting_exists(theirs: str, ours: str) -> None:
    having = [config.model_fields for config in CONFIGS if ours in config.model_fields]
    assert having
    assert {name_hint(theirs, fields) for fields in having} == {f" (did you mean '{ours}'?)"}


def test_every_meaning_is_a_setting() -> None:
    sections = [*SECTIONS.values(), TaskSection]
    known = {field for config in (*CONFIGS, *sections) for field in config.model_fields}
    assert {ours for meant in OTHER_NAMES.values() for ours in meant} <= known
