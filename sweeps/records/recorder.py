"""A thread that logs finished units to MLflow while the driver goes on.

A record takes MLflow tens of milliseconds, during which the driver would neither submit work nor draw progress. If
MLflow cannot be reached, the recorder stops and reports why once; `Tracker.sync` records the rest at the end.
"""

import queue
import threading

from cluster.store import Store
from cluster.units import Unit
from mpcwdwm.errors import UserError
from sweeps.records.tracker import Tracker

__all__ = ["Recorder"]

END_WITHIN = 10.0  # seconds for the record under way when a run is interrupted; a lost server takes minutes


class Recorder:
    """Logs units in the order in which they are given, in a thread.

    Args:
        tracker: writes to MLflow; not to be used by others until `drain` or `close` has returned.
        store: where the units are published.
    """

    def __init__(self, tracker: Tracker, store: Store) -> None:
        self._tracker, self._store = tracker, store
        self._waiting: queue.Queue[Unit | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._dropping = False  # drop the units that wait
        self._error: BaseException | None = None

    def add(self, unit: Unit) -> None:
        """Have a published unit recorded."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
            self._thread.start()
        self._waiting.put(unit)

    def complaint(self) -> str | None:
        """Return, once, why recording has stopped; an error other than a UserError is raised."""
        error, self._error = self._error, None
        if error is None or isinstance(error, UserError):
            return None if error is None else str(error)
        raise error

    def drain(self) -> str | None:
        """Wait until everything is recorded or recording has stopped; return what `complaint` does."""
        self._end(None)
        self._dropping = False
        return self.complaint()

    def close(self) -> bool:
        """Drop the units that wait; return whether the tracker is free: it is not while a record hangs."""
        self._dropping = True
        return self._end(END_WITHIN)

    def _end(self, within: float | None) -> bool:
        if self._thread is None:
            return True
        self._waiting.put(None)
        self._thread.join(within)
        ended = not self._thread.is_alive()
        self._thread = None
        return ended

    def _run(self) -> None:
        while (unit := self._waiting.get()) is not None:
            if self._dropping:
                continue
            try:
                self._tracker.log(unit, self._store.folder(unit.kind, unit.key))
            except BaseException as error:  # handed to the driver
                self._error, self._dropping = error, True
