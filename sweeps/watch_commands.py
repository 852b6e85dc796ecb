"""The commands that watch a sweep while it runs, or after: `sweep status`, `sweep logs`, `sweep retry`.

They read what the run has written down (`sweeps.watching`). So they answer in a fraction of a second, from any machine
that sees the storage, and disturb nothing. A sweep that was never run, or by an earlier version, is planned for them.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from mpcwdwm.errors import UserError
from sweeps.spec_argument import SeedsOption, SetOption, SpecArgument, TasksOption, plan_named, read_named

if TYPE_CHECKING:
    from cluster.store import Store
    from sweeps.watching.status import SweepStatus

__all__ = ["how_far", "watch_app"]

watch_app = typer.Typer(rich_markup_mode=None)  # without a name: its commands are those of `mpcwdwm sweep`
UnitsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[UNIT]...",
        help="Words of a unit's line in `sweep status`, as in 'hopper mpc H=3 seed 0', or the beginning of its key.",
    ),
]


@watch_app.command("status")
def sweep_status(
    spec: SpecArgument,
    sets: SetOption = None,
    tasks: TasksOption = None,
    seeds: SeedsOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until the run ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: counts, and the state of every unit.")] = False,
) -> None:
    """Show what is done, what runs where since when, what failed and why, and the time left; as it was run last."""
    if watch and as_json:
        raise UserError("--watch shows lines: leave out --json, or ask for it again and again")
    look = _watching(spec, sets, tasks, seeds).look
    from sweeps.watching.show import to_json, to_lines

    if watch:
        from sweeps.watching.live import show_until_the_end

        show_until_the_end(look)
        return
    status = look()
    print(to_json(status) if as_json else "\n".join([f"{'sweep':<11} {status.sweep} ({spec})", *to_lines(status)]))


@watch_app.command("logs")
def sweep_logs(
    spec: SpecArgument,
    units: UnitsArgument = None,
    sets: SetOption = None,
    tasks: TasksOption = None,
    seeds: SeedsOption = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on printing while the unit runs.")] = False,
) -> None:
    """Print the tracebacks of units that failed, or of a unit's earlier tries; by default of all that failed."""
    watching = _watching(spec, sets, tasks, seeds)
    look, store = watching.look, watching.store
    from sweeps.watching.logs import follow_log, logs_of

    if follow:
        follow_log(look, units or [], store)
        return
    print("\n".join(logs_of(look(), units or [], store)))


@watch_app.command("retry")
def sweep_retry(
    spec: SpecArgument,
    units: UnitsArgument = None,
    sets: SetOption = None,
    tasks: TasksOption = None,
    seeds: SeedsOption = None,
) -> None:
    """Have the next run try units again that were set aside after three failures; by default all of them."""
    watching = _watching(spec, sets, tasks, seeds)
    look, store = watching.look, watching.store
    from sweeps.watching.logs import named

    failed = [one for one in named(look(), units or []) if one.state in ("failed", "set aside")]
    for one in failed:
        store.clear_failure(one.unit.key)
    if not failed:
        print("nothing of that has failed")
        return
    aside = sum(one.state == "set aside" for one in failed)
    print(f"{len(failed)} failures forgotten ({aside} set aside); `mpcwdwm sweep run {spec}` tries these units again")


# Pieces


def how_far(spec: str) -> str:
    """Return in a few words how far a sweep is, "12 of 14 done, 1 failed".

    Raises:
        UserError: its YAML is wrong.
    """
    watching = _watching(spec, note=False)
    states = [one.state for one in watching.look().units]
    counts = {state: states.count(state) for state in ("running", "interrupted", "failed", "set aside")}
    shown = [f"{states.count('done')} of {len(states)} done", *(f"{n} {state}" for state, n in counts.items() if n)]
    return ", ".join([*shown, "the YAML has changed since"] if watching.changed else shown)


@dataclass(frozen=True)
class _Watching:
    """A sweep as it was run last, or as it is planned now if it never was."""

    look: "Callable[[], SweepStatus]"
    store: "Store"
    changed: bool  # whether the YAML asks for another sweep since


def _watching(
    spec: str, sets: list[str] | None = None, tasks: str | None = None, seeds: str | None = None, *, note: bool = True
) -> _Watching:
    """Return what looks at the sweep of a SPEC argument.

    Raises:
        UserError: there is no such sweep, or its YAML or an option is wrong.
    """
    reading = read_named(spec, sets, tasks, seeds)
    from cluster.store import open_store
    from sweeps.watching.status import status_of
    from sweeps.watching.units import asked_by, read_units

    store, record = open_store(reading.storage), reading.record
    asked, planned = asked_by(reading.found.path), read_units(store, record)
    if planned is None:
        plan, _ = plan_named(spec, sets, tasks, seeds)
        from sweeps.watching.units import watched_plan

        record = plan.spec.record  # options may come to the whole sweep
        planned = read_units(store, record) or watched_plan(plan.components, plan.cells, plan.awaiting_choice, asked)
    changed = planned.asked != asked
    if changed and note:
        print(
            "note: this is the sweep as it was run last; the YAML has changed since: `mpcwdwm sweep plan` shows what"
            " it asks for now",
            file=sys.stderr,
        )
    return _Watching(lambda: status_of(record, read_units(store, record) or planned, store), store, changed)
