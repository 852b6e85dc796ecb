"""How far a run is: the work of each phase, settled and under way, drawn as one line a phase."""

import time
from collections.abc import Collection, Iterable, Mapping

from cluster.ray.attempts import Heard
from cluster.units import KINDS, Kind, Pack
from sweeps.execution.progress import Phase, ProgressLines, relative_work
from sweeps.watching.run_report import PhaseReport

__all__ = ["Meter"]

DRAW_EVERY = 1.0  # seconds between two questions for the actors' progress


class Meter:
    """Counts units and work, and draws them.

    Args:
        lines: where to draw.
    """

    def __init__(self, lines: ProgressLines) -> None:
        self.lines = lines
        self.phases = dict(zip(KINDS, (Phase("pretrain"), Phase("evaluate")), strict=True))
        self._settled = dict.fromkeys(self.phases, 0.0)
        self._told: set[str] = set()  # messages shown once
        self._drawn = 0.0

    def plan(self, kind: Kind, total: int, done: int) -> None:
        """Note how many units of a kind there are and how many are published; more than before reopens a line."""
        phase = self.phases[kind]
        if 0 < phase.total < total:
            self.lines.reopen(phase)
        phase.total, phase.done = total, done

    def expect(self, kind: Kind, packs: Iterable[Pack]) -> None:
        """Note the work of a phase."""
        self._settled[kind] = 0.0
        self.phases[kind].work = sum(relative_work(pack) for pack in packs)

    def advance(self, pack: Pack) -> None:
        """Count a pack as done."""
        self.phases[pack.kind].begin(time.monotonic())
        self._settled[pack.kind] += relative_work(pack)

    def due(self) -> bool:
        """Return whether it is time to draw again."""
        return time.monotonic() - self._drawn >= DRAW_EVERY

    def draw(
        self,
        done: Mapping[Kind, Collection[str]],
        failed: Mapping[Kind, int],
        heard: Mapping[Kind, Mapping[str, Heard]],
        running: Mapping[str, Pack],
    ) -> None:
        """Bring both lines up to date.

        Args:
            done: kind → keys of the units that are published.
            failed: kind → how many units have failed.
            heard: kind → pack id → the fraction of it that is done, and a note for the user, shown once.
            running: pack id → pack.
        """
        self._drawn = time.monotonic()
        notes = {note for packs in heard.values() for _, note in packs.values() if note}
        for message in notes - self._told:
            self._told.add(message)
            self.lines.note(message)
        for kind, phase in self.phases.items():
            if heard[kind]:
                phase.begin(self._drawn)
            phase.done, phase.failed = len(done[kind]), failed[kind]
            under_way = [(running[each], part) for each, (part, _) in heard[kind].items() if each in running]
            phase.worked = self._settled[kind] + sum(part * relative_work(pack) for pack, part in under_way)
            self.lines.show(phase)

    def reports(self) -> list[PhaseReport]:
        """Return how long each phase will take."""
        now = time.monotonic()
        return [PhaseReport(kind, phase.remaining(now)) for kind, phase in self.phases.items()]
