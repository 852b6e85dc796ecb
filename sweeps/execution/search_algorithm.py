"""The search algorithm of the evaluation: which pack Ray Tune runs next, and how each one ended.

It proposes no configurations: it hands out packs of cells, one to a trial, in the order in which
their components were published. A pack that fails, or whose process dies, is tried again by another
process before any other pack starts.

Tune calls it from a thread of its own; the driver's thread only adds packs and reads.
"""

import json
import queue
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from cluster import packs
from cluster.memory import Memory
from cluster.ray.attempts import Attempts, Finished, Heard
from cluster.ray.grant import Grant
from cluster.store import Store
from cluster.units import Pack
from cluster.work import PackFailure

__all__ = ["Outcomes", "ReadyPacks"]

BEAT = 5.0  # seconds between two signs of life of a trial, where there are few
BEATS_PER_SECOND = 20.0  # of all trials together: Tune handles one after the other, at milliseconds each


@dataclass
class _Running:
    """A pack in a trial, and what the trial has reported."""

    pack: Pack
    grant: Grant
    heard: Heard = (0.0, "")
    failure: PackFailure | None = None
    memory: Memory | None = None
    published: bool = False


class ReadyPacks(Searcher):
    """Hands out the packs that are ready, to as many trials at a time as there are slots.

    Args:
        store: where failures are recorded, and what has been published is looked up.
        retries: how often a pack that fails is tried again.
        grant: what the trial of a pack gets, asked when it starts; by default one core each.
        hands_back: whether a pack that ran out of memory is handed back (`Finished.to_try_alone`).
        kernel_killed: whether the kernel has killed processes for want of memory on the node at an IP address.
    """

    def __init__(
        self,
        store: Store,
        retries: int = 0,
        grant: Callable[[Pack], Grant] = lambda _: Grant(),
        *,
        hands_back: bool = False,
        kernel_killed: Callable[[str], bool] = lambda address: False,
    ) -> None:
        super().__init__()
        self.slots = 1
        self.finished = False  # nothing is handed out any more
        self.abort = False  # nor is anything waited for
        self.ready: deque[Pack] = deque()
        self.running: dict[str, _Running] = {}  # by trial id
        self._taken = 0.0  # slots
        self.ended: queue.SimpleQueue[Finished] = queue.SimpleQueue()
        self._store, self._grant = store, grant
        self.attempts = Attempts(store, retries, hands_back=hands_back, kernel_killed=kernel_killed)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its search algorithm beside its snapshots, which nobody reads

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial's pack; None: ask again; FINISHED: nothing will follow."""
        if self.abort or self.finished:
            return Searcher.FINISHED
        if not self.ready or self.slots <= 0:
            return None
        pack = self.ready[0]
        grant = self._grant(pack)
        if self._taken and self._taken + grant.slots > self.slots:
            return None
        self._taken += grant.slots
        self.running[trial_id] = _Running(pack, grant)
        self.ready.popleft()  # only now: at no moment is it neither ready nor running
        beat = max(BEAT, self.slots / BEATS_PER_SECOND)
        return {"pack": json.dumps(pack.to_dict()), "grant": asdict(grant), "beat": beat}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: `Outcomes` reports the end of a trial, with the text of an error."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the artifact store is what a sweep continues from."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def hear(self, trial_id: str, report: dict[str, Any]) -> None:
        """Take a trial's report: how far it is, whom it waits for, why it failed."""
        running, failure = self.running[trial_id], report["failure"]
        running.heard = (report["fraction"], report["note"])
        running.failure = None if failure is None else PackFailure(**failure)
        running.memory = None if report["memory"] is None else Memory(**report["memory"])
        running.published = report["done"] and failure is None

    def close(self, trial_id: str, death: str = "the trial ended without a result") -> None:
        """Take note that a trial has ended, and free its slot.

        Args:
            trial_id: of the trial.
            death: what Ray says of its process; used if the trial reported no failure and published nothing.
        """
        if self.abort:
            return
        running = self.running[trial_id]
        pack, failure = running.pack, running.failure
        if failure is None and not running.published and packs.missing(self._store, pack):
            failure = self.attempts.death(pack, death)  # else it died, if at all, after publishing
        end = (
            Finished(pack, memory=running.memory)
            if failure is None
            else self.attempts.fail(pack, failure, running.heard[0])
        )
        if end is None:
            self.ready.appendleft(pack)
        else:
            self.ended.put(end)
        del self.running[trial_id]
        self._taken = sum(each.grant.slots for each in self.running.values())  # a sum of its own: no rounding is left


class Outcomes(tune.Callback):
    """Tells the search algorithm what trials report and how they end."""

    def __init__(self, search: ReadyPacks) -> None:
        self._search = search

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as for the search algorithm

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Pass on a report."""
        self._search.hear(trial.trial_id, result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Pass on the end of a trial."""
        self._search.close(trial.trial_id)
        _forget_pack(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Pass on the end of a process: one that gave itself up after a failure, or one that died."""
        self._search.close(trial.trial_id, Path(trial.error_file).read_text(encoding="utf-8"))
        _forget_pack(trial)


def _forget_pack(trial: Trial) -> None:
    """Take the pack, kilobytes, out of a trial that has ended: Tune keeps all trials of a sweep to its end."""
    for held in (trial.config, trial.evaluated_params, trial.last_result.get("config", {})):
        held.pop("pack", None)
    trial.last_result.pop("experiment_tag", None)  # made of the config
    trial.set_experiment_tag("")
