"""The command line, ``mpcwdwm``: the one module that imports all four packages.

Every command imports what it needs itself, so that ``--help`` and mistyped commands answer at once.
A user's mistake is reported in one line on stderr with exit code 2; the exit code of a sweep with
failures is 1, of an interrupted one 130.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mpcwdwm.errors import UserError
from sweeps.execution.interrupt import EXIT_CODE, interruptible

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, TaskID

    from cluster.store import Store
    from mpcwdwm.data import Task
    from sweeps.plan.plan import Plan
    from sweeps.spec.spec import Spec

__all__ = ["app", "main"]

app = typer.Typer(
    help="Adaptive MPC with a diffusion world model, against ReBRAC and IQL: sweeps, tables, datasets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
sweep_app = typer.Typer(help="Plan, run and inspect sweeps.", no_args_is_help=True, rich_markup_mode=None)
data_app = typer.Typer(help="List, fetch and check datasets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(sweep_app, name="sweep")
app.add_typer(data_app, name="data")

SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="YAML file, or a sweep's name in this folder.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a value of the YAML, as in evaluation.episodes=20."),
]
TasksOption = Annotated[str | None, typer.Option("--tasks", help="Only these tasks: names or patterns, as in a,b*.")]
SeedsOption = Annotated[str | None, typer.Option("--seeds", help="Other training seeds: 3 for 0, 1, 2, or 0,4,7.")]


def main() -> None:
    """Run the command line and exit."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        _exit(2)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(f"mpcwdwm {installed('mpcwdwm')}")
        raise typer.Exit
    warnings.filterwarnings("ignore")  # what libraries warn of and log, errors excepted
    logging.disable(logging.WARNING)


# Sweeps


@sweep_app.command("plan")
def sweep_plan(
    spec: SpecArgument, sets: SetOption = None, tasks: TasksOption = None, seeds: SeedsOption = None
) -> None:
    """Show what a sweep consists of, what is done, and how long the rest will take; start nothing."""
    from sweeps.cost.predict import predict
    from sweeps.execution.progress import duration
    from sweeps.plan.checks import check_capture
    from sweeps.reports import print_counts

    plan, store = _plan(spec, sets, tasks, seeds)
    print_counts(plan, store)
    cost = predict(plan, store)
    if cost.wall_seconds:
        check_capture(plan.spec)
        phases = [f"{name} {duration(seconds)}" for name, seconds in cost.seconds.items() if seconds]
        print(f"time        about {duration(cost.wall_seconds)} ({', '.join(phases)})")
        print(f"compute     {cost.gpu_hours:.2f} GPU-hours, {cost.cpu_hours:.2f} CPU-hours")
        print(f"disk        {cost.disk_bytes / 1e6:.1f} MB in {store.location}")
    else:
        print("nothing to do")
    for notice in (*plan.notices, *cost.notices):
        print(f"note: {notice}")


@sweep_app.command("run")
def sweep_run(
    spec: SpecArgument,
    sets: SetOption = None,
    tasks: TasksOption = None,
    seeds: SeedsOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what libraries log and workers print.")] = False,
) -> None:
    """Compute and record what is missing of a sweep and print its table; the same command continues it."""
    if verbose:
        logging.disable(logging.NOTSET)
        warnings.resetwarnings()
    try:
        with interruptible():
            from sweeps.execution.driver import run
            from sweeps.reports import print_failures

            loaded = _load(spec, sets, tasks, seeds)
            outcome = run(loaded, verbose=verbose)
            _print_table(loaded)
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        _exit(EXIT_CODE)
    print_failures(outcome)
    _exit(1 if outcome.failed else 0)


@sweep_app.command("status")
def sweep_status(
    spec: SpecArgument, sets: SetOption = None, tasks: TasksOption = None, seeds: SeedsOption = None
) -> None:
    """Show what is done, what runs and what failed."""
    from cluster.packs import missing, open_packs
    from cluster.store.lease import holder, is_held
    from sweeps.reports import print_counts

    plan, store = _plan(spec, sets, tasks, seeds)
    print_counts(plan, store)
    states = plan.states(store)
    for pack in open_packs(store):
        if not set(pack.keys).intersection(states):
            continue
        if is_held(store, pack.id):
            who = holder(store, pack.id) or {}
            place = f"pid {who.get('pid', '?')} on {who.get('host', '?')} since {who.get('started', '?')}"
        else:
            place = "interrupted, will be continued"
        for key in missing(store, pack):
            print(f"begun       {key} ({place})")
    for key, state in states.items():
        if state == "failed" and (record := store.failure(key)):
            print(f"failed      {key}: {record['error']} (log: {record['log']})")


