"""Pretraining: ours against d3rlpy's and JAX's, and five seeds stacked against five one after the other.

    python tests/benchmarks/pretraining.py            # `make bench-peers` once before, for the comparison with peers

Both sides learn from the same 50,000 transitions, with the same networks, batch size and updates: ReBRAC with three
hidden layers of 256 and layer norm in the critics only (d3rlpy's own default is two layers and none), the actor
and the targets updated on every second step; IQL with two hidden layers of 256 and a state-independent standard
deviation; observations standardised, Adam, one process, one thread. Drawing the batch counts on both sides; logs,
checkpoints and progress bars on neither. d3rlpy draws batches row by row in Python, so its time is also shown
for *updates alone*, on batches drawn beforehand: ours still draws its own there. Ours is what `compute: {capture:
auto}` chooses for a million updates; if that is compiled, eager updates are timed beside it (on a GPU "eager"
stands for replayed graphs). Compilation is not counted, and happens in a process that compiles nothing else,
as a fresh worker does. Stacking is compared eagerly.

JAX's side is ReBRAC alone: our own transcription, one compiled program that also draws the batches, for one seed and
for five (`pretraining_jax.py`). It is held against ten recorded updates of the authors' code before timing, on which
ours is tested, too. Five seeds compiled are timed beside it.

The parameters and the optimizers' steps are compared before timing. The sides work in turn, in slices of equal
length; d3rlpy runs in an environment of its own, in a process that works when told to on stdin. On the processor the
clock counts processor seconds: those of an idle machine also where others use it. A ratio is the median
over rounds of the two slices of a round. The last lines are ``RATIO name value``; above 1 we are faster.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpcwdwm.components import component_config
from mpcwdwm.components.registry import COMPONENTS
from mpcwdwm.data import Dataset, dataset_path, find_task, read_dataset
from mpcwdwm.nn.compute import execution_of
from mpcwdwm.nn.compute_config import ComputeConfig
from mpcwdwm.training.loop import Training

TASK = "hopper-medium-replay-mini-ppo-v0"
WIDTH = 256
SEEDS = 5
ENDLESS = 10**9  # updates of a training that is only timed
CHECKED_UPDATES = 10  # after which both sides' optimizer steps are compared
WARM_UP_SECONDS = 1.0  # and at least WARM_UP_UPDATES: allocations, compilation, captured graphs
WARM_UP_UPDATES = 4
PORTIONS = 8  # of a slice: how often the clock is looked at
PEER_PYTHON = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"
PEER_SCRIPT = Path(__file__).with_name("pretraining_peer.py")
JAX_SCRIPT = Path(__file__).with_name("pretraining_jax.py")
RECORDED = Path(__file__).parents[1] / "oracles" / "rebrac_updates.npz"
MOST_DEVIATION = 5e-5  # from the recorded updates, as in tests/mpcwdwm/components/test_oracles.py


@dataclass(frozen=True)
class Case:
    algorithm: str
    layers: int
    batch: int

    @property
    def name(self) -> str:
        return f"{self.algorithm}_b{self.batch}"

    def __str__(self) -> str:
        return f"{self.algorithm} {self.layers} × {WIDTH} batch {self.batch}"


STACKED, SEQUENTIAL = f"{SEEDS} seeds stacked", f"{SEEDS} seeds one after the other"
COMPILED_STACKED, JAX_STACKED = f"{SEEDS} seeds compiled", f"jax, {SEEDS} seeds"
CASES = [Case("rebrac", 3, 256), Case("rebrac", 3, 1024), Case("iql", 2, 256)]


# ------------------------------------------------------------------------------------------- the sides


class Ours:
    """Trainings that advance one after the other: one with all seeds stacked, or one per seed."""

    def __init__(
        self, case: Case, dataset: Dataset, members: Iterable[Iterable[int]], device: str, capture: Any
    ) -> None:
        compute = ComputeConfig(capture=capture)
        fields = {"hidden_dim": WIDTH, "hidden_layers": case.layers, "batch_size": case.batch, "steps": ENDLESS}
        config = component_config(case.algorithm, {}, fields)
        self.trainings = [
            Training(case.algorithm, config, dataset, list(seeds), device=device, compute=compute) for seeds in members
        ]
        self.device = device
        self.clock = time.process_time if device == "cpu" else time.perf_counter

    def advance(self, updates: int) -> float:
        """Do so many updates of every training and return the seconds."""
        started = self.clock()
        for training in self.trainings:
            training.run(until=training.step + updates)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return self.clock() - started

    def warm_up(self, seconds: float) -> None:
        """Work until the first updates' cost is behind, and choose how many updates a portion of a slice has."""
        spent = self.advance(WARM_UP_UPDATES)
        while spent < WARM_UP_SECONDS:
            spent += self.advance(WARM_UP_UPDATES)
        each = self.advance(WARM_UP_UPDATES) / WARM_UP_UPDATES
        self.portion = max(2, 2 * round(seconds / PORTIONS / each / 2))  # even: an actor update on every second

    def rate(self, seconds: float) -> float:
        """Return updates per second, each one of every seed, in a slice of about so many seconds."""
        updates, elapsed = 0, 0.0
        while elapsed < seconds:
            elapsed += self.advance(self.portion)
            updates += self.portion
        return updates / elapsed

    def parameters(self) -> int:
        (training,) = self.trainings
        return sum(p.numel() for o in training.part.optimizers.values() for g in o.param_groups for p in g["params"])

    def steps(self) -> dict[str, int]:
        """Return the optimizers' steps; a value's optimizer has those of the critic's in d3rlpy."""
        (training,) = self.trainings
        states = {name: o.state_dict()["state"].values() for name, o in training.part.optimizers.items()}
        done = {name: max(int(state["step"]) for state in each) for name, each in states.items()}
        assert done.pop("value", done["critic"]) == done["critic"]
        return done


