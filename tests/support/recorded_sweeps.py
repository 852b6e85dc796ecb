"""Hand-made units and published artifacts, as the store would hold them."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd

from cluster.units import CellUnit, ComponentUnit, TaskRef
from sweeps.records.fields import plan_record
from sweeps.records.tracker import Tracker

TASK = TaskRef(
    name="hopper-mini-v0",
    env_id="Hopper-v4",
    dataset="data.hdf5",
    dataset_sha256="ab" * 32,
    mujoco="3.4.0",
    termination="hopper",
    reference=(0.0, 1000.0),
    max_episode_steps=1000,
    source="bundled",
)
PLANNER = {"kind": "policy", "base": "rebrac", "horizon": 3, "rollouts": 8, "updates": 1, "step_size": 1e-05}


def task(name="hopper-mini-v0", **changes):
    return replace(TASK, name=name, **changes)


def component(sweep, name, seed, of=TASK):
    return ComponentUnit(f"{name}-{of.name}-s{seed}-{sweep}", name, {"steps": 10, "hidden_dim": 8}, of, seed)


def baseline(sweep, name, seed, of=TASK, **changes):
    part = component(sweep, name, seed, of)
    return CellUnit(
        key=f"cell-{name}-{of.name}-s{seed}-{sweep}{changes.get('role', '')}",
        method=name,
        name=name,
        planner=None,
        base=name,
        configs={name: part.config},
        parts={name: part.key},
        task=of,
        seed=seed,
        episodes=2,
        env_seed=0,
        **changes,
    )


def mpc(sweep, seed, of=TASK, horizon=3, **changes):
    parts = {name: component(sweep, name, seed, of).key for name in ("rebrac", "world_model", "reward")}
    label = f"mpc H={horizon} M=8 E=1 α=1e-05"
    return CellUnit(
        key=f"cell-mpc{horizon}-{of.name}-s{seed}-{sweep}{changes.get('role', '')}",
        method=label,
        name="mpc",
        planner={**PLANNER, "horizon": horizon},
        base="rebrac",
        configs={"world_model": {"kind": "diffusion", "denoising_steps": 5}},
        parts=parts,
        task=of,
        seed=seed,
        episodes=2,
        env_seed=0,
        **changes,
    )


def manifest(unit, **changes):
    return {
        "key": unit.key,
        "device": "cpu",
        "threads": 1,
        "torch": "2.13.0",
        "mpcwdwm": "0.1.0",
        "git_sha": "c0ffee",
        "packed_with": [unit.key],
        "seconds": 36.0,
        "finished_at": "2026-03-01T12:00:00+00:00",
        **changes,
    }


def publish_result(folder: Path, unit, returns, env_seeds=None, ms=2.0, evaluations=7.0, **changes) -> Path:
    """Write a result whose episodes have these returns, on environment seeds 0, 1, ... unless given.

    Without ``evaluations`` it is one of an earlier version, which did not count them.
    """
    folder = folder / "results" / unit.key
    folder.mkdir(parents=True)
    low, high = unit.task.reference or (0.0, 100.0)
    rows = [
        {
            "episode": i,
            "env_seed": env_seeds[i] if env_seeds else i,
            "return": float(value),
            "normalized_score": 100 * (value - low) / (high - low) if unit.task.reference else None,
            "length": 10,
            "ms_per_step": ms,
            **({} if evaluations is None else {"evaluations_per_step": evaluations}),
            "imagined_return": 1.5 if unit.planner else None,
            "fallbacks": 0,
            "adapted_share": 1.0 if unit.planner else 0.0,
            "action_change": 0.1 if unit.planner else 0.0,
        }
        for i, value in enumerate(returns)
    ]
    pd.DataFrame(rows).to_parquet(folder / "episodes.parquet")
    content = manifest(unit, dataset_mean_return=250.0, env_steps=10 * len(rows), **changes)
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def publish_component(folder: Path, unit, curve=(), **changes) -> Path:
    folder = folder / "components" / unit.key
    folder.mkdir(parents=True)
    content = manifest(unit, updates_per_second=100.0, metrics={"loss": 0.25, "nothing": None}, **changes)
    (folder / "manifest.json").write_text(json.dumps(content))
    (folder / "curve.json").write_text(json.dumps(list(curve)))
    return folder


def record(uri, sweep, cells, results, folder, components=(), failed=None, curves=None, **changes):
    """Record a finished sweep: ``results`` maps keys to returns; a cell without returns has no result.

    ``curves`` maps keys of components to learning curves; the others have none.
    """
    tracker = Tracker(uri, sweep)
    tracker.start(plan_record(sweep, components, cells), f"name: {sweep}\n")
    for unit in components:
        tracker.log(unit, publish_component(folder, unit, (curves or {}).get(unit.key, ())))
    for unit in cells:
        if unit.key in results:
            tracker.log(unit, publish_result(folder, unit, results[unit.key], **changes.get(unit.key, {})))
    tracker.finish("FAILED" if failed else "FINISHED", failed or {})
    return tracker
