"""How commands name a sweep, and how they load it."""

from typing import TYPE_CHECKING, Annotated

import typer

from analysis.mlflow_store import check_recorded

if TYPE_CHECKING:
    from cluster.store import Store
    from sweeps.plan.plan import Plan
    from sweeps.spec.reading import Reading
    from sweeps.spec.spec import Spec

__all__ = [
    "SeedsOption",
    "SetOption",
    "SpecArgument",
    "TasksOption",
    "check_named",
    "load_named",
    "plan_named",
    "read_named",
    "recorded_named",
]

SpecArgument = Annotated[
    str,
    typer.Argument(metavar="SPEC", help="YAML file, or name of a sweep in this folder or of `mpcwdwm sweep specs`."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a value of the YAML, as in evaluation.episodes=20."),
]
TasksOption = Annotated[str | None, typer.Option("--tasks", help="Only these tasks: names or patterns, as in a,b*.")]
SeedsOption = Annotated[str | None, typer.Option("--seeds", help="Other training seeds: 3 for 0, 1, 2, or 0,4,7.")]


def load_named(spec: str, sets: list[str] | None = None, tasks: str | None = None, seeds: str | None = None) -> "Spec":
    """Return the sweep of a SPEC argument, with the options applied.

    Raises:
        UserError: there is no such sweep, or its YAML or an option is wrong.
    """
    check_named(spec, sets, tasks, seeds)
    from sweeps.spec.spec import load_spec

    return load_spec(spec, sets=sets or (), tasks=_names(tasks), seeds=seeds)


def recorded_named(
    spec: str, sets: list[str] | None = None, tasks: str | None = None, seeds: str | None = None
) -> "Spec":
    """Return the sweep of a SPEC argument that was run; raises what `load_named` raises.

    Raises:
        UserError: nothing has been recorded.
    """
    check_recorded(check_named(spec, sets, tasks, seeds).tracking_uri)
    return load_named(spec, sets, tasks, seeds)


def check_named(
    spec: str, sets: list[str] | None = None, tasks: str | None = None, seeds: str | None = None
) -> "Reading":
    """Say what is wrong with a YAML as far as it shows without torch, which takes a second or more; else return it."""
    reading = read_named(spec, sets, tasks, seeds)
    from sweeps.spec.source_checks import check_by_source
    from sweeps.spec.tasks import chosen_tasks, read_tasks

    chosen_tasks(read_tasks(reading), _names(tasks))
    check_by_source(reading.document, reading.file)
    return reading


def read_named(
    spec: str, sets: list[str] | None = None, tasks: str | None = None, seeds: str | None = None
) -> "Reading":
    """Return the YAML of a SPEC argument as far as it is read without torch; raises what `load_named` raises."""
    from sweeps.spec.reading import read_spec

    return read_spec(spec, sets=sets or (), tasks=_names(tasks), seeds=seeds)


def plan_named(
    spec: str, sets: list[str] | None = None, tasks: str | None = None, seeds: str | None = None
) -> "tuple[Plan, Store]":
    """Return the plan of a SPEC argument, and the store of its artifacts; raises what `load_named` raises."""
    loaded = load_named(spec, sets, tasks, seeds)
    from cluster.store import open_store
    from sweeps.plan.plan import build_plan

    store = open_store(loaded.storage)
    return build_plan(loaded, store), store


def _names(tasks: str | None) -> list[str] | None:
    return None if tasks is None else [name.strip() for name in tasks.split(",") if name.strip()]
