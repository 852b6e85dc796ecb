"""Ray actors that pretrain packs: as many as there are slots, reused, replaced when lost.

Whatever happens to an actor, running its pack again is safe,
because `cluster.work.run_pack` is idempotent and continues from the pack's checkpoint.
"""

import contextlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.ray.attempts import Attempts, Finished, Heard
from cluster.ray.gpu_share import cap_gpu_memory
from cluster.ray.grant import Grant
from cluster.store import Store
from cluster.units import Pack, pack_from_dict
from cluster.work import Compute, PackFailure, PackResult, attempt_pack

__all__ = ["Pool"]

NOTHING: Heard = (0.0, "")
GRACE = 10.0  # seconds that packs have to save their checkpoints when the pool is closed; most need one
STUCK_AFTER = 30.0  # seconds without a process, though there is room for it
REPLY = 1.0  # seconds until a process that was told to end has said how far its pack is
TERMINATED = 128 + signal.SIGTERM  # exit code, as shells count


class Worker:
    """Runs one pack at a time; its progress can be asked for meanwhile, on the actor's second thread.

    At SIGTERM, which a scheduler sends before it kills, the pack saves its checkpoint, and the process ends.
    """

    def __init__(self, store_location: str, grant: Grant) -> None:
        cap_gpu_memory(grant.gpus)
        self.store_location = store_location
        self.options: dict[str, Any] = {"device": grant.device, "threads": grant.threads}
        self.stopping = threading.Event()
        self.state = NOTHING
        self.is_busy, self.is_terminated = False, False
        signal.signal(signal.SIGTERM, self._terminate)

    def run(self, pack: dict[str, Any], compute: Compute | None) -> PackResult | PackFailure:
        """Run a pack; errors come back as a record."""
        self.state, self.is_busy = NOTHING, True
        heard = {"on_progress": self.hear, "on_wait": self.wait, "stop": self.stopping}
        outcome = attempt_pack(self.store_location, pack_from_dict(pack), compute=compute, **self.options, **heard)
        self.is_busy = False
        if self.is_terminated:
            threading.Timer(REPLY, os._exit, (TERMINATED,)).start()  # the pool, which hears of it, need not be there
        return outcome

    def stop(self) -> None:
        """Have the running pack save its checkpoint and end."""
        self.stopping.set()

    def _terminate(self, number: int, frame: Any) -> None:
        self.is_terminated = True
        self.stop()
        if not self.is_busy:
            os._exit(TERMINATED)

    def hear(self, fraction: float) -> None:
        """Note the part that is done."""
        self.state = (fraction, "")

    def wait(self, note: str) -> None:
        """Note which process the pack waits for."""
        self.state = (self.state[0], note)

    def progress(self) -> Heard:
        """Return the part of the pack that is done, and a note."""
        return self.state


@dataclass
class _Slot:
    """An actor and its pack."""

    actor: Any
    pack: Pack
    grant: Grant
    asked: Any = None  # an outstanding question for its progress
    state: Heard = NOTHING
    started: float = field(default_factory=time.monotonic)
    answered: bool = False  # at least once


