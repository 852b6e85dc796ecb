"""The command line, ``mpcwdwm``; with `sweeps.result_commands`, the one place that imports all four packages.

Every command imports what it needs itself, so that ``--help`` and mistyped commands answer at once.
A user's mistake is reported in one line on stderr with exit code 2; the exit code of a sweep with
failures is 1, or 3 if all of them are set aside, of an interrupted one 130.
"""

import errno
import logging
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpcwdwm.errors import UserError
from sweeps.data_commands import collect_dataset, data_app, dataset_named
from sweeps.execution.interrupt import EXIT_CODE, interruptible, leave, leave_if_interrupted, remember_interrupts
from sweeps.plain_text import keep_printable, open_closed_streams
from sweeps.result_commands import print_table, result_app
from sweeps.spec_argument import (
    SeedsOption,
    SetOption,
    SpecArgument,
    TasksOption,
    check_named,
    load_named,
    plan_named,
    read_named,
)
from sweeps.store_commands import store_app
from sweeps.submission import (
    SCHEDULERS,
    ClusterOption,
    DryRunOption,
    at_cluster,
    check_cluster,
    check_servers,
    check_site,
    run_options,
    submit,
)
from sweeps.watch_commands import how_far, watch_app

if TYPE_CHECKING:
    from mpcwdwm.data import Dataset

__all__ = ["app", "main"]

# one line tells all
OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.ENAMETOOLONG)
FAILED, SET_ASIDE = 1, 3  # exit codes of a sweep with failures: whether the next run tries some again

