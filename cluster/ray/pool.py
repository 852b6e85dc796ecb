"""Ray actors that pretrain and evaluate packs: as many as there are slots, reused, replaced when lost.

The pool knows nothing of artifacts: whatever happens to an actor, running its pack again is safe,
because `cluster.work.run_pack` is idempotent and continues from the pack's checkpoint.
"""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError

from cluster.store import open_store
from cluster.units import Pack, pack_from_dict
from cluster.work import Compute, PackFailure, PackResult, attempt_pack, error_line, record_failures

__all__ = ["Finished", "Pool"]

NOTHING = (0.0, "")  # progress of a pack of which nothing was heard: fraction, note


class Worker:
    """Runs one pack at a time; its progress can be asked for meanwhile, on the actor's second thread."""

    def __init__(self, store_location: str, device: str, threads: int) -> None:
        self.store_location = store_location
        self.options: dict[str, Any] = {"device": device, "threads": threads}
        self.state = NOTHING

    def run(self, pack: dict[str, Any], compute: Compute | None) -> PackResult | PackFailure:
        """Run a pack; errors come back as a record."""
        self.state = NOTHING
        heard = {"on_progress": self.hear, "on_wait": self.wait}
        return attempt_pack(self.store_location, pack_from_dict(pack), compute=compute, **self.options, **heard)

    def hear(self, fraction: float) -> None:
        """Note the part that is done."""
        self.state = (fraction, "")

    def wait(self, note: str) -> None:
        """Note whom the pack waits for."""
        self.state = (self.state[0], note)

    def progress(self) -> tuple[float, str]:
        """Return the part of the pack that is done, and a note."""
        return self.state


@dataclass(frozen=True)
class Finished:
    """A pack that needs no more work: published, or failed for good with an error of one line."""

    pack: Pack
    error: str | None = None
    log: str = ""
    result: PackResult | None = None


@dataclass
class _Job:
    pack: Pack
    tries: int = 0


@dataclass
class _Slot:
    """An actor and what it is doing."""

    actor: Any
    job: _Job | None = None
    asked: Any = None  # an outstanding question for its progress
    state: tuple[float, str] = field(default=NOTHING)


class Pool:
    """Up to ``slots`` actors that run packs in the order of submission.

    An actor that has nothing more to do is released at once, so that trials get its CPUs while other
    packs still run. A pack whose actor dies (killed, out of memory, node lost) or which fails is tried
    again ``retries`` times; then its missing units are recorded as failed in the store.

    Args:
        store_location: what `cluster.store.open_store` takes; an absolute path or a URL.
        slots: actors at once.
        cpus: CPUs of an actor; also its threads, at least one.
        gpus: GPUs of an actor, fractions allowed; with any, it computes on "cuda".
        retries: further tries after the first.
        compute: what computes a pack, `cluster.work.compute_pack` by default.
    """

    def __init__(
        self,
        store_location: str,
        *,
        slots: int,
        cpus: float = 1.0,
        gpus: float = 0.0,
        threads: int | None = None,
        retries: int = 2,
        compute: Compute | None = None,
    ) -> None:
        self.store_location = store_location
        self.slots, self.retries, self.compute = slots, retries, compute
        self._worker = ray.remote(Worker).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_concurrency=2,  # one for the pack, one for questions
            max_restarts=0,  # we replace actors ourselves
        )
        self._arguments = (store_location, "cuda" if gpus else "cpu", threads or max(1, int(cpus)))
        self._queue: deque[_Job] = deque()
        self._busy: dict[Any, _Slot] = {}  # reference to the running call → its actor

    def submit(self, pack: Pack) -> None:
        """Queue a pack; it starts as soon as there is a slot."""
        self._queue.append(_Job(pack))
        self._start()

    def resize(self, slots: int) -> None:
        """Change how many actors run at once; those beyond are released when their pack is done."""
        self.slots = slots
        self._start()

    @property
    def pending(self) -> int:
        """Return how many packs are queued or running."""
        return len(self._queue) + len(self._busy)

    def poll(self, timeout: float = 1.0) -> list[Finished]:
        """Return the packs that ended since the last call; wait for one, at most ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        finished: list[Finished] = []
        while self._busy and not finished:
            left = max(0.0, deadline - time.monotonic())
            done, _ = ray.wait(list(self._busy), num_returns=1, timeout=left)
            if not done:
                break
            finished = [end for call in done if (end := self._collect(call))]
        return finished

    def progress(self) -> dict[str, float]:
        """Return for each running pack the part that is done, as last heard."""
        self._listen()
        return {slot.job.pack.id: slot.state[0] for slot in self._busy.values() if slot.job}

    def notes(self) -> dict[str, str]:
        """Return for each running pack that waits for another process what it waits for."""
        self._listen()
        return {slot.job.pack.id: slot.state[1] for slot in self._busy.values() if slot.job and slot.state[1]}

    def close(self) -> None:
        """End all actors at once; what they have checkpointed is continued by the next run."""
        self._queue.clear()
        for slot in self._busy.values():
            _release(slot)
        self._busy.clear()

    # Inside

    def _start(self) -> None:
        """Give queued packs to new actors while there are slots."""
        while self._queue and len(self._busy) < self.slots:
            self._run(_Slot(self._worker.remote(*self._arguments)))

    def _run(self, slot: _Slot) -> None:
        slot.job, slot.state = self._queue.popleft(), NOTHING
        slot.job.tries += 1
        self._busy[slot.actor.run.remote(slot.job.pack.to_dict(), self.compute)] = slot

    def _collect(self, call: Any) -> Finished | None:
        """Take the outcome of a call that ended; None if its pack is to be tried again."""
        slot = self._busy.pop(call)
        job = slot.job
        assert job is not None
        try:
            outcome = ray.get(call)
        except RayError as error:
            log = open_store(self.store_location).append_log(job.pack.id, str(error))
            outcome = PackFailure(death_line(error), log)
            _release(slot)
            slot.actor = None
        again = isinstance(outcome, PackFailure) and not outcome.hopeless and job.tries <= self.retries
        if again:
            self._queue.appendleft(job)
        if slot.actor is not None:
            if self._queue and len(self._busy) < self.slots:
                self._run(slot)  # reused: a new process would load torch again
            else:
                _release(slot)
        self._start()
        if again:
            return None
        if isinstance(outcome, PackFailure):
            record_failures(open_store(self.store_location), job.pack, outcome)
            return Finished(job.pack, outcome.error, outcome.log)
        return Finished(job.pack, result=outcome)

    def _listen(self) -> None:
        """Take the answers that have arrived and ask again; never waits for an actor."""
        for slot in self._busy.values():
            if slot.asked is not None:
                if not ray.wait([slot.asked], timeout=0)[0]:
                    continue
                try:
                    slot.state = ray.get(slot.asked)
                except RayError:
                    continue  # the actor died; its call will say so
            slot.asked = slot.actor.progress.remote()


def death_line(error: RayError) -> str:
    """Return in one line what happened to a worker that did not answer."""
    text = str(error)
    if isinstance(error, OutOfMemoryError) or "OutOfMemory" in text or "running low on memory" in text:
        return "the worker ran out of memory: stack fewer seeds, shrink the batch, or run fewer actors"
    if isinstance(error, RayActorError):
        return "the worker died (killed, out of memory, or its machine was lost)"
    return error_line(error)


def _release(slot: _Slot) -> None:
    """End an actor; everything it has written is complete at any moment, so no farewell is needed."""
    ray.kill(slot.actor, no_restart=True)
