"""What plan and store say of units beside their records: names, predicted hours, and where files and logs lie.

The prediction is that of `mpcwdwm sweep plan` for a store that holds nothing, made on this machine when asked for.
"""

import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.mlflow_store import SPEC_FILE
from cluster.store import Store, open_store
from cluster.store.files import FOLDERS
from cluster.units import KINDS, CellUnit, Pack, Unit
from mpcwdwm.errors import UserError
from sweeps.cost.predict import predict
from sweeps.plan.plan import Plan, build_plan, cell_packs, component_packs
from sweeps.spec.spec import Spec

__all__ = ["UnitFacts", "UnitPlace", "recorded_spec", "unit_facts", "unit_places"]


@dataclass(frozen=True)
class UnitFacts:
    """A unit as the plan knows it."""

    task: str
    name: str  # of the component, or of the cell's row in the table
    seed: int
    hours: float | None  # predicted, of its process; None: nothing is predicted


@dataclass(frozen=True)
class UnitPlace:
    """Where a unit left something."""

    folder: str  # its artifact; "" if there is none
    log: str  # of its failure; "" if it did not fail


def unit_facts(spec: Spec) -> tuple[dict[str, UnitFacts], list[str]]:
    """Return the facts of every unit that a sweep consists of now, by key, and notes on what cannot be known."""
    store = open_store(spec.storage)
    try:
        plan = build_plan(spec, store)
    except UserError as error:  # as where the dataset is not at hand
        return {}, [f"nothing is predicted: {error}"]
    hours, notes = _hours(plan, store.failed())
    units: list[Unit] = [*plan.components, *plan.cells]
    facts = {
        unit.key: UnitFacts(
            task=unit.task.name,
            name=unit.method if isinstance(unit, CellUnit) else unit.component,
            seed=unit.seed,
            hours=hours.get(unit.key),
        )
        for unit in units
    }
    return facts, notes


def unit_places(spec: Spec) -> dict[str, UnitPlace]:
    """Return where the units in a sweep's store lie, by key, published and failed ones, of whatever code."""
    store = open_store(spec.storage)
    places = {key: UnitPlace(store.place(f"{FOLDERS[kind]}/{key}"), "") for kind in KINDS for key in store.keys(kind)}
    for key in store.failed():
        failure = store.failure(key)
        if failure:
            places[key] = UnitPlace("", str(failure["log"]))
    return places


def recorded_spec(spec: Spec) -> str:
    """Return the YAML with which a sweep was run last, as it was resolved; "" if it is not in the store."""
    return open_store(spec.storage).read_text(f"sweeps/{spec.record}/{SPEC_FILE}") or ""


def _hours(plan: Plan, failed: Collection[str]) -> tuple[dict[str, float], list[str]]:
    """Return the process hours of every unit, an equal share of its pack's, and why some have none.

    What has failed is left out: a planner that raises an error cannot be timed either. If another cannot, components
    alone are predicted.
    """
    components = [unit for unit in plan.components if unit.key not in failed]
    cells = [unit for unit in plan.cells if unit.key not in failed]
    notes = []
    for sound in (replace(plan, components=components, cells=cells), replace(plan, components=components, cells=[])):
        try:
            with tempfile.TemporaryDirectory() as nowhere:
                seconds = predict(sound, Store(Path(nowhere))).packs
        except UserError as error:
            notes.append(f"{'evaluation' if sound.cells else 'training'} is not predicted: {error}")
            continue
        packs: list[Pack] = [*component_packs(sound), *cell_packs(sound)]
        shares = [(pack, seconds[pack.id] / len(pack.units) / 3600) for pack in packs]
        return {unit.key: share for pack, share in shares for unit in pack.units}, notes
    return {}, notes
