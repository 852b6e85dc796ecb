"""What several commands print of a sweep, and the files they write beside its results."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from analysis.mlflow_store import SPEC_FILE, shown_uri
from cluster.store import Store, open_store
from mpcwdwm.errors import UserError

if TYPE_CHECKING:  # commands that only print need none of it
    from sweeps.execution.driver import Outcome
    from sweeps.plan.plan import Plan
    from sweeps.spec.reading import Reading
    from sweeps.spec.spec import Spec

__all__ = [
    "note_changes",
    "print_counts",
    "print_failures",
    "print_or_write",
    "print_places",
    "terminal_width",
    "write_files",
]

FAILED_SHOWN = 20  # failures listed at the end of a run; `sweep status` lists all
NARROWEST = 100  # columns of a printed table where the terminal's width is unknown


def print_counts(plan: "Plan", store: Store) -> None:
    """Print how many components and cells there are, by state."""
    states = plan.states(store)
    options = "".join(f" {option}" for option in plan.spec.options)
    print(f"sweep       {plan.spec.name} ({plan.spec.path}){options}")
    for name, units, cached in (("components", plan.components, "cached"), ("cells", plan.cells, "done")):
        counts = [states[unit.key] for unit in units]
        shown = [f"{counts.count('new')} new", f"{counts.count('cached')} {cached}"]
        shown += [f"{counts.count('failed')} failed, to be tried again"] if "failed" in counts else []
        shown += [f"{plan.awaiting_choice} to be chosen"] if name == "cells" and plan.awaiting_choice else []
        print(f"{name:<11} {len(units)}: {', '.join(shown)}")


def print_failures(outcome: "Outcome") -> None:
    """Print what failed in a run or is set aside, and where it is written down, on stderr."""
    for key, failure in list(outcome.failed.items())[:FAILED_SHOWN]:
        state = "set aside" if key in outcome.set_aside else "failed"
        print(f"{state}: {outcome.names.get(key, key)}: {failure.error} (log: {failure.log})", file=sys.stderr)
    if len(outcome.failed) > FAILED_SHOWN:
        print(f"and {len(outcome.failed) - FAILED_SHOWN} more: see `mpcwdwm sweep status`", file=sys.stderr)
    if outcome.set_aside:
        print("what is set aside waits for `mpcwdwm sweep retry`; the rest is tried by the next run", file=sys.stderr)


def print_places(reading: "Reading") -> None:
    """Say on stderr which sweep is run, and where artifacts, logs and records go: before anything takes time."""
    storage, records = shown_uri(reading.storage), shown_uri(reading.tracking_uri)
    logs = f"{storage}{'/' if '://' in storage else os.sep}logs"
    print(f"sweep {reading.file.name} ({reading.found.path}): artifacts in {storage}, logs in {logs}", file=sys.stderr)
    print(f"MLflow: {records}; how far it is: `mpcwdwm sweep status {reading.file.name}`", file=sys.stderr, flush=True)
    elsewhere = os.environ.get("MLFLOW_TRACKING_URI", "")
    if elsewhere not in ("", reading.tracking_uri):
        print("note: MLFLOW_TRACKING_URI is not used: the YAML's tracking.uri names where records go", file=sys.stderr)


def note_changes(spec: "Spec") -> None:
    """Say on stderr if what is shown of a sweep is not what its YAML asks for, and which parts of it were run."""
    store, place = open_store(spec.storage), f"sweeps/{spec.record}"
    parts = [name for name in store.names(place) if store.exists(f"{place}/{name}/{SPEC_FILE}")]
    if parts:
        print(
            f"note: runs with options have their own records, in {store.place(place)}: {', '.join(parts)}",
            file=sys.stderr,
        )
    last = store.read_text(f"{place}/{SPEC_FILE}")
    if last is not None and not spec.asks_for_the_same(last):
        print("note: this is the sweep as it was run last; the YAML asks for another now", file=sys.stderr)


def terminal_width() -> int:
    """Return in how many columns tables are printed."""
    return max(NARROWEST, shutil.get_terminal_size((NARROWEST, 24)).columns)


def write_files(spec: "Spec", files: Mapping[str, str | bytes], where: TextIO | None = None) -> None:
    """Write files, content by name, beside a sweep's results and print their places, on stderr by default."""
    store = open_store(spec.storage)
    for name, content in files.items():
        print(store.save_sweep_file(spec.record, name, content), file=where or sys.stderr)


def print_or_write(text: str, out: Path | None) -> None:
    """Print a text, or write it to a file and print the file's path.

    Raises:
        UserError: the file cannot be written.
    """
    if out is None:
        print(text, end="")
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out: cannot write '{out}': {error.strerror}") from None
    print(out)
