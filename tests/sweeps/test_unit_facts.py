"""What plan and store know of units: the prediction is a stand-in, so that shares and names can be checked exactly."""

import pytest

from cluster.store import open_store
from mpcwdwm.errors import UserError
from sweeps import unit_facts
from sweeps.cost.predict import Prediction
from sweeps.plan.plan import build_plan, cell_packs, component_packs
from sweeps.spec.spec import load_spec
from sweeps.unit_facts import UnitFacts, UnitPlace
from tests.support.plans import BASE
from tests.support.recorded_sweeps import component, publish_component

HOUR = 3600.0


@pytest.fixture
def spec(tmp_path, monkeypatch):
    def predicted(plan, store):
        assert not store.keys("component")  # as if nothing were published
        packs = [*component_packs(plan), *cell_packs(plan)]
        return Prediction({}, 0.0, 0.0, 0, {pack.id: HOUR for pack in packs})

    monkeypatch.setattr(unit_facts, "predict", predicted)
    (tmp_path / "s.yaml").write_text(BASE)
    return load_spec(tmp_path / "s.yaml")


def test_units_have_their_share_of_the_hours(spec):
    store = open_store(spec.storage)
    plan = build_plan(spec, store)
    broken = next(pack for pack in cell_packs(plan) if pack.units[0].name == "mpc")
    for key in broken.keys:
        store.record_failure(key, "no solution", "/logs/broken.log")
    facts, notes = unit_facts.unit_facts(spec)
    assert notes == []
    assert facts.keys() == {unit.key for unit in (*plan.components, *plan.cells)}
    assert {facts[key].hours for key in broken.keys} == {None}  # what fails cannot be timed
    for unit in plan.components:
        assert facts[unit.key] == UnitFacts(unit.task.name, unit.component, unit.seed, 0.5)  # two seeds are one pack


def test_places_are_those_of_the_store_whatever_is_planned_now(spec, tmp_path):
    store, unit = open_store(spec.storage), component("of older code", "rebrac", 0)
    folder = publish_component(tmp_path / "runs", unit)
    store.record_failure("cell-of-older-code", "no solution", "/logs/broken.log")
    assert unit_facts.unit_places(spec) == {
        unit.key: UnitPlace(str(folder), ""),
        "cell-of-older-code": UnitPlace("", "/logs/broken.log"),
    }


def test_what_cannot_be_predicted_or_planned_is_said(spec, monkeypatch):
    played = unit_facts.predict

    def fails(plan, store):
        if plan.cells:
            raise UserError("it was too warm")
        return played(plan, store)

    monkeypatch.setattr(unit_facts, "predict", fails)
    facts, notes = unit_facts.unit_facts(spec)
    assert {one.hours for key, one in facts.items()} == {0.5, None}
    assert notes == ["evaluation is not predicted: it was too warm"]
    monkeypatch.setattr(unit_facts, "build_plan", lambda spec, store: fails(build_plan(spec, store), store))
    assert unit_facts.unit_facts(spec) == ({}, ["nothing is predicted: it was too warm"])
