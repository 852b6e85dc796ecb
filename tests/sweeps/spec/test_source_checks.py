"""What is wrong with settings is said from the source of their classes alone, and as the classes would say it."""

from pathlib import Path

import pytest

from mpcwdwm.errors import UserError
from sweeps.spec.document import parse_document
from sweeps.spec.schema import SpecFile
from sweeps.spec.source_checks import check_by_source
from sweeps.spec.spec import load_spec

SPEC = "name: x\ntasks: [hopper-medium-v2]\nseeds: 1\n"
WRONG = [  # a line of YAML, what is said of it
    (
        "planners: {mpc: {stepsize: [1e-6, 1e-4]}}",
        "x.yaml:4: unknown key 'stepsize' in planners.mpc (did you mean 'step_size'?)",
    ),
    ("components: {rebrac: {gamma: 0.9}}", "did you mean 'discount'"),
    ("components: {world_model: {kind: [flow, mlp], ensembel: 3}}", "did you mean 'ensemble'"),
    ('overrides: [{tasks: ["*"], planners: {mpc: {horizn: 1}}}]\nplanners: {mpc: {}}', "did you mean 'horizon'"),
    ("planners: {mpc: {zzzz: 1}}", "unknown key 'zzzz' in planners.mpc"),
    ("planners: {mpc: {actor_lr: 1}}", "unknown key 'actor_lr' in planners.mpc (components.rebrac and"),
    ("planners: {mpc: {horizon: [1, 2, -1]}}", "planners.mpc.horizon[2] should be greater than or equal to 0, not -1"),
    ("planners: {mpc: {horizon: 2.5}}", "planners.mpc.horizon should be a whole number, not 2.5"),
    ("planners: {mpc: {step_size: -1}}", "planners.mpc.step_size should be greater than or equal to 0, not -1"),
    ("planners: {mpc: {terminate: 'no'}}", 'planners.mpc.terminate should be true or false, not "no"'),
    ("planners: {mpc: {kind: [mppi, polcy]}}", "planners.mpc: unknown planner kind 'polcy' (did you mean 'policy'?)"),
    ("planners: {mpc: {kind: mppi, min_std: .nan}}", "planners.mpc.min_std"),
    ("planners: {mpc: {horizon: []}}", "planners.mpc.horizon is an empty axis"),
    ("components: {rebrac: {steps: 0}}", "components.rebrac.steps should be greater than or equal to 1, not 0"),
    ("components: {bc: {steps: [1, '9']}}", 'components.bc.steps[1] should be a whole number, not "9"'),
    ("components: {td3: {}}", "unknown component 'td3' in components"),
    ("components: {world_model: {kind: flo}}", "unknown kind of world model 'flo' (did you mean 'flow'?)"),
    ("baselines: [iql, iqll]", "baselines: unknown policy 'iqll' (did you mean 'iql'?)"),
    ("baselines: [world_model]", "baselines: unknown policy 'world_model'"),
    ('overrides: [{tasks: ["*"], planners: {mpd: {}}}]\nplanners: {mpc: {}}', "unknown planner 'mpd'"),
]


def checked(text: str) -> str:
    document = parse_document(SPEC + text, "x.yaml")
    with pytest.raises(UserError) as raised:
        check_by_source(document, SpecFile.model_validate(document.data))
    return str(raised.value)


@pytest.mark.parametrize(("text", "says"), WRONG)
def test_a_wrong_setting_is_refused_by_the_source_and_by_the_classes_in_the_same_words(
    text: str, says: str, tmp_path: Path
) -> None:
    said = checked(text)
    assert says in said
    (tmp_path / "x.yaml").write_text(SPEC + text)
    with pytest.raises(UserError) as raised:
        load_spec(tmp_path / "x.yaml")
    assert str(raised.value) == said


@pytest.mark.parametrize(
    "text",
    [
        "planners: {mpc: {H: 1, M: 2, E: [1, 2], kind: mppi}}",
        "planners: {mpc: {kind: 'my.planners:Mine', width: 3}}",  # only its class knows
        "planners: {mpc: {preset: paper}}",  # its class says more of it
        "planners: {mpc: {base: td3}}",  # other packages may offer policies
        "planners: {mpc: {kind: [policy, mppi], samples: 3}}",
        "components: {'my.parts:Part': {width: 3}}",
        "baselines: ['my.parts:Part']",
        # a value that one of its kinds takes
        'planners: {a: {kind: mppi}}\noverrides: [{tasks: ["*"], planners: {a: {kind: action, samples: 2}}}]',
    ],
)
def test_what_only_the_classes_know_is_left_to_them(text: str) -> None:
    document = parse_document(SPEC + text, "x.yaml")
    check_by_source(document, SpecFile.model_validate(document.data))


def test_keys_that_only_hold_anchors_are_no_settings(tmp_path: Path) -> None:
    text = SPEC + "x-small: &small {steps: 3}\ncomponents: {bc: {<<: *small, batch_size: 4}}\n"
    (tmp_path / "x.yaml").write_text(text)
    spec = load_spec(tmp_path / "x.yaml")
    config = spec.tasks[0].components["bc"][0].config
    assert (config.steps, config.batch_size) == (3, 4)
    assert "x-small" not in spec.to_yaml()
