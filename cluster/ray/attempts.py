"""How often a pack is tried, and how it ends: shared by pretraining and evaluation."""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from cluster.failures import alike
from cluster.memory import Memory
from cluster.ray.deaths import death
from cluster.store import Store
from cluster.units import Pack
from cluster.work import PackFailure, record_failures

__all__ = ["Attempts", "Finished", "Heard"]

LOSSES = 5  # in a row, of a pack that gets no further: more are no accident of its nodes
ADVANCE = 0.01  # of a pack: what counts as further
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

    A process that is lost with its node, or told to end, is no failure of its pack, which is tried again as long as it
    gets further: on preemptible nodes a long one may lose many.

    Args:
        store: where failures and the last messages of dead workers are written.
        retries: further tries after the first.
        hands_back: whether a pack that ran out of memory is handed back, to be tried alone.
        kernel_killed: whether the kernel has killed processes for want of memory on the node at an IP address.
    """

    def __init__(
        self,
        store: Store,
        retries: int,
        *,
        hands_back: bool = False,
        kernel_killed: Callable[[str], bool] = lambda address: False,
    ) -> None:
        self.store, self.retries, self.hands_back, self._kernel_killed = store, retries, hands_back, kernel_killed
        self.failed: Counter[str] = Counter()  # pack id → how often
        self._alike: dict[str, tuple[str, int]] = {}  # pack id → the last reason, and how often in a row
        self._losses: dict[str, tuple[float, int]] = {}  # pack id → how far it got, and how often it was lost since
        self._again = deque[Finished]()  # failures after which a pack is tried again

    def fail(self, pack: Pack, failure: PackFailure, reached: float = 0.0) -> Finished | None:
        """Count a failure and return how the pack ended; None: it is to be tried again.

        ``reached`` is the part of the pack that was done.
        """
        if failure.lost:
            return self._lose(pack, failure, reached)
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

    def _lose(self, pack: Pack, failure: PackFailure, reached: float) -> Finished | None:
        """Count a loss and return how the pack ended; None: it is to be tried again."""
        furthest, losses = self._losses.get(pack.id, (0.0, 0))
        furthest, losses = (reached, 1) if reached >= furthest + ADVANCE else (furthest, losses + 1)
        self._losses[pack.id] = furthest, losses
        if losses < LOSSES:
            self._again.append(Finished(pack, failure.error, failure.log))
            return None
        error = (
            f"{failure.error}, {losses} times in a row before it got further than {furthest:.0%}: run it where"
            " processes live longer, or with fewer seeds at once (resources.seeds_per_pack)"
        )
        record_failures(self.store, pack, replace(failure, error=error))
        return Finished(pack, error, failure.log)

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
        return death(text, log, self._kernel_killed)