class Apart:
    """A side in a process of its own: d3rlpy, or our compiled updates."""

    def __init__(self, command: list[str | Path], device: str) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.device = device

    def ask(self, do: str, name: str, **more: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, "name": name, **more}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"error: {self.process.args} ended; see what it says when started by hand")
        return json.loads(answer)

    def make(self, case: Case, data: Path, seconds: float, seeds: int = 1) -> dict[str, Any]:
        shape = {"algorithm": case.algorithm, "layers": case.layers, "width": WIDTH, "batch": case.batch}
        shape |= {"seeds": seeds, "slice": seconds, "data": str(data), "device": self.device}
        return self.ask("make", f"{case.name}_{seeds}", **shape)

    def rate(self, case: Case, seconds: float, seeds: int = 1, *, sampling: bool = True) -> float:
        done = self.ask("run", f"{case.name}_{seeds}", seconds=seconds, sampling=sampling)
        return done["updates"] / done["seconds"]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(dataset: Dataset) -> None:
    """Obey the commands `pretraining_peer.py` knows, with our compiled updates."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    made: dict[str, Ours] = {}
    for line in sys.stdin:
        command = json.loads(line)
        name, answer = command["name"], {}
        if command["do"] == "make":
            case = Case(command["algorithm"], command["layers"], command["batch"])
            made[name] = Ours(case, dataset, [range(command["seeds"])], "cpu", "compile")
            made[name].warm_up(command["slice"])
        else:
            answer = {"updates": made[name].rate(command["seconds"]), "seconds": 1.0}
        print(json.dumps(answer), file=out, flush=True)


def check_same_work(case: Case, peer: Apart, known: dict[str, Any], dataset: Dataset) -> None:
    """Exit unless both sides adjust as many numbers, in as many optimizer steps, from as many transitions."""
    ours = Ours(case, dataset, [[0]], "cpu", "eager")
    ours.advance(CHECKED_UPDATES)
    done = 0
    while done < CHECKED_UPDATES:
        done += peer.ask("run", f"{case.name}_1", seconds=0.0001, sampling=True)["updates"]
    theirs, mine = peer.ask("steps", f"{case.name}_1"), ours.steps()
    assert known["threads"] == torch.get_num_threads() == 1
    assert known["parameters"] == ours.parameters(), (known["parameters"], ours.parameters())
    # the last row of an episode without a true terminal has no successor, and is learnt from on neither side
    usable = int((dataset.has_next_action | dataset.terminal).sum())
    assert known["transitions"] == usable, (known["transitions"], usable)
    share = {name: theirs[name] / done for name in theirs}
    assert {name: mine[name] / CHECKED_UPDATES for name in mine} == share, (mine, theirs)


# --------------------------------------------------------------------------------------------- timing


def in_turn(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return each side's rates, one per round; all sides have their slice in every round."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, rate in sides.items():
            rates[name].append(rate())
    return rates


def shown(rates: list[float]) -> str:
    return f"{statistics.median(rates):7.1f} [{min(rates):.1f}, {max(rates):.1f}]"


def ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def save_arrays(dataset: Dataset, path: Path) -> None:
    """Write what all sides learn from, for the peers' processes."""
    fields = ("obs", "action", "reward", "terminal", "timeout")
    usable = np.flatnonzero(dataset.has_next_action | dataset.terminal)
    np.savez(path, **{name: getattr(dataset, name) for name in fields}, usable=usable)


