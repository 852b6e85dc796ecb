"""What else is known of this machine: the time around the work of a sweep, and how much processes slow each other down.

`mpcwdwm bench` measures and stores it, `sweep plan` reads it. Before that, values measured on two cores are used.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from mpcwdwm.data.fingerprint import write_json
from sweeps.cost.speed import cache_entry
from sweeps.cost.works import Place

__all__ = ["PLANNING", "PLAYING", "Crowding", "Machine", "known_machine", "remember_machine"]

PLANNING, PLAYING = "planning", "environment"  # kinds of work beside the components' updates


@dataclass(frozen=True)
class Crowding:
    """How much longer work takes beside others like it: caches, memory and the device are shared."""

    beside: int = 1  # processes that ran beside the one that was timed
    factors: Mapping[str, float] = field(default_factory=dict)  # kind of work → its time over that alone

    def factor(self, kind: str, processes: int) -> float:
        """Return by what time is multiplied if so many processes run at once; unknown kinds take the mean."""
        if not self.factors:
            return 1.0
        full = self.factors.get(kind, sum(self.factors.values()) / len(self.factors))
        return 1 + max(0.0, full - 1) * (processes - 1) / self.beside


@dataclass(frozen=True)
class Machine:
    """Seconds around the work of a sweep, and what working side by side costs."""

    start: float = 8.0  # from the command to the first update: imports, the plan, Ray, a process with torch
    trial: float = 6.0  # from the last component to the first step of a cell: Tune, its process
    pack: float = 0.3  # between two packs of one process: publishing, the driver's round
    end: float = 3.0  # from the last result to the table
    crowding: Crowding = Crowding()


def known_machine(place: Place) -> Machine | None:
    """Return what `mpcwdwm bench` has stored of this machine; None if it never ran here."""
    entry, _ = cache_entry({"machine": ""}, place)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent or damaged
        known = json.loads(entry.read_text(encoding="utf-8"))["machine"]
        return Machine(**{**known, "crowding": Crowding(**known["crowding"])})
    return None


def remember_machine(place: Place, machine: Machine) -> None:
    """Store what was measured; a cache that cannot be written only costs accuracy."""
    entry, what = cache_entry({"machine": ""}, place)
    with contextlib.suppress(OSError):
        write_json(entry, {**what, "machine": asdict(machine)})
