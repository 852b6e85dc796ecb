"""Things by name: of this package, registered, offered by an installed package, or module:Name."""

import sys

import pytest

from mpcwdwm.errors import UserError
from mpcwdwm.planning import PLANNERS, AdaptiveMpc, Planner, PlannerConfig, planner_class, planner_config
from mpcwdwm.registry import Registry, slug, subclass_of

PLANNER = """
from mpcwdwm.config import setting
from mpcwdwm.planning import Planner, PlannerConfig

class MineConfig(PlannerConfig):
    kind: str = setting("mine_of_test.planners:Mine", "kind of planner")

class Mine(Planner):
    config_class = MineConfig
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package beside the tests' own, importable until the test ends."""
    folder = tmp_path / "mine_of_test"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "planners.py").write_text(PLANNER)
    (folder / "broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("mine_of_test")]:
        del sys.modules[name]


def planners():
    return Registry(
        "planner kind",
        "mpcwdwm.planners",
        subclass_of(Planner),
        "a planner",
        {"policy": "mpcwdwm.planning:AdaptiveMpc"},
    )


def test_a_name_of_this_package_is_imported_when_it_is_asked_for():
    known = planners()
    assert list(known) == list(known.own) == ["policy"]
    assert known["policy"] is AdaptiveMpc


def test_module_and_name_import_from_anywhere(package):
    known = planners()
    assert issubclass(known["mine_of_test.planners:Mine"], Planner)
    assert list(known) == ["policy"]  # what was asked for once is not offered to others
    config = planner_config({"kind": "mine_of_test.planners:Mine"})
    assert planner_class(config).__name__ == "Mine"


def test_an_installed_package_offers_things_as_entry_points(package):
    info = package / "mine_of_test-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine-of-test\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[mpcwdwm.planners]\nmine = mine_of_test.planners:Mine\n")
    known = planners()
    assert list(known) == ["policy", "mine"]
    assert known["mine"].__name__ == "Mine"


def test_what_is_registered_is_found_and_a_name_is_not_taken_twice():
    class Own(Planner):
        config_class = PlannerConfig

    known = planners()
    assert known.register("own", Own) is Own
    assert known["own"] is Own
    known.register("own", Own)
    with pytest.raises(UserError, match="'policy' is registered already"):
        known.register("policy", Own)
    with pytest.raises(UserError, match="has to be a planner"):
        known.register("number", 3)


def test_a_class_without_a_config_of_its_own_has_the_common_one_and_another_ones_is_refused(monkeypatch):
    class Plain(Planner):
        pass

    class Wrong(Planner):
        config_class = dict

    monkeypatch.setattr(PLANNERS, "_things", {})
    PLANNERS.register("plain_of_test", Plain)
    assert planner_class(planner_config({"kind": "plain_of_test"})) is Plain
    with pytest.raises(UserError, match="its config_class one of PlannerConfig, not"):
        PLANNERS.register("wrong_of_test", Wrong)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("polcy", r"unknown planner kind 'polcy' \(did you mean 'policy'\?\); known: policy"),
        ("absent_package.planners:Mine", "cannot import absent_package.planners: ModuleNotFoundError"),
        ("mine_of_test.broken:Mine", "cannot import mine_of_test.broken: ZeroDivisionError"),
        ("mine_of_test.planners:Mime", r"has no Mime \(did you mean 'Mine'\?\)"),
        ("mine_of_test.planners:MineConfig", "has to be a planner"),
        ("mine_of_test.planners:", "expected module:Name"),
        ("../planners:Mine", "expected module:Name"),
    ],
)
def test_what_cannot_be_found_is_one_line(package, name, says):
    with pytest.raises(UserError, match=says) as error:
        planners()[name]
    assert "\n" not in str(error.value)


def test_a_config_of_another_kind_is_refused():
    config = PLANNERS["mppi"].config_class().model_copy(update={"kind": "action"})
    with pytest.raises(UserError, match="'action' is configured by ActionConfig, not by MppiConfig"):
        planner_class(config)


def test_a_slug_is_a_part_of_a_folder_name():
    assert slug("my_package.parts:TD3BC") == "my_package.parts-TD3BC"
    assert slug("rebrac") == "rebrac"
