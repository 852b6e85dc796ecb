"""The processes that compute packs: actors pretrain, trials evaluate, and both share the slots.

This module imports Ray, which takes seconds; the driver imports it once there is something to compute.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from cluster.ray import start as ray_cluster
from cluster.ray.address import HERE, wanted_address
from cluster.ray.attempts import Finished, Heard
from cluster.ray.kernel_kills import KernelKills
from cluster.ray.nodes import Difference, check_nodes
from cluster.ray.pool import Pool
from cluster.store import Store
from cluster.units import KINDS, Kind, Pack
from cluster.work import Compute
from mpcwdwm.errors import UserError
from sweeps.execution.interrupt import catch_signals
from sweeps.execution.packing import Node, Packing
from sweeps.execution.trials import TrialPool
from sweeps.plan.gpus import idle_gpus
from sweeps.spec.schema import Resources

__all__ = ["Workers"]

RECOUNT = 10.0  # seconds between two looks at the nodes, which come and go


class Workers:
    """Starts Ray and computes the packs that are submitted.

    Attributes:
        gpus: how many Ray has.
        notices: what leaves GPUs unused, a line each.
        news: what the user should know of packs since, a line each; to be emptied by who has shown them.

    Args:
        store: where the packs' components are found and the results are published.
        wants: what an actor and a trial need, how many may run at once, and how often a failed pack is tried again.
        quiet: keep what workers print out of this terminal.
        compute: what computes a pack, `cluster.work.compute_pack` by default.

    Raises:
        UserError: Ray cannot be reached, or has not the resources of one actor or trial.
    """

    def __init__(self, store: Store, wants: Resources, *, quiet: bool, compute: Compute | None) -> None:
        ray_cluster.start(wants.address, quiet=quiet)
        catch_signals()  # Ray has put its own handler in place of ours
        nodes = ray_cluster.resources()
        self.gpus = sum(gpus for _, gpus in nodes)
        chosen = {"component": wants.actor.gpus, "cell": wants.trial.gpus}
        wants = wants.given(self.gpus)
        self.notices, self.news = idle_gpus(wants, nodes), list[str]()
        given = frozenset(kind for kind in KINDS if chosen[kind] is not None)
        self._packing = Packing(store, wants, _nodes(), given)
        self._most = wants.concurrency
        self._count_slots()
        self._store = store
        self._kernel_kills = KernelKills(alone=wanted_address(wants.address).text == HERE)
        tries: dict[str, Any] = {"retries": wants.retries, "hands_back": wants.packing.by_memory}
        tries["kernel_killed"] = self._kernel_kills.any_on
        self._pool = Pool(store, slots=self._actors, grant=self._packing.grant, compute=compute, **tries)
        self._trial_pool = TrialPool(store, grant=self._packing.grant, compute=compute, **tries)

    def _count_slots(self) -> None:
        """Count how many actors fit at once while no trial runs, and how many trials."""
        usual = [self._packing.base(kind) for kind in KINDS]
        fitting = [ray_cluster.capacity(each.cpus, each.gpus) for each in usual]
        self._packing.see(_nodes())  # now that some fit; else it goes by those before
        self._actors, self._trials = (min(most, self._most or most) for most in fitting)
        self._counted = time.monotonic()

    def check_nodes(self, datasets: Sequence[str]) -> list[Difference]:
        """Return in what the cluster's nodes are not as this machine is; ``datasets`` are the paths that packs read."""
        return check_nodes(self._store, datasets)

    def submit(self, pack: Pack) -> None:
        """Queue a pack whose parts are published."""
        (self._pool if pack.kind == "component" else self._trial_pool).submit(pack)

    def poll(self) -> list[Finished]:
        """Return the packs that ended since the last call, without waiting."""
        ended = [self._ended(end) for end in [*self._pool.poll(timeout=0.0), *self._trial_pool.poll()]]
        if self._packing.has_apart() and not self._pool.pending + self._trial_pool.waiting + self._trial_pool.running:
            self._trial_pool.rest()  # its actors, idle by now, would keep memory from a pack that is to be alone
            for pack in self._packing.again():
                self.submit(pack)
        return [end for end in ended if end is not None]

    def _ended(self, end: Finished) -> Finished | None:
        """Learn from the end of a pack; None: it has not ended, and is tried again with more memory."""
        if end.memory is not None:
            self._packing.learn(end.pack, end.memory)
        if not end.to_try_alone:
            return end
        self._packing.set_apart(end.pack)
        self.news.append(f"{end.pack.id}: {end.error}; it is tried again alone when the rest is done (log: {end.log})")
        return None

    def tried_again(self) -> list[Finished]:
        """Return the failures since the last call after which a pack is tried again."""
        return [*self._pool.tried_again(), *self._trial_pool.tried_again()]

    def heard(self) -> dict[Kind, dict[str, Heard]]:
        """Return what was last heard of each running pack: kind → pack id → fraction done and note."""
        return {"component": self._pool.heard(), "cell": self._trial_pool.heard()}

    def share_out(self, *, has_trained_task: bool) -> None:
        """Divide the slots between training and evaluation.

        Training has them all while it can use them, because the cells of its tasks wait for it. Cells
        of tasks that are completely trained get half; others get what training leaves free.

        Args:
            has_trained_task: whether cells are left of a task of which nothing is left to train.
        """
        if time.monotonic() - self._counted > RECOUNT:
            with suppress(UserError):  # none fits at the moment: what is submitted waits for a node
                self._count_slots()
            self._kernel_kills.watch()
            self._pool.unstick()
        free = max(0.0, 1 - self._pool.pending / self._actors)
        if self._trial_pool.waiting + self._trial_pool.running == 0:
            self._pool.resize(self._actors)
            if free == 0.0:
                self._trial_pool.rest()
            return
        if self._actors > 1 and self._trials > 1 and has_trained_task:
            free = max(free, 0.5)
        self._trial_pool.allow(int(free * self._trials))
        if free * self._trials < 1:
            self._trial_pool.rest()  # its actors, idle by now, would keep processors that training may have
        self._pool.resize(self._actors - int(free * self._actors))

    def rest(self) -> None:
        """Give the processors of idle trials back, so that training may have them."""
        self._trial_pool.rest()

    def close(self) -> None:
        """Stop; what the workers have checkpointed is continued by the next run."""
        self._trial_pool.close()
        self._pool.close()
        ray_cluster.stop()


def _nodes() -> list[Node]:
    """Return what Ray divides on each node."""
    return [Node(*node, memory) for node, memory in zip(ray_cluster.resources(), ray_cluster.memories(), strict=True)]
