"""`mpcwdwm bench`: measures this machine in under a minute, for its user and for `sweep plan`.

The speed of single processes is measured by `sweeps.cost.speed` and stored where `sweep plan` finds it. Measured only
here is what takes too long for a plan: how much processes slow each other down, and the time around the work, taken
from a sweep with next to no work.
"""

import contextlib
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cluster.provenance import cores
from mpcwdwm.components import COMPONENTS, component_config
from mpcwdwm.data.tasks import ROBOTS
from mpcwdwm.errors import UserError
from mpcwdwm.nn.compute import uncompiled_on
from mpcwdwm.nn.compute_config import ComputeConfig
from mpcwdwm.planning import planner_config
from sweeps.cost import speed
from sweeps.cost.machine import PLANNING, PLAYING, Crowding, Machine, remember_machine
from sweeps.cost.works import Acts, Cost, Place, Updates

__all__ = ["Report", "bench", "bench_place", "keep_busy", "to_json", "to_text"]

BUDGET_SECONDS = 60.0  # what is not begun by then is left out; an idle machine with two cores needs fifty
DIMS = (11, 3)  # of Hopper: (obs_dim, act_dim)
SEEDS = (1, 5)  # stacked
PLANS = [(1, 1, 5), (1, 5, 5), (5, 5, 5)]  # E, H, K
ROLLOUTS = (8, 64)  # M
EPISODES = (1, 10)
MOST_BESIDE = 7  # processes started to crowd the machine; the effect of more is extrapolated
CROWDING = "rebrac", 5  # the component they train, and with how many seeds: the longest part of a sweep
CROWDED = ("rebrac", "iql", "world_model")  # components timed beside them, a seed each; others take the mean
CROWDED_ENV = "Hopper-v4"
PLANNED_WITH = ("rebrac", "world_model", "reward")
CROWDED_PLAN = {"kind": "policy", "horizon": 1, "rollouts": 8}
COMMAND = [sys.executable, "-c", "from sweeps.cli import main; main()"]
EMPTY_SWEEP = """
name: empty
tasks: [hopper-medium-replay-mini-ppo-v0]
seeds: 1
components:
  rebrac: {steps: 2, hidden_dim: 8, batch_size: 8, evaluations: 1, eval_episodes: 0}
  iql: {steps: 2, hidden_dim: 8, batch_size: 8, evaluations: 1, eval_episodes: 0}
  bc: {steps: 2, hidden_dim: 8, batch_size: 8, evaluations: 1, eval_episodes: 0}
baselines: [rebrac, iql, bc]
evaluation: {episodes: 1}
resources: {concurrency: 1, actor: {cpus: 1, gpus: 0}, trial: {cpus: 1, gpus: 0}}
"""


@dataclass
class Report:
    """What was measured; every time in seconds."""

    machine: dict[str, Any]
    environments: dict[str, Cost] = field(default_factory=dict)  # Gymnasium id → of one environment
    acting: Cost | None = None  # ten episodes' policy, without a planner
    updates: dict[str, dict[int, Cost]] = field(default_factory=dict)  # component → seeds stacked → cost
    planning: list[tuple[dict[str, int], Cost]] = field(default_factory=list)  # E, H, K, M, episodes
    around: Machine = field(default_factory=Machine)  # the work of a sweep
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0  # that the measuring took