@sweep_app.command("list")
def sweep_list() -> None:
    """Show the sweeps of this folder and how far they are."""
    from sweeps.spec.spec import list_specs

    found = list_specs(Path.cwd())
    if not found:
        print("no sweeps in this folder")
    width = max((len(name) for name, _ in found), default=0)
    for name, path in found:
        try:
            plan, store = _plan(str(path))
            states = list(plan.states(store).values())
            failed = f", {states.count('failed')} failed" if "failed" in states else ""
            state = f"{states.count('cached')} of {len(states)} done{failed}"
        except UserError as error:
            state = f"error: {error}"
        print(f"{name:<{width}}  {path.name}  {state}")


@app.command("table")
def table(spec: SpecArgument) -> None:
    """Print a sweep's comparison table and write it as Markdown and CSV."""
    from sweeps.reports import note_changes

    loaded = _load(spec)
    _print_table(loaded)
    note_changes(loaded)


@app.command("models")
def models(spec: SpecArgument) -> None:
    """Print how well a sweep's world and reward models predict held-out episodes; draw it over training."""
    from analysis.figures.drawing import rendered
    from analysis.figures.sweep import models_figure
    from analysis.models.report import build_models
    from sweeps.reports import note_changes, terminal_width, write_files

    loaded = _load(spec)
    report = build_models(loaded.tracking_uri, loaded.name)
    figure = models_figure(report)
    print(report.to_text(terminal_width()))
    drawn = rendered("models", figure) if figure else {}
    write_files(loaded, {"models.md": report.to_markdown(), "models.csv": report.to_csv(), **drawn})
    note_changes(loaded)


@app.command("figures")
def figures(spec: SpecArgument) -> None:
    """Draw how each field of a planner changes its gain, and the policies' learning curves; print the paths."""
    from analysis.figures.drawing import rendered
    from analysis.figures.sweep import sweep_figures
    from sweeps.reports import note_changes, write_files

    loaded = _load(spec)
    drawn, notes = sweep_figures(loaded.tracking_uri, loaded.name)
    for name, figure in drawn.items():
        write_files(loaded, rendered(name, figure), where=sys.stdout)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    note_changes(loaded)


@app.command("judges")
def judges(spec: SpecArgument) -> None:
    """Compare the estimates by which `step_size: auto` chooses with scores in the environment."""
    import pandas as pd

    from analysis.off_policy_evaluation import agreement, to_text
    from sweeps.plan.step_size_scores import true_and_estimated

    true, estimated = true_and_estimated(*_plan(spec))
    print(to_text(agreement(pd.DataFrame(true), pd.DataFrame(estimated))))


@app.command("bench")
def bench(
    device: Annotated[str | None, typer.Option("--device", help="cpu or cuda; by default what sweeps use.")] = None,
    threads: Annotated[int, typer.Option("--threads", help="Threads of one process.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, times in seconds.")] = False,
) -> None:
    """Measure this machine in about a minute; `sweep plan` predicts with it."""
    from sweeps.cost.bench import bench as measure
    from sweeps.cost.bench import bench_place, to_json, to_text

    place = bench_place(device, threads)
    report = measure(place, on_stage=lambda stage: print(stage, file=sys.stderr))
    print(to_json(report) if as_json else to_text(report))


# Data


@data_app.command("list")
def data_list() -> None:
    """Show the registered tasks and whether their dataset is there."""
    from mpcwdwm.data import TASKS
    from mpcwdwm.data.tasks import expected_path

    width = max(len(name) for name in TASKS)
    for task in TASKS.values():
        path = expected_path(task)
        there = str(path) if path.is_file() else f"mpcwdwm data get {task.name}"
        print(f"{task.name:<{width}}  {task.env_id:<14}  {there}{'  (not runnable yet)' if task.not_runnable else ''}")


@data_app.command("get")
def data_get(names: Annotated[list[str], typer.Argument(metavar="TASK...", help="Registered tasks.")]) -> None:
    """Download datasets into D4RL's cache folder, resuming where a download stopped."""
    from rich.progress import DownloadColumn

    from mpcwdwm.data import download, find_task

    for task in [find_task(name) for name in names]:  # all names are checked before the first byte
        with _progress(DownloadColumn()) as on_progress:
            path = download(task, on_progress=partial(on_progress, task.name))
        print(path)


