"""How often a pack is tried, and how it ends: shared by pretraining and evaluation."""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.failures import alike
from cluster.memory import Memory
from cluster.store import Store
from cluster.units import Pack
from cluster.work import PackFailure, record_failures

__all__ = ["Attempts", "Finished", "Heard", "death_line"]

STARVED = ("OutOfMemory", "running low on memory")  # what Ray says of a process that it killed to free memory
Heard = tuple[float, str]
"""Progress of a running pack: the fraction that is done, and the process it waits for ("" for none)."""


@dataclass(frozen=True)
class Finished:
    """A pack that needs no more work: published, or failed for good with an error of one line."""

    pack: Pack
    error: str | None = None
    log: str = ""
    memory: Memory | None = None  # at its peak; None if that is not known
    to_try_alone: bool = False  # or not ended: it ran out of memory, and wants to be tried with more


class Attempts:
    """Counts how often packs fail, and records the failure of those that are given up.

    Args:
        store: where failures and the last messages of dead workers are written.
        retries: further tries after the first.
        hands_back: whether a pack that ran out of memory is handed back, to be tried alone.
    """

    def __init__(self, store: Store, retries: int, *, hands_back: bool = False) -> None:
        self.store, self.retries, self.hands_back = store, retries, hands_back
        self.failed: Counter[str] = Counter()  # pack id → how often
        self._alike: dict[str, tuple[str, int]] = {}  # pack id → the last reason, and how often in a row
        self._again = deque[Finished]()  # failures after which a pack is tried again

    def fail(self, pack: Pack, failure: PackFailure) -> Finished | None:
        """Count a failure and return how the pack ended; None: it is to be tried again."""
        self.failed[pack.id] += 1
        reason, in_a_row = self._alike.get(pack.id, ("", 0))
        self._alike[pack.id] = (failure.error, in_a_row + 1 if alike(reason, failure.error) else 1)
        if not failure.hopeless and self.failed[pack.id] <= self.retries:
            if failure.out_of_memory and self.hands_back:
                return Finished(pack, failure.error, failure.log, to_try_alone=True)
            self._again.append(Finished(pack, failure.error, failure.log))
            return None
        record_failures(self.store, pack, failure, tries=self._alike[pack.id][1])
        return Finished(pack, failure.error, failure.log)

    def tried_again(self) -> Iterator[Finished]:
        """Yield, once, the failures after which a pack is tried again."""
        while self._again:
            yield self._again.popleft()

    def death(self, pack: Pack, text: str) -> PackFailure:
        """Return the failure of a pack whose process was lost; ``text`` is Ray's message."""
        try:
            log = self.store.append_log(pack.id, text)
        except OSError as error:  # storage that is full or gone must not end the driver
            log = f"none: {error}"
        starved = any(sign in text for sign in STARVED)
        return PackFailure(death_line(text), log, of_the_machine=True, out_of_memory=starved)


def death_line(text: str) -> str:
    """Return in one line what happened to a process that was lost, from Ray's message."""
    if any(sign in text for sign in STARVED):
        return "the worker ran out of memory: stack fewer seeds, shrink the batch, or run fewer actors"
    lines = text.strip().splitlines() or ["no reason is known"]
    if "ray::" in text:  # the traceback of an error that was raised outside the pack
        return lines[-1]
    if "actor" in text:
        return "the worker died (killed, out of memory, or its machine was lost)"
    return lines[0]
