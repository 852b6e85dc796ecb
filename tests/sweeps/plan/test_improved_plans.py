"""Plans with a policy that learns offline to plan: what it is built on, whose gain it shows, planners on top of it."""

from pathlib import Path

from sweeps.records.fields import unit_params
from tests.support.parts import BUNDLED
from tests.support.plans import plan

TEXT = f"""
name: mine
tasks: [{BUNDLED}]
seeds: 2
components:
  improved: {{planner: [{{preset: robust, base: bc, H: 1}}, {{kind: action, preset: robust, base: rebrac}}]}}
planners:
  robust: {{preset: robust, base: bc}}
  amortised: {{kind: none, base: improved}}
  again: {{preset: robust, base: improved}}
baselines: [bc, rebrac, improved]
"""


def test_it_is_built_on_the_value_of_the_policy_it_improves_and_planners_on_its_own(tmp_path: Path) -> None:
    found = plan(tmp_path, TEXT)
    units = {unit.key: unit for unit in found.components}
    improved = [unit for unit in units.values() if unit.component == "improved"]
    assert len(improved) == 4  # two planners, two seeds
    for unit in improved:
        base = unit.config["planner"]["base"]
        assert set(unit.parts) == {base, "world_model", "reward", "value"}
        value = units[unit.parts["value"]]
        assert (value.config["of"], value.seed, value.parts[base]) == (base, unit.seed, unit.parts[base])
    for cell in (cell for cell in found.cells if cell.name == "again"):
        value = units[cell.parts["value"]]
        assert value.config["of"] == "improved"
        assert value.parts["improved"] == cell.parts["improved"]
    values = [unit.config["of"] for unit in units.values() if unit.component == "value"]
    assert {of: values.count(of) for of in values} == {"bc": 2, "rebrac": 2, "improved": 4}


def test_its_gain_is_shown_over_the_policy_it_improves(tmp_path: Path) -> None:
    found = plan(tmp_path, TEXT)
    units, cells = {unit.key: unit for unit in found.components}, found.cells
    frozen = [cell for cell in cells if cell.name in ("amortised", "improved")]
    assert len(frozen) == 8
    for cell in frozen:
        unit, facts = units[cell.parts["improved"]], unit_params(cell)
        base = unit.config["planner"]["base"]
        assert (cell.improves, cell.improves_key) == (base, unit.parts[base])
        assert (facts["kind"], facts["base"], facts["base_key"]) == ("amortised", base, unit.parts[base])
        assert facts["policy_key"] == unit.key
    for cell in (cell for cell in cells if cell.name == "again"):  # a planner's gain is over the policy it adapts
        facts = unit_params(cell)
        assert (facts["kind"], facts["base_key"]) == ("policy", cell.parts["improved"])
    plain = next(cell for cell in cells if cell.name == "bc")
    assert (plain.improves, unit_params(plain)["kind"], unit_params(plain)["base_key"]) == (
        "",
        "none",
        plain.parts["bc"],
    )


def test_labels_say_in_short_which_planner_was_learnt(tmp_path: Path) -> None:
    labels = dict.fromkeys(cell.method for cell in plan(tmp_path, TEXT).cells if cell.name == "amortised")
    assert list(labels) == [
        "amortised improved.planner=(policy robust base=bc H=1)",
        "amortised improved.planner=(action robust)",
    ]


def test_nothing_is_missed_where_only_a_frozen_policy_needs_no_baseline(tmp_path: Path) -> None:
    text = TEXT.replace("baselines: [bc, rebrac, improved]", "baselines: [bc, rebrac]")
    (note,) = [one for one in plan(tmp_path, text).notices if "baselines lack" in one]
    assert "improved" in note  # `again` adapts it
    alone = text.replace("  again: {preset: robust, base: improved}\n", "")
    assert not [one for one in plan(tmp_path, alone).notices if "baselines lack" in one]
