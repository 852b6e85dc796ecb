"""The commands below ``mpcwdwm store``: what storage holds, whether it is whole, and what can go.

They know a folder and a URL alike. `gc` keeps what the named sweeps consist of, what living runs have planned, and
what living workers compute.
"""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mpcwdwm.errors import UserError
from mpcwdwm.paths import user_path
from sweeps.execution.interrupt import leave
from sweeps.spec_argument import load_named

if TYPE_CHECKING:
    from cluster.inventory import Stored
    from cluster.store import Store

__all__ = ["store_app"]

SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0}

store_app = typer.Typer(help="List, verify and clear storage.", no_args_is_help=True, rich_markup_mode=None)

Place = Annotated[str, typer.Argument(metavar="STORE", help="Folder or URL: the `storage` of a sweep.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, an entry for each artifact.")]


@store_app.command("ls")
def store_ls(place: Place = "runs", as_json: AsJson = False) -> None:
    """Show what is stored: kind, task, method, seeds, size and age."""
    from cluster.inventory import inventory

    found = inventory(_existing(place))
    print(json.dumps([asdict(each) for each in found], indent=1) if as_json else _listing(found))


@store_app.command("verify")
def store_verify(
    place: Place = "runs",
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what is damaged; the next run of its sweep makes it again.")
    ] = False,
) -> None:
    """Read every artifact and check its checksums; exit code 1 if one is damaged."""
    from cluster.inventory import verify

    checked = verify(_existing(place), repair=repair)
    for (kind, key), wrong in checked.damaged.items():
        print(f"{kind} {key}: {'; '.join(wrong)}{' (removed)' if repair else ''}")
    unknown = f", {checked.unknown} of an earlier version, without checksums" if checked.unknown else ""
    print(f"{checked.sound} sound, {len(checked.damaged)} damaged{unknown}")
    if checked.damaged:
        leave(1)


@store_app.command("gc")
def store_gc(
    place: Place = "runs",
    specs: Annotated[
        list[str] | None, typer.Option("--spec", metavar="SPEC", help="Keep what this sweep consists of; repeatable.")
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="AGE", help="Only what is older: 30d, 12h, 90m.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this it is only listed.")] = False,
) -> None:
    """List, or with --yes remove, what no given sweep refers to; what a running sweep needs is kept."""
    if not specs and older_than is None:
        raise UserError("store gc: name the sweeps to keep (--spec SPEC), an age (--older-than 30d), or both")
    age = _seconds(older_than) if older_than else 0.0
    from cluster.inventory import remove_unneeded_work, unneeded

    store = _existing(place)
    referred = _referred(store, specs or [])
    gone = []
    for each in unneeded(store, lambda: referred | _in_use(store), age, remove=yes):
        gone.append(each)
        print(f"{'removed' if yes else 'would remove'}: {each.kind} {each.key}")
    known = sum(each.bytes or 0 for each in gone) / 1e6
    print(f"{len(gone)} artifacts, {known:.1f} MB{'' if yes else '; --yes removes them'}")
    if yes and not older_than:
        store.sweep_up()
        work = remove_unneeded_work(store, referred | _in_use(store))
        print(f"{work} checkpoints and failures of other sweeps removed")


# Pieces


def _existing(place: str) -> "Store":
    from cluster.store import open_store

    if "://" not in place and not user_path(place).is_dir():
        raise UserError(f"there is no store at '{place}': give the folder or URL that the YAML names as storage")
    return open_store(place)


def _referred(store: "Store", specs: Sequence[str]) -> set[str]:
    """Return the keys of all units of the named sweeps, as they would be run now."""
    from sweeps.plan.plan import build_plan

    plans = [build_plan(load_named(spec), store) for spec in specs]
    components = {unit.key for plan in plans for unit in plan.components}
    return components.union(unit.key for plan in plans for unit in plan.cells)


def _in_use(store: "Store") -> set[str]:
    """Return the keys that living runs have planned or living workers compute.

    Raises:
        UserError: a sweep runs whose plan cannot be read.
    """
    from cluster.inventory import held_keys
    from sweeps.watching.run_report import living_runs
    from sweeps.watching.units import read_units

    keys = held_keys(store)
    for name in store.names("sweeps"):
        for record in (name, *(f"{name}/{part}" for part in store.names(f"sweeps/{name}") if "." not in part)):
            if not living_runs(store, record):
                continue
            planned = read_units(store, record)
            if planned is None:
                raise UserError(f"store gc: sweep {record} runs, and its plan cannot be read; wait for its end")
            keys.update(unit.key for unit in planned.units)
    return keys


def _listing(found: "Sequence[Stored]") -> str:
    """Return a line for each kind, task and method, with the totals below."""
    from tabulate import tabulate

    from sweeps.watching.show import seeds_text

    alike = defaultdict[tuple[str, str, str], list["Stored"]](list)
    for each in found:
        alike[each.kind, each.task, each.method].append(each)
    rows = []
    for names, group in alike.items():
        seeds = seeds_text(sorted({each.seed for each in group if each.seed is not None}))
        rows.append((*names, len(group), seeds, _size(group), _age(min(each.age for each in group))))
    headers = ("kind", "task", "method", "stored", "of", "size", "newest")
    return f"{tabulate(rows, headers, tablefmt='plain')}\n{len(found)} artifacts, {_size(found)}"


def _size(group: "Sequence[Stored]") -> str:
    known = sum(each.bytes or 0 for each in group) / 1e6
    return f"{known:.1f} MB{'' if all(each.bytes is not None for each in group) else ' or more'}"


def _age(seconds: float) -> str:
    unit = next((unit for unit in "dhm" if seconds >= SECONDS[unit]), "m")
    return "unknown" if seconds == float("inf") else f"{seconds / SECONDS[unit]:.0f} {unit}"


def _seconds(age: str) -> float:
    found = re.fullmatch(r"(\d+)([mhd])", age.strip())
    if found is None:
        raise UserError(f"--older-than '{age}': give a number with m, h or d, as in 30d")
    return int(found.group(1)) * SECONDS[found.group(2)]
