"""A sweep's status as lines of text and as JSON."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from cluster.units import KINDS, Kind
from sweeps.durations import duration
from sweeps.watching.run_report import RunReport
from sweeps.watching.status import STATES, State, SweepStatus, UnitStatus

__all__ = ["seeds_text", "to_json", "to_lines"]

LISTED: tuple[State, ...] = ("running", "interrupted", "failed", "set aside")  # the others are only counted
SHOWN = 20  # lines of each state, so that a table of thousands of cells stays readable; --json has all
PHASES: dict[Kind, str] = {"component": "training", "cell": "evaluation"}
PLURAL: dict[Kind, str] = {"component": "components", "cell": "cells"}


def to_lines(status: SweepStatus) -> list[str]:
    """Return who runs the sweep, the counts, the time left, and a line for what runs, was interrupted or has failed."""
    lines = [_run(run) for run in status.runs] or ["not running"]
    lines += [_counts(status, kind) for kind in KINDS]
    lines += [
        f"{'time left':<11} {PHASES[phase.kind]}: about {duration(phase.seconds_left)}"
        for run in status.runs
        for phase in run.phases
        if phase.seconds_left is not None
    ]
    for state in LISTED:
        found = list(_together(one for one in status.units if one.state == state))
        lines += found[:SHOWN]
        if len(found) > SHOWN:
            lines.append(f"{state:<11} and {len(found) - SHOWN} lines more: --json has every unit")
    return lines


def to_json(status: SweepStatus) -> str:
    """Return all of it: the counts by kind and state, the runs with their time left, and every unit."""
    counts = {kind: dict(Counter(one.state for one in status.units if one.unit.kind == kind)) for kind in KINDS}
    units = [{**asdict(one.unit), **{k: v for k, v in vars(one).items() if k != "unit"}} for one in status.units]
    runs = [
        {
            "host": run.host,
            "pid": run.pid,
            "started": run.started,
            "seconds_left": {PHASES[phase.kind]: phase.seconds_left for phase in run.phases},
        }
        for run in status.runs
    ]
    document: dict[str, Any] = {"sweep": status.sweep, "counts": counts, "runs": runs, "units": units}
    return json.dumps(document, indent=1)


def seeds_text(seeds: Sequence[int]) -> str:
    """Return seeds as people write them: "seed 3", "seeds 0-4", "seeds 0, 2-3"."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    text = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"seed{'s' if len(seeds) > 1 else ''} {text}"


def _run(run: RunReport) -> str:
    return f"{'run':<11} pid {run.pid} on {run.host} {_since(run.started)}"


def _counts(status: SweepStatus, kind: Kind) -> str:
    counts = {state: status.count(state, kind) for state in STATES}
    shown = [f"{number} {state}" for state, number in counts.items() if number or state == "done"]
    if kind == "cell" and status.watched.awaiting_choice:
        shown.append(f"{status.watched.awaiting_choice} to be chosen")
    return f"{PLURAL[kind]:<11} {sum(counts.values())}: {', '.join(shown)}"


def _together(units: Iterable[UnitStatus]) -> Iterable[str]:
    """Yield a line for all seeds of a task and a method of which the same is to be said."""
    said: dict[tuple[str, str, str], list[int]] = {}
    for one in units:
        said.setdefault((one.unit.task, one.unit.name, _note(one)), []).append(one.unit.seed)
        state = one.state
    for (task, name, note), seeds in said.items():
        yield f"{state:<11} {task}  {name}  {seeds_text(seeds)}{f': {note}' if note else ''}"


def _note(one: UnitStatus) -> str:
    if one.state == "running":
        percent = "" if one.fraction is None else f"{100 * one.fraction:.0f} % "
        return f"{percent}on {one.host} {_since(one.since)}" if one.host else f"{percent}starting {one.note}".strip()
    if one.state == "interrupted":
        return "will be continued"
    return f"{one.error} (log: {one.log})"


def _since(moment: str) -> str:
    """Return "since 14:05 UTC (12 min)"; with the date if that is not today's."""
    try:
        began = datetime.fromisoformat(moment)
    except ValueError:
        return ""
    day = "" if began.date() == datetime.now(UTC).date() else f"{began:%Y-%m-%d} "
    return f"since {day}{began:%H:%M} UTC ({duration(time.time() - began.timestamp())})"