class Pool:
    """Up to ``slots`` actors that run packs in the order of submission.

    An actor that has nothing more to do is released at once, so that trials get its CPUs while other
    packs still run. A pack whose actor dies (killed, out of memory, node lost) or which fails is tried
    again ``retries`` times; then its missing units are recorded as failed in the store.

    Args:
        store: where the packs' components are found and published.
        slots: of an actor's size, that run at once.
        grant: what the actor of a pack gets, asked when it starts; by default one core each.
        retries: further tries after the first.
        hands_back: whether a pack that ran out of memory is handed back (`Finished.to_try_alone`).
        kernel_killed: whether the kernel has killed processes for want of memory on the node at an IP address.
        compute: what computes a pack, `cluster.work.compute_pack` by default.
    """

    def __init__(
        self,
        store: Store,
        *,
        slots: int,
        grant: Callable[[Pack], Grant] = lambda _: Grant(),
        retries: int = 2,
        hands_back: bool = False,
        kernel_killed: Callable[[str], bool] = lambda address: False,
        compute: Compute | None = None,
    ) -> None:
        self.slots, self.compute = slots, compute
        self._grant, self._location = grant, store.location
        self._attempts = Attempts(store, retries, hands_back=hands_back, kernel_killed=kernel_killed)
        self._queue: deque[Pack] = deque()
        self._busy: dict[Any, _Slot] = {}  # reference to the running call → its actor

    def submit(self, pack: Pack) -> None:
        """Queue a pack; it starts as soon as there is a slot."""
        self._queue.append(pack)
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

    def heard(self) -> dict[str, Heard]:
        """Return what was last heard of each running pack, by pack id; never waits for an actor."""
        for slot in self._busy.values():
            if slot.asked is not None:
                if not ray.wait([slot.asked], timeout=0)[0]:
                    continue
                try:
                    slot.state, slot.answered = ray.get(slot.asked), True
                except RayError:
                    continue  # the actor died; its call will say so
            slot.asked = slot.actor.progress.remote()
        return {slot.pack.id: slot.state for slot in self._busy.values()}

    def tried_again(self) -> list[Finished]:
        """Return the failures since the last call after which a pack is tried again."""
        return list(self._attempts.tried_again())

    def unstick(self) -> None:
        """Ask anew for actors that have no process for long, though the cluster has room for what they would get now.

        An actor may ask for more than a node has that has joined since, and waits for one of the others. One that has
        its place, but loads or is busy, holds what it was granted.
        """
        now = time.monotonic()
        waiting = [
            call
            for call, slot in self._busy.items()
            if not slot.answered and not slot.state[0] and now - slot.started > STUCK_AFTER
        ]
        if not waiting:
            return
        room = ray.available_resources()
        for call in reversed(waiting):  # the first is to be the first of the queue again
            slot = self._busy[call]
            grant = self._grant(slot.pack)
            asked = {"CPU": grant.cpus, "GPU": grant.gpus, "memory": grant.memory}
            if all(room.get(name, 0.0) >= amount for name, amount in asked.items()):
                del self._busy[call]
                _release(slot)
                self._queue.appendleft(slot.pack)
        self._start()

    def close(self) -> None:
        """Have all packs save their checkpoints, which the next run continues, and end all actors."""
        self._queue.clear()
        training = [call for call, slot in self._busy.items() if slot.state[0] > 0]  # others have nothing to save
        with contextlib.suppress(RayError):
            for call in training:
                self._busy[call].actor.stop.remote()
            if training:
                ray.wait(training, num_returns=len(training), timeout=GRACE)
        for slot in self._busy.values():
            _release(slot)
        self._busy.clear()

    # Inside

    def _start(self) -> None:
        """Give queued packs to new actors while there are slots."""
        while (grant := self._next()) is not None:
            actor = ray.remote(Worker).options(
                num_cpus=grant.cpus,
                num_gpus=grant.gpus,
                memory=grant.memory or None,
                max_concurrency=2,  # one for the pack, one for questions
                max_restarts=0,  # we replace actors ourselves
            )
            self._run(actor.remote(self._location, grant), grant)

    def _next(self) -> Grant | None:
        """Return what the next pack is granted; None: there is none, or no slot for it."""
        if not self._queue or self.slots <= 0:
            return None
        grant = self._grant(self._queue[0])
        taken = sum(slot.grant.slots for slot in self._busy.values())
        return grant if not taken or taken + grant.slots <= self.slots else None

    def _run(self, actor: Any, grant: Grant) -> None:
        pack = self._queue.popleft()
        self._busy[actor.run.remote(pack.to_dict(), self.compute)] = _Slot(actor, pack, grant)

    def _collect(self, call: Any) -> Finished | None:
        """Take the outcome of a call that ended; None if its pack is to be tried again."""
        slot = self._busy.pop(call)
        try:
            outcome, alive = ray.get(call), True
        except RayError as error:
            outcome, alive = self._attempts.death(slot.pack, str(error)), False
        if isinstance(outcome, PackFailure):
            end = self._attempts.fail(slot.pack, outcome, slot.state[0])
            alive = alive and not outcome.lost
        else:
            end = Finished(slot.pack, memory=outcome.memory)
        if end is None:
            self._queue.appendleft(slot.pack)
        if alive and self._next() == slot.grant:
            self._run(slot.actor, slot.grant)  # reused: a new process would load torch again
        else:
            _release(slot)
        self._start()
        return end


def _release(slot: _Slot) -> None:
    """Kill an actor; all files it has written are complete at any moment."""
    ray.kill(slot.actor, no_restart=True)
