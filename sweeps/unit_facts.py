"""What plan and store say of every unit beside its record: names, files, log, and the hours it was predicted to take.

The prediction is that of `mpcwdwm sweep plan` for a store that holds nothing, made on this machine when asked for.
"""

import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.mlflow_store import SPEC_FILE
from cluster.store import Store, open_store
from cluster.store.files import FOLDERS
from cluster.units import CellUnit, Pack
from mpcwdwm.errors import UserError
from sweeps.cost.predict import predict
from sweeps.plan.plan import Plan, build_plan, cell_packs, component_packs
from sweeps.spec.spec import Spec

__all__ = ["UnitFacts", "recorded_spec", "unit_facts"]


@dataclass(frozen=True)
class UnitFacts:
    """A unit as the plan and the store know it."""

    task: str
    name: str  # of the component, or of the cell's row in the table
    seed: int
    folder: str  # of its artifact, also before it is published
    log: str  # where errors were written; "" if there were none
    hours: float | None  # predicted, of its process; None: nothing is predicted


def unit_facts(spec: Spec) -> tuple[dict[str, UnitFacts], list[str]]:
    """Return the facts of every unit that a sweep consists of now, by key, and notes on what cannot be known."""
    store = open_store(spec.storage)
    try:
        plan = build_plan(spec, store)
    except UserError as error:  # as where the dataset is not at hand
        return {}, [f"nothing is predicted, and no files are named: {error}"]
    failed, logs = store.failed(), set(store.names("logs"))
    hours, notes = _hours(plan, failed)
    facts = {}
    for pack in _packs(plan):
        for unit in pack.units:
            failure = store.failure(unit.key) if unit.key in failed else None
            own = store.place(f"logs/{pack.id}.log") if f"{pack.id}.log" in logs else ""
            facts[unit.key] = UnitFacts(
                task=unit.task.name,
                name=unit.method if isinstance(unit, CellUnit) else unit.component,
                seed=unit.seed,
                folder=store.place(f"{FOLDERS[unit.kind]}/{unit.key}"),
                log=str(failure["log"]) if failure else own,
                hours=hours.get(unit.key),
            )
    return facts, notes


def recorded_spec(spec: Spec) -> str:
    """Return the YAML with which a sweep was run last, as it was resolved; "" if it is not in the store."""
    return open_store(spec.storage).read_text(f"sweeps/{spec.record}/{SPEC_FILE}") or ""


def _packs(plan: Plan) -> list[Pack]:
    return [*component_packs(plan), *cell_packs(plan)]


def _hours(plan: Plan, failed: Collection[str]) -> tuple[dict[str, float], list[str]]:
    """Return the process hours of every unit, an equal share of its pack's, and why there are none.

    What has failed is left out: a planner that raises an error could not be timed either.
    """
    sound = replace(
        plan,
        components=[unit for unit in plan.components if unit.key not in failed],
        cells=[unit for unit in plan.cells if unit.key not in failed],
    )
    try:
        with tempfile.TemporaryDirectory() as nowhere:
            seconds = predict(sound, Store(Path(nowhere))).packs
    except UserError as error:
        return {}, [f"nothing is predicted: {error}"]
    shares = [(pack, seconds[pack.id] / len(pack.units) / 3600) for pack in _packs(sound)]
    return {unit.key: share for pack, share in shares for unit in pack.units}, []
