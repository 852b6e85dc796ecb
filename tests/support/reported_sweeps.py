"""A recorded sweep with everything a report has to say: two tasks, a failed and a missing cell, hours, curves."""

from pathlib import Path
from typing import NamedTuple

from analysis.report.content import Page, build_page
from analysis.report.page import to_html
from analysis.report.provenance import Beside, Place, Planned
from cluster.units import CellUnit
from tests.support.recorded_sweeps import TASK, baseline, component, mpc, record, task

SWEEP = "told"
HOSTILE = "<script>hacked=1</script>"  # the name of a task
REASON = "RuntimeError: <b>no</b> solution"
LOG = "runs/logs/cell-12.log"
HOURS = 0.02  # predicted for every unit; each took 36 s


class Reported(NamedTuple):
    """The sweep's units, those that lack a result, and its page."""

    uri: str
    components: list
    cells: list
    failed: CellUnit
    missing: CellUnit
    page: Page
    html: str


def reported(folder: Path, uri: str) -> Reported:
    """Record the sweep in a store, with its artifacts in a folder, and make its page."""
    components, cells, returns = [], [], {}
    for of in (TASK, task(HOSTILE)):
        components += [
            component(SWEEP, name, seed, of) for name in ("rebrac", "world_model", "reward") for seed in range(3)
        ]
        cells += [baseline(SWEEP, "rebrac", seed, of) for seed in range(3)]
        cells += [mpc(SWEEP, seed, of, horizon=horizon) for horizon in (1, 3) for seed in range(3)]
    for unit in cells:
        level = 100.0 + 10 * unit.seed + (200 * unit.planner["horizon"] if unit.planner else 0)
        returns[unit.key] = [level, level + 5 * (unit.seed + 1)]
    failed, missing = cells[-1], cells[4]
    for unit in (failed, missing):
        del returns[unit.key]
    curve = [{"step": 2.0 * i, "loss": 1 / i, "eval/normalized_score": 10.0 + i % 3} for i in range(1, 6)]
    curves = {unit.key: curve for unit in components if unit.component == "rebrac"}
    record(uri, SWEEP, cells, returns, folder, components=components, failed={failed.key: REASON}, curves=curves)
    planned = {
        unit.key: Planned(
            unit.task.name,
            unit.method if isinstance(unit, CellUnit) else unit.component,
            unit.seed,
            HOURS,
        )
        for unit in [*components, *cells]
    }
    places = {key: Place(folder=f"runs/results/{key}") for key in returns} | {failed.key: Place(log=LOG)}
    page = build_page(uri, SWEEP, Beside(planned, places), version="0.1.0", description="A & B", spec="name: told\n")
    return Reported(uri, components, cells, failed, missing, page, to_html(page))
