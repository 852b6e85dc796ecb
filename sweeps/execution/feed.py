"""What Tune is fed: bundles of packs that are ready, and what becomes of each pack.

A trial costs the driver some hundredths of a second and its process a few, so packs of a fraction of
a second are worked through several to a trial. Only that changes: a pack is computed as it would be
alone, is published as soon as it is computed, and fails, is tried again and counts alone. A pack
that has failed is tried again by a process of its own, and what it kept waiting goes on elsewhere.
"""

import json
import queue
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from cluster import packs
from cluster.ray.attempts import Attempts, Finished, Heard
from cluster.store import Store
from cluster.units import Pack
from cluster.work import PackFailure
from sweeps.execution.progress import relative_work

__all__ = ["Bundle", "Feed", "Outcomes"]

# Work of one trial: some hundred times what Tune needs between two, and little to wait for where
# slots are given back to training.
TRIAL_SECONDS = 10.0
TRIALS_LEFT = 4  # which every slot still gets of what is ready: so all slots end at about the same time
MOST_PACKS = 50  # of a trial; their description travels with each of its reports, 5 kB a pack
PACE_OF = 20  # packs by which the pace is judged: the first of a process also imports torch


@dataclass
class Bundle:
    """The packs of one trial, and how far it is."""

    left: dict[str, Pack]  # by id, in their order; what has ended is gone
    current: str = ""  # id of the pack under way
    fraction: float = 0.0
    note: str = ""
    failed: bool = False  # whether one has failed, so that the process is given up


@dataclass
class _Pace:
    """Seconds per relative work, from the packs that ended last."""

    ended: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=PACE_OF))

    def note(self, pack: Pack, seconds: float) -> None:
        self.ended.append((seconds, relative_work(pack)))

    def per_work(self) -> float | None:
        """Return seconds per relative work; None while nothing is known."""
        if not self.ended:
            return None
        return sum(seconds for seconds, _ in self.ended) / sum(work for _, work in self.ended)


class Feed(Searcher):
    """Hands Tune the packs that are ready, to as many trials at a time as there are slots.

    Args:
        store: where failures are recorded, and what has been published is looked up.
        retries: how often a pack that fails is tried again.
        bundled: whether a trial may have several packs.
    """

    def __init__(self, store: Store, retries: int = 0, *, bundled: bool = True) -> None:
        super().__init__()
        self.slots = 1
        self.finished = False  # nothing is handed out any more
        self.abort = False
        self.running: dict[str, Bundle] = {}  # trial id → its packs
        self.ended: queue.Queue[Finished] = queue.Queue()
        self._store, self._bundled = store, bundled
        self._attempts = Attempts(store, retries)
        self._ready: deque[Pack] = deque()
        self._ready_work = 0.0
        self._pace = _Pace()
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher beside its snapshots, which nobody reads

    # What the driver asks

    @property
    def waiting(self) -> int:
        """Return how many packs no trial has been given."""
        return len(self._ready)

    def add(self, pack: Pack) -> None:
        """Queue a pack."""
        with self._lock:
            self._ready.append(pack)
            self._ready_work += relative_work(pack)

    def heard(self) -> dict[str, Heard]:
        """Return what was last heard of each running pack, by pack id."""
        with self._lock:
            bundles = list(self.running.values())
            return {bundle.current: (bundle.fraction, bundle.note) for bundle in bundles if bundle.current}

    # What Tune asks

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial's packs; None: ask again; FINISHED: nothing will follow."""
        with self._lock:
            if self.abort or self.finished:
                return Searcher.FINISHED
            if not self._ready or len(self.running) >= self.slots:
                return None
            bundle = self._take()
            self.running[trial_id] = Bundle({pack.id: pack for pack in bundle})
        return {"packs": json.dumps([pack.to_dict() for pack in bundle])}

    def _take(self) -> list[Pack]:
        """Take the packs of one trial from those that are ready: one, or as many as are short."""
        bundle = [self._ready.popleft()]
        work, pace = relative_work(bundle[0]), self._pace.per_work() if self._bundled else None
        if pace is not None and bundle[0].id not in self._attempts.failed:
            most = min(TRIAL_SECONDS, pace * self._ready_work / (self.slots * TRIALS_LEFT))
            while (
                self._ready
                and len(bundle) < MOST_PACKS
                and self._ready[0].id not in self._attempts.failed  # what has failed is tried again alone
                and pace * (work + relative_work(self._ready[0])) <= most
            ):
                bundle.append(self._ready.popleft())
                work += relative_work(bundle[-1])
        self._ready_work -= work
        return bundle

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Leave the bookkeeping to `Outcomes`, which is told of errors too."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the artifact store is what a sweep continues from."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    # What becomes of packs

    def hear(self, trial_id: str, report: dict[str, Any]) -> None:
        """Take a trial's report: where it is, and what has ended since the last."""
        with self._lock:
            bundle = self.running[trial_id]
            bundle.current, bundle.fraction, bundle.note = report["pack"], report["fraction"], report["note"]
            for end in report["ended"]:
                pack = bundle.left.pop(end["pack"])
                if end["failure"] is None:
                    if end["seconds"] is not None:
                        self._pace.note(pack, end["seconds"])
                    self.ended.put(Finished(pack))
                else:
                    failure = PackFailure(**end["failure"])
                    bundle.failed = bundle.failed or not failure.hopeless
                    self._fail(pack, failure)

    def close(self, trial_id: str, death: str = "the trial ended without a result") -> None:
        """Take note that a trial has ended, and free its slot.

        What it leaves undone goes to others. If it has not said why, that counts as a failure of the
        first pack that is not published, which it was computing.

        Args:
            trial_id: of the trial.
            death: what Ray says of its process.
        """
        with self._lock:
            bundle = self.running.pop(trial_id)
            if self.abort:
                return
            left = list(bundle.left.values())
            while left and not packs.missing(self._store, left[0]):  # published, and died before it could say so
                self.ended.put(Finished(left.pop(0)))
            culprit = left.pop(0) if left and not bundle.failed else None
            self._requeue(left)
            if culprit is not None:
                self._fail(culprit, self._attempts.death(culprit, death))

    def _fail(self, pack: Pack, failure: PackFailure) -> None:
        """Have a pack tried again, before all others; or, after the last try, note its failure."""
        end = self._attempts.fail(pack, failure)
        if end is None:
            self._requeue([pack])
        else:
            self.ended.put(end)

    def _requeue(self, left: Iterable[Pack]) -> None:
        left = list(left)
        self._ready.extendleft(reversed(left))
        self._ready_work += sum(relative_work(pack) for pack in left)


class Outcomes(tune.Callback):
    """Tells the feed what trials report and how they end."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as for the feed

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Pass on a report."""
        self._feed.hear(trial.trial_id, result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Pass on the end of a trial that has reported how all its packs ended."""
        self._feed.close(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Pass on the end of a process: one that gave itself up after a failure, or one that died."""
        self._feed.close(trial.trial_id, Path(trial.error_file).read_text(encoding="utf-8"))