def check_jax(jax: Apart, known: dict[str, Any], case: Case, dataset: Dataset) -> None:
    """Exit unless JAX's side updates as the authors' code does, and adjusts as many numbers as ours."""
    deviation = jax.ask("check", "", vectors=str(RECORDED))["deviation"]
    assert deviation <= MOST_DEVIATION, deviation
    assert known["parameters"] == Ours(case, dataset, [[0]], "cpu", "eager").parameters()


def main() -> None:
    parser = argparse.ArgumentParser(description="Pretraining against d3rlpy and JAX, and stacked seeds.")
    parser.add_argument("--peer", type=Path, default=PEER_PYTHON, help="python of the environment with d3rlpy and JAX")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.8, help="length of a slice")
    parser.add_argument("--serve", action="store_true", help="be the side that compiles: commands on stdin")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = read_dataset(dataset_path(find_task(TASK)))
    if arguments.serve:
        serve(dataset)
        return
    ratios = list[tuple[str, float]]()
    peer = Apart([arguments.peer, PEER_SCRIPT], arguments.device) if arguments.peer.exists() else None
    beside = JAX_SCRIPT if arguments.device == "cpu" else None
    jax = Apart([arguments.peer, beside], arguments.device) if beside and arguments.peer.exists() else None
    device = "1 thread" if arguments.device == "cpu" else torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {device}; updates per second: median [min, max] of {arguments.rounds} slices")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        save_arrays(dataset, data)
        for case in CASES:
            rates = measured(case, dataset, data, peer, jax, arguments)
            print(f"{case}")
            print("".join(f"  {name:<36}{shown(each)}\n" for name, each in rates.items()), end="", flush=True)
            best = "compiled" if "compiled" in rates else "eager"
            ratios += [
                (f"pretraining_{name}_{case.name}", ratio(rates[one], rates[other]))
                for name, one, other in (
                    ("vs_d3rlpy", best, "d3rlpy"),
                    ("vs_d3rlpy_updates_alone", best, "d3rlpy, updates alone"),
                    ("eager_vs_d3rlpy", "eager", "d3rlpy"),
                    (f"stacked_{SEEDS}", STACKED, SEQUENTIAL),
                    ("vs_jax", best, "jax"),
                    (f"vs_jax_{SEEDS}_seeds", COMPILED_STACKED, JAX_STACKED),
                )
                if other in rates
            ]
    if peer is None:
        print(f"without peers: {arguments.peer} is missing; `make bench-peers` makes it")
    for side in (peer, jax):
        if side is not None:
            side.close()
    for name, value in ratios:
        print(f"RATIO {name} {value:.2f}")


def measured(
    case: Case, dataset: Dataset, data: Path, peer: Apart | None, jax: Apart | None, arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """Return side → its updates per second, round by round."""
    seconds, device = arguments.seconds, arguments.device
    uncompiled = execution_of(ComputeConfig(), device)
    sides: dict[str, Callable[[], float]] = {}
    apart = list[Apart]()
    pays = COMPONENTS[case.algorithm].compile_pays
    if execution_of(ComputeConfig(), device, updates=1_000_000, compile_pays=pays) == "compile":
        for name, seeds in (("compiled", 1), (COMPILED_STACKED, SEEDS)):
            side = Apart([sys.executable, Path(__file__), "--serve"], device)
            side.make(case, data, seconds, seeds)
            sides[name] = partial(side.rate, case, seconds, seeds)
            apart.append(side)
    if jax is not None and case.algorithm == "rebrac":
        check_jax(jax, jax.make(case, data, seconds), case, dataset)
        sides["jax"] = lambda: jax.rate(case, seconds)
        jax.make(case, data, seconds, SEEDS)
        sides[JAX_STACKED] = lambda: jax.rate(case, seconds, SEEDS)
    ours = {
        "eager": Ours(case, dataset, [[0]], device, uncompiled),
        STACKED: Ours(case, dataset, [range(SEEDS)], device, uncompiled),
        SEQUENTIAL: Ours(case, dataset, [[seed] for seed in range(SEEDS)], device, uncompiled),
    }
    for name, side in ours.items():
        side.warm_up(seconds)
        sides[name] = lambda side=side: side.rate(seconds)
    if peer is not None:
        check_same_work(case, peer, peer.make(case, data, seconds), dataset)
        peer.rate(case, WARM_UP_SECONDS, sampling=False)
        sides["d3rlpy"] = lambda: peer.rate(case, seconds)
        sides["d3rlpy, updates alone"] = lambda: peer.rate(case, seconds, sampling=False)
    rates = in_turn(sides, arguments.rounds)
    for side in apart:
        side.close()
    return rates


if __name__ == "__main__":
    main()
