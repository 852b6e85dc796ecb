"""Hand-made components with learning curves, recorded as a finished sweep would be."""

import json

from cluster.units import ComponentUnit
from sweeps.records.fields import plan_record
from sweeps.records.tracker import Tracker
from tests.support.recorded_sweeps import TASK, publish_component, publish_result


def trained(sweep, component, seed, of=TASK, parts=None, **config):
    """A component whose config has these fields beside those that all have."""
    named = "-".join(f"{name}{value}" for name, value in {**config, **(parts or {})}.items())
    key = f"{component}-{of.name}-s{seed}-{sweep}{named}"
    return ComponentUnit(key, component, {"steps": 10, **config}, of, seed, parts=parts or {})


def curve_of(*, steps=10.0, **metrics):
    """A curve of two points: twice the metrics, then the metrics."""
    names = {name.replace("__", "/"): value for name, value in metrics.items()}
    return [{"step": steps / 2, **{n: 2 * v for n, v in names.items()}}, {"step": steps, **names}]


def errors(one_step, open_loop=None, still=None, steps=7):
    """A world model's curve that ends with these errors; twice as large half way."""
    found = {"heldout__rmse": one_step, f"heldout__rmse_{steps}_steps": open_loop}
    found |= {"heldout__rmse_no_change": still, f"heldout__rmse_{steps}_steps_no_change": still and 2 * still}
    found = {name: value for name, value in found.items() if value is not None}
    return curve_of(**found)


def record_curves(uri, sweep, folder, curves, *, cells=(), results=None, planned=(), failed=None, paces=None):
    """Record a sweep whose components have these curves.

    ``curves`` are pairs of a unit and its curve, in the order of the plan; ``planned`` are components without a
    result; ``results`` maps keys of cells to returns; ``paces`` maps keys to updates a second.
    """
    tracker = Tracker(uri, sweep)
    tracker.start(plan_record(sweep, [*(unit for unit, _ in curves), *planned], cells), f"name: {sweep}\n")
    for unit, curve in curves:
        published = publish_component(folder, unit)
        (published / "curve.json").write_text(json.dumps(curve))
        manifest = json.loads((published / "manifest.json").read_text())
        manifest["updates_per_second"] = (paces or {}).get(unit.key, 100.0)
        (published / "manifest.json").write_text(json.dumps(manifest))
        tracker.log(unit, published)
    for cell in cells:
        if cell.key in (results or {}):
            tracker.log(cell, publish_result(folder, cell, results[cell.key]))
    tracker.finish("FINISHED", failed or {})
    return tracker