def bench_place(device: str | None, threads: int) -> Place:
    """Return where to measure, by default where a sweep would run.

    Raises:
        UserError: there is no such device, or not so many cores.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda"):
        raise UserError(f"--device '{device}': give cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here; leave the option out to measure the processor")
    if not 1 <= threads <= cores():
        raise UserError(f"--threads {threads}: this machine has {cores()} cores, give 1 to {cores()}")
    return Place(device, threads)


def bench(
    place: Place, on_stage: Callable[[str], None] = lambda stage: None, clock: Callable[[], float] = time.monotonic
) -> Report:
    """Measure this machine anew, and store it for `sweep plan`.

    Args:
        place: device and threads of one process.
        on_stage: told what is measured next.
        clock: seconds, to keep to `BUDGET_SECONDS`.
    """
    report, started = Report(describe(place)), clock()
    for name, stage in _stages(report, place):
        on_stage(name)
        if clock() - started > BUDGET_SECONDS:
            report.skipped.append(name)
            continue
        stage()
    report.seconds = clock() - started
    remember_machine(place, report.around)
    return report


def _stages(report: Report, place: Place) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield what there is to measure, what predictions gain most from first."""
    parts = {name: component_config(name, {}, {}) for name in COMPONENTS.own}

    def environments() -> None:
        for robot in ROBOTS:
            report.environments[f"{robot}-v4"] = speed.env_cost(f"{robot}-v4", anew=True)
        frozen = Acts(None, {"rebrac": parts["rebrac"]}, "rebrac", DIMS, 1, EPISODES[-1])
        report.acting = speed.act_cost(frozen, place, anew=True)

    def updates(name: str) -> None:
        works = {seeds: Updates(name, parts[name], DIMS, seeds, _uncompiled(place.device)) for seeds in SEEDS}
        report.updates[name] = {seeds: speed.update_cost(work, place, anew=True) for seeds, work in works.items()}

    def planning(e: int, h: int, k: int) -> None:
        models = {**parts, "world_model": component_config("world_model", {}, {"denoising_steps": k})}
        used = {name: models[name] for name in PLANNED_WITH}
        for m, episodes in itertools.product(ROLLOUTS, EPISODES):
            planner = planner_config({"kind": "policy", "horizon": h, "rollouts": m, "updates": e})
            cost = speed.act_cost(Acts(planner, used, "rebrac", DIMS, 1, episodes), place, anew=True)
            report.planning.append(({"E": e, "H": h, "K": k, "M": m, "episodes": episodes}, cost))

    def side_by_side() -> None:
        report.around = replace(report.around, crowding=crowding(place))

    def around() -> None:
        report.around = replace(empty_sweep() or Machine(), crowding=report.around.crowding)

    yield "environments", environments
    for name in COMPONENTS.own:
        yield f"updates of {name}", partial(updates, name)
    for plan in PLANS:
        yield f"planning, E H K = {plan}", partial(planning, *plan)
    yield "processes side by side", side_by_side
    yield "a sweep without work", around


def describe(place: Place) -> dict[str, Any]:
    """Return what this machine is."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "threads": place.threads,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "device": place.device,
        "torch": torch.__version__,
    }


def _processor() -> str:
    with contextlib.suppress(OSError):  # Linux only
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# Side by side


def keep_busy(device: str, threads: int) -> None:
    """Train until killed; a line on stdout says when the first updates are done."""
    torch.set_num_threads(threads)
    component, seeds = CROWDING
    work = Updates(component, component_config(component, {}, {}), DIMS, seeds, _uncompiled(device))
    training = speed.endless(work, device)
    training.run(until=2)
    print("ready", flush=True)
    while True:
        training.run(until=training.step + 2)


def _uncompiled(device: str) -> ComputeConfig:
    """Return how work is run here by default, never compiled: that alone would take the minute."""
    return ComputeConfig(capture=uncompiled_on(device))


def crowding(place: Place) -> Crowding:
    """Return how much longer each kind of work takes with the other cores at work."""
    beside = min(MOST_BESIDE, cores() // place.threads - 1)
    if beside < 1:
        return Crowding()
    compute = _uncompiled(place.device)
    configs = {name: component_config(name, {}, {}) for name in {*CROWDED, *PLANNED_WITH}}
    updates = {name: Updates(name, configs[name], DIMS, 1, compute) for name in CROWDED}
    used = {name: configs[name] for name in PLANNED_WITH}
    plan = Acts(planner_config(CROWDED_PLAN), used, "rebrac", DIMS, 1, EPISODES[-1], compute)
    alone = {name: speed.update_cost(work, place) for name, work in updates.items()}
    alone |= {PLANNING: speed.act_cost(plan, place), PLAYING: speed.env_cost(CROWDED_ENV)}
    with _others(beside, place), place.taken():
        together = {name: speed.time_updates(work, place) for name, work in updates.items()}
        together |= {PLANNING: speed.time_acts(plan, place), PLAYING: speed.time_env(CROWDED_ENV)}
    return Crowding(beside, {kind: together[kind].step / alone[kind].step for kind in alone})


@contextlib.contextmanager
def _others(count: int, place: Place) -> Iterator[None]:
    """Have so many other processes work within the block."""
    script = f"from sweeps.cost.bench import keep_busy; keep_busy({place.device!r}, {place.threads})"
    capped = {**os.environ, "OMP_NUM_THREADS": str(place.threads)}
    others = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=capped)
        for _ in range(count)
    ]
    try:
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()
        yield
    finally:
        for other in others:
            other.kill()
            other.communicate()


# Around the work


def empty_sweep() -> Machine | None:
    """Run a sweep with next to no work in a folder of its own, and return the times around the work."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "empty.yaml").write_text(EMPTY_SWEEP, encoding="utf-8")
        started = time.time()
        ended = subprocess.run([*COMMAND, "sweep", "run", "empty.yaml"], cwd=folder, capture_output=True, check=False)
        seconds = time.time() - started
        return times_around(Path(folder) / "runs", started, started + seconds) if ended.returncode == 0 else None


