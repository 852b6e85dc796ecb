"""Which packs wait for which parts, and which tasks are trained; kept up to date unit by unit.

The driver asks both after every round, and a sweep of n packs has about n rounds. So an answer must not look at
everything that waits: a pack is looked at when it is added, and once for each of its parts that is settled.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cluster.units import KINDS, Kind, Pack, Unit

__all__ = ["Waiting"]


@dataclass
class _Lacking:
    """A pack, and the keys of its parts that are not settled."""

    pack: Pack
    parts: set[str]


class Waiting:
    """Packs in the order in which nothing is left to wait for; a unit is settled once it is published or has failed.

    Args:
        unsettled: the units of the plan that are neither published nor failed.
    """

    def __init__(self, unsettled: Iterable[Unit]) -> None:
        self._unsettled: dict[Kind, defaultdict[str, set[str]]] = {kind: defaultdict(set) for kind in KINDS}
        for unit in unsettled:  # kind → task → keys
            self._unsettled[unit.kind][unit.task.name].add(unit.key)
        self._training = set().union(*self._unsettled["component"].values())
        self._waiting: dict[str, list[_Lacking]] = {}  # key of a component → the packs that wait for it
        self._released = deque[Pack]()

    def add(self, pack: Pack) -> None:
        """Have a pack wait for its parts, those apart that are settled or not of the plan."""
        parts = {key for unit in pack.units for key in unit.parts.values()}
        lacking = _Lacking(pack, parts & self._training)
        for key in lacking.parts:
            self._waiting.setdefault(key, []).append(lacking)
        if not lacking.parts:
            self._released.append(pack)

    def settle(self, unit: Unit) -> None:
        """Take note that a unit is published or has failed; a second time is a no-op."""
        self._unsettled[unit.kind][unit.task.name].discard(unit.key)
        self._training.discard(unit.key)
        for lacking in self._waiting.pop(unit.key, ()):
            lacking.parts.discard(unit.key)
            if not lacking.parts:
                self._released.append(lacking.pack)

    def released(self) -> Iterator[Pack]:
        """Yield, once, the packs that have nothing left to wait for, those included that are released meanwhile."""
        while self._released:
            yield self._released.popleft()

    def has_trained_task(self) -> bool:
        """Return whether cells are left of a task of which nothing is left to train."""
        training = self._unsettled["component"]
        return any(keys and not training.get(task) for task, keys in self._unsettled["cell"].items())
