"""What a running sweep shows: one live line a phase, with an estimate of the end.

On a terminal the lines are redrawn in place; elsewhere (a log file, CI) each phase prints a plain
line every `PLAIN_EVERY` seconds while it moves, and one when it is complete. Everything goes to
stderr, so that the table on stdout can be piped.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from cluster.units import CellUnit, Pack
from sweeps.durations import duration
from sweeps.spec.spec import Spec

__all__ = ["Phase", "ProgressLines", "relative_work", "working_order"]

PLAIN_EVERY = 15.0  # seconds between two plain lines of a phase: a log stays readable over hours
FIRST_ESTIMATE = 0.05  # share of the work below which an estimate of the end would be noise


def relative_work(pack: Pack) -> float:
    """Return how long a pack takes next to others of its kind, roughly: only estimates build on it.

    Training goes with steps and matrix products, planning with the calls of the world model one
    after another; episodes and rollouts are batch dimensions.
    """
    unit = pack.units[0]
    if not isinstance(unit, CellUnit):
        layer = unit.config["batch_size"] * unit.config["hidden_dim"] ** 2
        return float(unit.config["steps"] * len(pack.units) * layer)
    planner, world = unit.planner or {}, unit.configs.get("world_model", {})
    calls = planner.get("updates", 0) * planner.get("horizon", 0) * (world.get("denoising_steps") or 1)
    return float(1 + calls)


def working_order(packs: Iterable[Pack], spec: Spec) -> list[Pack]:
    """Return packs of components, or of cells, in the order in which they are computed.

    Task by task, so that the first can be evaluated early; within a task the longest first, so that
    no slot is idle at the end.
    """
    tasks = [task.name for task in spec.tasks]
    return sorted(packs, key=lambda pack: (tasks.index(pack.units[0].task.name), -relative_work(pack)))


@dataclass
class Phase:
    """Where a phase stands: units counted, and work, in any unit, for the estimate of its end."""

    name: str
    total: int = 0  # units, those done before this run included
    done: int = 0
    failed: int = 0
    work: float = 0.0  # of this run
    worked: float = 0.0  # of that, packs under way counted by their fraction
    started: float | None = None  # when the first of this run's work began

    def begin(self, now: float) -> None:
        """Note that work has begun, once; the estimate counts from there."""
        if self.started is None:
            self.started = now

    @property
    def ended(self) -> bool:
        """Return whether nothing is left to do."""
        return self.done + self.failed >= self.total

    def remaining(self, now: float) -> float | None:
        """Return the seconds left if the rest goes as the part so far; None while that says nothing."""
        if self.started is None or self.ended or self.worked < FIRST_ESTIMATE * self.work or self.worked <= 0:
            return None
        return (now - self.started) * max(0.0, self.work - self.worked) / self.worked

    def state(self, now: float) -> str:
        """Return what stands behind the count: failures, and the time left or taken."""
        failed = f", {self.failed} failed" if self.failed else ""
        if self.started is None:
            return ("done before" if self.ended else "waiting") + failed
        if self.ended:
            return f"done in {duration(now - self.started)}{failed}"
        left = self.remaining(now)
        return (f"about {duration(left)} left" if left is not None else "running") + failed


class ProgressLines:
    """Draws phases while it is open; a context manager.

    Args:
        console: where to draw; by default stderr.
        clock: seconds; replaced in tests.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._clock = clock
        self._live: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._printed: dict[str, tuple[float, str]] = {}  # phase → when and what was printed last
        self._closed: set[str] = set()

    def __enter__(self) -> "ProgressLines":
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description:<9}"),
                BarColumn(bar_width=30),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[state]}", style="dim"),
            )
            self._live = Progress(*columns, console=self.console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def note(self, line: str) -> None:
        """Print a line of its own above the live ones, as it is."""
        self.console.print(line, markup=False, soft_wrap=True)

    def show(self, phase: Phase) -> None:
        """Bring a phase's line up to date; cheap, call it as often as you like."""
        now = self._clock()
        if phase.total == 0 or phase.name in self._closed:
            return
        if phase.ended:
            self._closed.add(phase.name)
        if self._live is not None:
            if phase.name not in self._bars:
                self._bars[phase.name] = self._live.add_task(phase.name, total=phase.total, state="")
            self._live.update(
                self._bars[phase.name],
                completed=phase.done + phase.failed,
                total=phase.total,
                state=phase.state(now),
            )
            return
        self._print_plain(phase, now)

    def reopen(self, phase: Phase) -> None:
        """Let a phase that had ended go on: more work was planned."""
        self._closed.discard(phase.name)
        phase.started = None

    def _print_plain(self, phase: Phase, now: float) -> None:
        line = f"{phase.name}  {phase.done}/{phase.total}  {phase.state(now)}"
        last, printed = self._printed.get(phase.name, (None, ""))
        due = last is None or now - last >= PLAIN_EVERY
        if line != printed and (phase.ended or (due and phase.started is not None)):
            self._printed[phase.name] = (now, line)
            self.note(line)
