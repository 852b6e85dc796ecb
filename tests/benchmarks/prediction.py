"""Prediction: what `sweep plan` says a sweep takes, against what it takes.

    python tests/benchmarks/prediction.py             # four minutes on two cores, a minute of it `mpcwdwm bench`
    python tests/benchmarks/prediction.py --busy      # where others use the machine

In a fresh folder, with a fresh cache: this machine is measured, a small sweep whose components and cells were
never run is predicted, then run by `mpcwdwm sweep run`; then it is predicted once more, given the lengths the
episodes turned out to have (nothing else is learnt from the run). The last lines are ``RATIO name value``,
predicted over measured; within 0.77 to 1.3 on an idle machine.

Who else uses the machine lengthens the run, while the speed of one thread is measured in processor seconds. With
``--busy`` every pack runs in this process, one after the other, and its processor seconds are compared: the
work itself, without what surrounds it and without processes side by side.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-c", "from sweeps.cli import main; main()"]
SPEC = """
name: predicted
tasks: [hopper-medium-replay-mini-ppo-v0]
seeds: 2
components:
  rebrac: {steps: 2500, hidden_dim: 160, batch_size: 256}
  iql: {steps: 3000, hidden_dim: 160}
  world_model: {kind: diffusion, denoising_steps: 4, steps: 3000, hidden_dim: 160, batch_size: 256}
  reward: {steps: 2500, hidden_dim: 160, batch_size: 256}
planners:
  mpc: {kind: policy, horizon: [1, 2], rollouts: 6, updates: [1, 3], step_size: 1e-6}
baselines: [rebrac, iql]
evaluation: {episodes: 6}
"""


def manifests(store: Path, kind: str) -> list[dict[str, Any]]:
    """Return the manifests of a store's artifacts, each with when it was `published`, in that order."""
    found = [(path.stat().st_mtime, json.loads(path.read_text())) for path in (store / kind).glob("*/manifest.json")]
    return [{**manifest, "published": when} for when, manifest in sorted(found, key=lambda one: one[0])]


def measured_lengths(store: Path) -> dict[str, Any]:
    """Return key → lengths of its episodes, for results and for the policies' learning curves."""
    from sweeps.cost.predict import LONGEST_OVER_MEAN, Lengths

    lengths = {
        one["key"]: Lengths(one["episodes_mean"]["length"], one["longest_episode"])
        for one in manifests(store, "results")
    }
    for one in manifests(store, "components"):
        curve = json.loads((store / "components" / one["key"] / "curve.json").read_text())
        means = [point["eval/length"] for point in curve if "eval/length" in point]
        if means:  # a curve keeps the means only
            mean = sum(means) / len(means)
            lengths[one["key"]] = Lengths(mean, LONGEST_OVER_MEAN * mean)
    return lengths


def measured_phases(store: Path, started: float, ended: float) -> dict[str, float]:
    """Return phase → wall seconds, from when the artifacts were published and how long their packs took."""
    components, results = manifests(store, "components"), manifests(store, "results")
    first = min(one["published"] - one["seconds"] * len(one["packed_with"]) for one in components)
    trained, played = components[-1]["published"], results[-1]["published"]
    return {"start": first - started, "components": trained - first, "cells": played - trained, "end": ended - played}


def measured_packs(store: Path) -> dict[tuple[str, ...], float]:
    """Return keys of a pack → its seconds."""
    every = [*manifests(store, "components"), *manifests(store, "results")]
    return {tuple(one["packed_with"]): one["seconds"] * len(one["packed_with"]) for one in every}


def run_for_real(folder: Path, sets: list[str]) -> dict[str, float]:
    """Run the sweep by its command and return phase → wall seconds."""
    options = [part for value in sets for part in ("--set", value)]
    started = time.time()
    command = [*COMMAND, "sweep", "run", "spec.yaml", *options]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    ended = time.time()
    return {**measured_phases(folder / "runs", started, ended), "all": ended - started}


def run_here(folder: Path, packs: list[Any]) -> dict[str, float]:
    """Run packs in this process, one after the other, and return pack id → processor seconds."""
    from cluster.work import run_pack

    took = {}
    for pack in packs:
        started = time.process_time()
        run_pack(str(folder / "runs"), pack, device="cpu", threads=1)
        took[pack.id] = time.process_time() - started
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description="Prediction against measurement.")
    parser.add_argument("--busy", action="store_true", help="compare processor seconds, pack by pack")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set a value of the spec")
    parser.add_argument("--cache", type=Path, help="a cache folder in which `mpcwdwm bench` has been run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(arguments.cache or folder / "cache")
        if arguments.cache is None and not arguments.busy:
            print(subprocess.run([*COMMAND, "bench"], check=True, stdout=subprocess.PIPE, text=True).stdout)
        (folder / "spec.yaml").write_text(SPEC)

        from cluster.store import open_store
        from sweeps.cost.predict import predict
        from sweeps.plan.plan import build_plan, cell_packs, component_packs
        from sweeps.spec.spec import load_spec

        nothing, store = open_store(folder / "nothing"), folder / "runs"
        plan = build_plan(load_spec(folder / "spec.yaml", sets=arguments.set), nothing)
        groups = {"components": component_packs(plan), "cells": cell_packs(plan)}
        every = [pack for packs in groups.values() for pack in packs]
        before = predict(plan, nothing)
        if arguments.busy:
            took = run_here(folder, every)
            phases = {phase: sum(took[pack.id] for pack in packs) for phase, packs in groups.items()}
        else:
            phases = run_for_real(folder, arguments.set)
            seconds = measured_packs(store)
            took = {pack.id: seconds[pack.keys] for pack in every}
        after = predict(plan, nothing, measured_lengths(store))
    print(f"{'seconds':<40} predicted  given the lengths   measured")
    for pack in every:
        unit = pack.units[0]
        label = getattr(unit, "component", None) or getattr(unit, "method", "")
        print(f"  {label:<38} {before.packs[pack.id]:9.1f} {after.packs[pack.id]:18.1f} {took[pack.id]:10.1f}")
    told, given = ({**each.seconds, "all": each.wall_seconds} for each in (before, after))
    if arguments.busy:
        told, given = (
            {phase: sum(each.packs[pack.id] for pack in packs) for phase, packs in groups.items()}
            for each in (before, after)
        )
    for phase, seconds in phases.items():
        print(f"{phase:<40} {told[phase]:9.1f} {given[phase]:18.1f} {seconds:10.1f}")
    for phase, seconds in phases.items():
        print(f"RATIO prediction_over_measured_{phase} {given[phase] / seconds:.2f}")


if __name__ == "__main__":
    main()