@data_app.command("audit")
def data_audit(
    what: Annotated[str, typer.Argument(metavar="TASK_OR_FILE", help="A registered task, or an HDF5 file.")],
) -> None:
    """Check a dataset: episodes, returns, and what is wrong at their boundaries."""
    from mpcwdwm.data import audit, read_dataset

    path, task = _dataset(what)
    print(audit(read_dataset(path), task).render())


@data_app.command("verify")
def data_verify(
    what: Annotated[str, typer.Argument(metavar="TASK_OR_FILE", help="A registered task, or an HDF5 file.")],
    env: Annotated[str | None, typer.Option("--env", metavar="ID", help="Gymnasium id; by default the task's.")] = None,
    rows: Annotated[int, typer.Option("--rows", help="How many rows are replayed at most.")] = 5_000,
) -> None:
    """Replay rows in the environment: errors of next observation and reward; exit code 1 if they are not its rows."""
    from mpcwdwm.data.replay import recorded_env, verify

    path, task = _dataset(what)
    env_id = env or (task.env_id if task else recorded_env(path))
    if env_id is None:
        raise UserError(f"'{path}' does not name its environment: add --env, such as --env Hopper-v4")
    found = verify(path, env_id, rows=rows)
    print(found.render())
    _exit(1 if found.named else 0)


@data_app.command("collect")
def data_collect(
    env: Annotated[str, typer.Argument(metavar="ENV", help="Gymnasium id, such as Hopper-v4.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The HDF5 file to write.")],
    transitions: Annotated[int, typer.Option("--transitions", help="Transitions in the file.")],
    train_steps: Annotated[int, typer.Option("--train-steps", help="Environment steps PPO learns from.")] = 256_000,
    noise_sd: Annotated[float, typer.Option("--noise-sd", help="Standard deviation of the action noise.")] = 0.3,
    seed: Annotated[int, typer.Option("--seed", help="Random seed of training, initial states and noise.")] = 0,
    snapshots: Annotated[int, typer.Option("--snapshots", help="Policies that are recorded; 1: only the last.")] = 5,
) -> None:
    """Train PPO (needs the extra rllib) and record episodes of its snapshots as a dataset of your own."""
    try:
        with interruptible():
            from rich.progress import MofNCompleteColumn

            from cluster.collect import collect
            from mpcwdwm.data import audit, read_dataset

            with _progress(MofNCompleteColumn()) as on_progress:
                collect(
                    env,
                    out,
                    transitions=transitions,
                    train_steps=train_steps,
                    noise_sd=noise_sd,
                    seed=seed,
                    snapshots=snapshots,
                    on_progress=on_progress,
                )
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        _exit(EXIT_CODE)
    print(audit(read_dataset(out)).render())
    print(f"in a sweep: tasks: [{{name: {out.stem}, dataset: {out}, env: {env}}}]")


# Pieces


def _dataset(what: str) -> "tuple[Path, Task | None]":
    """Return the file that is meant, and the task if one is named."""
    from mpcwdwm.data import TASKS, dataset_path, find_task

    path = Path(what)
    if what not in TASKS and (path.exists() or path.suffix in (".hdf5", ".h5")):
        return path, None
    task = find_task(what)
    return dataset_path(task), task


def _load(spec: str, sets: list[str] | None = None, tasks: str | None = None, seeds: str | None = None) -> "Spec":
    from sweeps.spec.spec import load_spec

    names = None if tasks is None else [name.strip() for name in tasks.split(",") if name.strip()]
    return load_spec(spec, sets=sets or (), tasks=names, seeds=seeds)


def _plan(
    spec: str, sets: list[str] | None = None, tasks: str | None = None, seeds: str | None = None
) -> "tuple[Plan, Store]":
    from cluster.store import open_store
    from sweeps.plan.plan import build_plan

    loaded = _load(spec, sets, tasks, seeds)
    store = open_store(loaded.storage)
    return build_plan(loaded, store), store


def _print_table(spec: "Spec") -> None:
    """Print a sweep's table and write it beside its results."""
    from analysis.table.comparison import build_table
    from sweeps.reports import terminal_width, write_files

    built = build_table(spec.tracking_uri, spec.name)
    print(built.to_text(terminal_width()))
    write_files(spec, {"table.md": built.to_markdown(), "table.csv": built.to_csv()})


@contextmanager
def _progress(counts: "ProgressColumn") -> Iterator[Callable[[str, int, int | None], None]]:
    """Show a bar on stderr for each thing that is reported as under way; ``counts`` shows how much is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), counts, TimeRemainingColumn())
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        def report(what: str, done: int, total: int | None) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done, total=total)

        yield report


def _exit(code: int) -> NoReturn:
    """Exit at once: nothing is left to be written, and threads of libraries are not waited for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