app = typer.Typer(
    help="Adaptive MPC with a diffusion world model, against ReBRAC and IQL: sweeps, tables, datasets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
sweep_app = typer.Typer(help="Plan, run and inspect sweeps.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(sweep_app, name="sweep")
sweep_app.add_typer(watch_app)
app.add_typer(result_app)
app.add_typer(data_app, name="data")
app.add_typer(store_app, name="store")


def main() -> None:
    """Run the command line and exit."""
    remember_interrupts()
    open_closed_streams()
    keep_printable(sys.stdout, sys.stderr)
    try:
        Path.cwd()
    except OSError:
        _end("the working folder was removed: change to another one")
    try:
        Path.home()  # which libraries take for granted
    except RuntimeError:
        _end(f"user {os.getuid()} has no home folder: set HOME to a folder that can be written, such as HOME=/tmp/home")
    try:
        app()
    except UserError as error:
        _end(str(error))
    except UnicodeEncodeError as error:  # of a path: what is printed is never refused
        _end(f"the locale's encoding, {error.encoding}, has no such file names: set LC_ALL=C.UTF-8 or PYTHONUTF8=1")
    except OSError as error:
        if error.errno not in OF_THE_MACHINE:
            raise
        where = f": {error.filename}" if error.filename else ""
        _end(f"{error.strerror}{where}")
    except (Exception, KeyboardInterrupt):
        leave_if_interrupted()
        raise


def _end(line: str) -> None:
    """Leave with a line and the exit code of a mistake."""
    leave_if_interrupted()
    with suppress(OSError):  # a full disk, perhaps, that takes neither
        print(f"error: {line}", file=sys.stderr, flush=True)
    leave(2)


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
    plan, store = plan_named(spec, sets, tasks, seeds)
    from sweeps.cost.predict import predict
    from sweeps.durations import duration
    from sweeps.plan.checks import check_capture
    from sweeps.plan.gpus import gpus_here
    from sweeps.reports import print_counts

    print_counts(plan, store)
    cost = predict(plan, store)
    if cost.wall_seconds:
        check_capture(plan.spec, gpus_here(plan.spec.resources))
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
    cluster: ClusterOption = None,
    dry_run: DryRunOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what libraries log and workers print.")] = False,
) -> None:
    """Compute and record what is missing of a sweep and print its table; the same command continues it."""
    check_cluster(cluster, dry_run=dry_run)
    if verbose:
        logging.disable(logging.NOTSET)
        warnings.resetwarnings()
    try:
        with interruptible():
            from sweeps.reports import print_failures, print_places

            if cluster in SCHEDULERS:
                check_site(check_named(spec, sets, tasks, seeds), cluster, dry_run=dry_run)
            else:
                reading = read_named(spec, sets, tasks, seeds)
                print_places(reading)
                check_servers(reading, cluster)
            loaded = at_cluster(load_named(spec, sets, tasks, seeds), cluster)
            if cluster in SCHEDULERS:
                submit(loaded, cluster, spec, run_options(sets, tasks, seeds), dry_run=dry_run)
                return
            from sweeps.execution.driver import run

            outcome = run(loaded, verbose=verbose)
            print_table(loaded, computed=bool(outcome.trained or outcome.evaluated))
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        leave(EXIT_CODE)
    print_failures(outcome)
    tried_again = set(outcome.failed) - outcome.set_aside
    leave(FAILED if tried_again else SET_ASIDE if outcome.failed else 0)


@sweep_app.command("list")
def sweep_list() -> None:
    """Show the sweeps of this folder, those that come with mpcwdwm and were run here included, and how far they are."""
    from sweeps.spec.names import list_specs, packaged_in_use

    here = list_specs(Path.cwd())
    found = [(name, path.name, str(path)) for name, path in here]
    found += [(name, "comes with mpcwdwm", name) for name in packaged_in_use(Path.cwd()) if name not in dict(here)]
    if not found:
        print("no sweeps in this folder; `mpcwdwm sweep specs` lists those that come with mpcwdwm")
    width = max((len(name) for name, *_ in found), default=0)
    for name, source, given in found:
        try:
            state = how_far(given)
        except UserError as error:
            state = f"error: {error}"
        print(f"{name:<{width}}  {source}  {state}")


@sweep_app.command("specs")
def sweep_specs() -> None:
    """Show the sweeps that come with mpcwdwm, with their tasks and cells; every command takes their names."""
    from sweeps.plan.plan import count_cells
    from sweeps.spec.names import packaged_specs

    loaded = [load_named(name) for name, _ in packaged_specs()]
    width = max(len(spec.name) for spec in loaded)
    for spec in loaded:
        print(f"{spec.name:<{width}}  {len(spec.tasks):>2} tasks  {count_cells(spec):>5} cells  {spec.description}")


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


@data_app.command("audit")
def data_audit(
    what: Annotated[str, typer.Argument(metavar="TASK_OR_FILE", help="A registered task, or an HDF5 or NPZ file.")],
    draw: Annotated[
        Path | None, typer.Option("--draw", metavar="FOLDER", help="Draw returns, lengths and coverage into a folder.")
    ] = None,
    env: Annotated[
        str | None,
        typer.Option("--env", metavar="ID", help="Gymnasium id of a file's environment: terminals follow its rule."),
    ] = None,
) -> None:
    """Check a dataset: episodes, returns, and what is wrong at their boundaries."""
    from mpcwdwm.data import audit, read_dataset
    from mpcwdwm.data.verify import recorded_env

    path, task = dataset_named(what, env)
    dataset = read_dataset(path)
    print(audit(dataset, task).render())
    if draw is None:
        return
    env_id = task.env_id if task else recorded_env(path) or path.stem
    for drawn in _draw(dataset, env_id, draw, task.name if task else path.stem):
        print(drawn)


@data_app.command("collect")
def data_collect(
    env: Annotated[str, typer.Argument(metavar="ENV", help="Gymnasium id, such as Hopper-v4, or a maze's task.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The HDF5 file to write.")],
    kind: Annotated[
        str | None,
        typer.Option(help="random, medium, medium-replay, medium-expert, expert or full-replay; in mazes none."),
    ] = None,
    transitions: Annotated[
        int | None, typer.Option(help="Rows in the file; by default 1,000,000 (medium-expert: 2,000,000).")
    ] = None,
    algorithm: Annotated[str, typer.Option(help="What RLlib trains: ppo or sac.")] = "ppo",
    train_steps: Annotated[int, typer.Option(help="Environment steps of training.")] = 1_000_000,
    snapshots: Annotated[int, typer.Option(help="Policies kept in training, from which medium is chosen.")] = 20,
    seed: Annotated[int, typer.Option(help="Random seed of training, starting states and noise.")] = 0,
    training: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Of the training run; by default beside the file.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Pieces rolled at a time; by default one for each CPU.")] = None,
    noise_sd: Annotated[
        float | None, typer.Option(help="In mazes: standard deviation of the action noise; by default D4RL's.")
    ] = None,
    goal_share: Annotated[
        float | None,
        typer.Option(help="In AntMaze: share of episodes that head for the rewarded goal; by default 0.6."),
    ] = None,
) -> None:
    """Record a dataset of your own of one of D4RL's kinds (needs the extra rllib); in mazes by planners."""
    from mpcwdwm.data import TASKS, audit, read_dataset

    env_id = TASKS[env].env_id if env in TASKS else env
    collect_dataset(
        env_id,
        out,
        kind=kind,
        training=training,
        transitions=transitions,
        noise_sd=noise_sd,
        goal_share=goal_share,
        workers=workers,
        algorithm=algorithm,
        steps=train_steps,
        snapshots=snapshots,
        seed=seed,
    )
    dataset = read_dataset(out)
    print(audit(dataset).render())
    print(*_draw(dataset, env_id, out.parent, out.stem, ".png"))
    print(f"in a sweep: tasks: [{{name: {out.stem}, dataset: {out}, env: {env_id}}}]")


# Pieces


def _draw(dataset: "Dataset", env_id: str, folder: Path, name: str, only: str = "") -> list[Path]:
    """Draw a dataset into a folder and return the files, of one suffix if one is given."""
    from analysis.figures.dataset import dataset_figure
    from analysis.figures.drawing import rendered

    figure = dataset_figure(dataset, places="maze" in env_id.lower(), name=name)
    drawn = {folder / file: content for file, content in rendered(name, figure).items() if file.endswith(only)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in drawn.items():
            path.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write into '{folder}': {error.strerror}") from None
    return list(drawn)
