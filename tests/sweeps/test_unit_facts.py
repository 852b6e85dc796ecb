"""What plan and store know of units: the prediction is a stand-in, so that shares and names can be checked exactly."""

import pytest

from cluster.store import open_store
from mpcwdwm.errors import UserError
from sweeps import unit_facts
from sweeps.cost.predict import Prediction
from sweeps.plan.plan import build_plan, cell_packs, component_packs
from sweeps.spec.spec import load_spec
from tests.support.plans import BASE

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


def test_units_have_their_share_of_the_hours_their_folder_and_the_log_of_their_failure(spec):
    store = open_store(spec.storage)
    plan = build_plan(spec, store)
    broken = next(pack for pack in cell_packs(plan) if pack.units[0].name == "mpc")
    tried = component_packs(plan)[0]
    for key in broken.keys:
        store.record_failure(key, "no solution", "/logs/broken.log")
    log = store.append_log(tried.id, "one worker was lost, the next try worked")
    facts, notes = unit_facts.unit_facts(spec)
    assert notes == []
    assert facts.keys() == {unit.key for unit in (*plan.components, *plan.cells)}
    for key in broken.keys:  # what fails cannot be timed
        assert (facts[key].hours, facts[key].log) == (None, "/logs/broken.log")
    for unit in tried.units:
        assert (facts[unit.key].hours, facts[unit.key].log) == (0.5, log)  # two seeds are one pack
        assert facts[unit.key].folder == store.place(f"components/{unit.key}")
        assert (facts[unit.key].name, facts[unit.key].seed) == (unit.component, unit.seed)


def test_what_cannot_be_predicted_or_planned_is_said(spec, monkeypatch):
    def fails(plan, store):
        raise UserError("it was too warm")

    monkeypatch.setattr(unit_facts, "predict", fails)
    facts, notes = unit_facts.unit_facts(spec)
    assert {one.hours for one in facts.values()} == {None}
    assert notes == ["nothing is predicted: it was too warm"]
    monkeypatch.setattr(unit_facts, "build_plan", fails)
    assert unit_facts.unit_facts(spec) == ({}, ["nothing is predicted, and no files are named: it was too warm"])