def times_around(store: Path, started: float, ended: float) -> Machine:
    """Return the times around the work of a finished sweep of one process, from when its files were written."""

    def published(kind: str) -> list[tuple[float, float]]:  # when, and the seconds of work before
        manifests = list((store / kind).glob("*/manifest.json"))
        return sorted(
            (each.stat().st_mtime, json.loads(each.read_text(encoding="utf-8"))["seconds"]) for each in manifests
        )

    components, results = published("components"), published("results")
    every = [*itertools.pairwise(components), *itertools.pairwise(results)]
    gaps = [max(0.0, b - a - work) for (a, _), (b, work) in every]
    return Machine(
        start=components[0][0] - components[0][1] - started,
        trial=max(0.0, results[0][0] - results[0][1] - components[-1][0]),
        pack=sum(gaps) / len(gaps),
        end=ended - results[-1][0],
    )


# The report


def to_json(report: Report) -> str:
    """Return everything that was measured, in seconds."""
    plain = asdict(report)
    plain["planning"] = [{**shape, **asdict(cost)} for shape, cost in report.planning]
    return json.dumps(plain, indent=1)


def to_text(report: Report) -> str:
    """Return the report as a table."""
    facts = report.machine
    threads = f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''} a process"
    lines = [
        f"machine      {facts['processor']}, {facts['cores']} cores, {threads}",
        f"device       {facts['device']}, GPU: {facts['gpu'] or 'none'}, torch {facts['torch']}",
    ]
    if report.updates:
        lines += ["", f"{'updates/s':<14}" + "".join(f"{f'{n} seed' + 's' * (n > 1):>10}" for n in SEEDS)]
        for name, costs in report.updates.items():
            lines += [f"  {name:<12}" + "".join(f"{1 / costs[seeds].step:10.1f}" for seeds in SEEDS)]
        slow = max(cost.first for costs in report.updates.values() for cost in costs.values())
        lines += [f"  first updates: up to {slow:.1f} s besides, once a process"]
    if report.planning:
        columns = [(m, episodes) for m in ROLLOUTS for episodes in EPISODES]
        cells = {tuple(shape.values()): cost.step for shape, cost in report.planning}
        lines += ["", f"{'ms a planned step':<18}" + "".join(f"{f'M {m}, {n} ep.':>14}" for m, n in columns)]
        for e, h, k in PLANS:
            found = [cells.get((e, h, k, *column)) for column in columns]
            shown = "".join(f"{'–' if each is None else f'{1000 * each:.1f}':>14}" for each in found)
            lines += [f"  E {e}, H {h}, K {k}".ljust(18) + shown]
    if report.environments:
        lines += ["", "environment steps/s"]
        lines += [f"  {name:<16}{1 / cost.step:10.0f}" for name, cost in report.environments.items()]
    if report.acting is not None:
        lines += [f"  policy of {EPISODES[-1]} episodes, without a planner: {1000 * report.acting.step:.2f} ms a step"]
    around = report.around
    lines += [
        "",
        f"a sweep      {around.start:.1f} s to the first update, {around.trial:.1f} s from training to cells,"
        f" {around.pack:.2f} s a pack, {around.end:.1f} s to the table",
    ]
    if around.crowding.factors:
        factors = ", ".join(f"{kind} {factor:.2f}" for kind, factor in around.crowding.factors.items())
        lines += [f"side by side {1 + around.crowding.beside} processes, time over that of one alone: {factors}"]
    lines += [f"left out, the machine is too slow or too busy: {name}" for name in report.skipped]
    return "\n".join([*lines, f"measured in {report.seconds:.0f} s; `mpcwdwm sweep plan` uses it"])
