"""How many packs share a machine or a GPU: decided by the memory that the first of their kind took.

A pack of an unknown kind gets the share that the YAML gives. What it took at its peak, in the store below ``memory/``,
decides for those that start after it, in this run and in later ones. On a GPU a process gets 1/k of it, k a power of
two. Of a machine's memory it gets that of its cores, or twice, four times as much, so that few sizes of processes come
to be and one that ends can be used again. A pack that ran out of memory waits until nothing else is left, and is then
tried alone, with all of a GPU and of a machine's memory. None of this changes what is computed.
"""

import json
import math
import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from cluster.memory import Memory
from cluster.ray.gpu_share import CONTEXT_BYTES, on_gpus
from cluster.ray.grant import Grant
from cluster.store import Store
from cluster.units import ComponentUnit, Kind, Pack
from sweeps.cost.works import work_shape
from sweeps.plan.code import digest
from sweeps.spec.schema import Resources, Share

__all__ = ["Node", "Packing", "memory_kind"]

FOLDER = "memory"  # of the store


@dataclass(frozen=True)
class Node:
    """What Ray divides on a machine."""

    cpus: float
    gpus: float
    memory: int  # bytes

    def fits(self, grant: Grant) -> int:
        """Return how many processes with this grant it can have at a time."""
        fitting = [int(self.cpus / grant.cpus)]
        fitting += [on_gpus(self.gpus, grant.gpus)] if grant.gpus else []
        fitting += [self.memory // grant.memory] if grant.memory else []
        return min(fitting)


class Packing:
    """Decides what each pack is granted, and learns.

    Args:
        store: where the peaks are kept.
        wants: the shares that the YAML gives, filled in for this cluster.
        nodes: of the cluster.
        given: kinds of processes whose share of a GPU the user has chosen: it is not made smaller.
    """

    def __init__(self, store: Store, wants: Resources, nodes: Sequence[Node], given: frozenset[Kind]) -> None:
        self._store, self._nodes, self._given = store, nodes, given
        self._packing, self._concurrency = wants.packing, wants.concurrency
        shares: Mapping[Kind, Share] = {"component": wants.actor, "cell": wants.trial}
        sizes = {kind: Grant(share.cpus, share.gpus or 0.0) for kind, share in shares.items()}
        self._base = {kind: replace(size, memory=self._memory_of(size)) for kind, size in sizes.items()}
        self._kinds: dict[str, str] = {}  # pack id → kind
        self._known: dict[str, Memory | None] = {}  # kind → its peak, None if no pack of it has ended
        self._granted: dict[str, Grant] = {}  # pack id → what it was granted last
        self._outgrown: dict[str, Grant] = {}  # kind → the most that was too little
        self._slots: dict[tuple[float, ...], float] = {}  # of grants, by cores, GPUs and memory
        self._apart = deque[Pack]()
        self._starved = Counter[str]()  # pack id → how often it ran out of memory
        self._alone = set[str]()  # pack ids

    def see(self, nodes: Sequence[Node]) -> None:
        """Take note of the nodes that the cluster has now; what is usual becomes less where one has less."""
        self._nodes = nodes
        self._slots.clear()
        for kind, base in self._base.items():
            if least := self._memory_of(base):
                self._base[kind] = replace(base, memory=min(base.memory, least))

    def base(self, kind: Kind) -> Grant:
        """Return what a pack is granted of whose memory nothing is known."""
        return self._base[kind]

    def grant(self, pack: Pack) -> Grant:
        """Return what a pack that starts now is granted."""
        if not self._packing.by_memory:
            return self._base[pack.kind]
        self._granted[pack.id] = self._sized(self._wanted(pack), self._base[pack.kind])
        return self._granted[pack.id]

    def _wanted(self, pack: Pack) -> Grant:
        base, kind = self._base[pack.kind], self._kind(pack)
        if pack.id in self._alone:
            return replace(base, gpus=max(1.0, base.gpus) if base.gpus else 0.0, memory=self._most(base))
        known, small = self._peak(kind), self._outgrown.get(kind)
        gpus, memory = base.gpus, base.memory
        if known is not None:
            gpus = self._gpu_share(known, base, pack.kind)
            memory = self._doubled(base, known.processor * self._packing.margin)
        if small is not None:
            gpus, memory = max(gpus, min(1.0, 2 * small.gpus)), max(memory, min(self._most(base), 2 * small.memory))
        return replace(base, gpus=gpus, memory=memory)

    def learn(self, pack: Pack, memory: Memory) -> None:
        """Take note of what a pack took, and keep it if it is the most of its kind."""
        kind = self._kind(pack)
        known = self._peak(kind) or Memory(0)
        totals = [total for total in (known.gpu_total, memory.gpu_total) if total]
        most = Memory(max(known.processor, memory.processor), max(known.gpu, memory.gpu), min(totals, default=0))
        if most != known:
            self._known[kind] = most
            with suppress(OSError):  # storage that is full or gone: later runs measure again
                self._store.write_text(f"{FOLDER}/{kind}.json", json.dumps(asdict(most)))

    # Packs that ran out of memory

    def set_apart(self, pack: Pack) -> None:
        """Take a pack that ran out of memory; others of its kind get more from now on."""
        kind, had = self._kind(pack), self._granted.get(pack.id, self._base[pack.kind])
        self._outgrown[kind] = max(self._outgrown.get(kind, had), had, key=lambda grant: (grant.gpus, grant.memory))
        self._starved[pack.id] += 1
        self._apart.append(pack)

    def has_apart(self) -> bool:
        """Return whether packs are set apart."""
        return bool(self._apart)

    def again(self) -> list[Pack]:
        """Return what to try again when nothing else runs: those of kinds that are known by now, else one alone."""
        known = [p for p in self._apart if self._starved[p.id] < 2 and self._known.get(self._kind(p)) is not None]
        if not known:
            known = [self._apart[0]]
            self._alone.add(known[0].id)
        for pack in known:
            self._apart.remove(pack)
        return known

    # Inside

    def _kind(self, pack: Pack) -> str:
        if pack.id not in self._kinds:
            self._kinds[pack.id] = memory_kind(pack, self._base[pack.kind].device)
        return self._kinds[pack.id]

    def _peak(self, kind: str) -> Memory | None:
        if kind not in self._known:
            text = self._store.read_text(f"{FOLDER}/{kind}.json")
            try:
                self._known[kind] = None if text is None else Memory(**json.loads(text))
            except (ValueError, TypeError):  # damaged, or of another version: measured again
                self._known[kind] = None
        return self._known[kind]

    def _memory_of(self, size: Grant) -> int:
        """Return the memory that belongs to a process' cores, where each has least; 0 if no account is kept."""
        each = [node.memory / node.cpus for node in self._able(size)]
        return int(min(each, default=0) * size.cpus) if self._packing.by_memory else 0

    def _most(self, base: Grant) -> int:
        """Return the memory of the largest node that has the cores and GPUs of a process."""
        return max((node.memory for node in self._able(base)), default=base.memory)

    def _able(self, size: Grant) -> list[Node]:
        return [node for node in self._nodes if node.fits(replace(size, memory=0))]

    def _doubled(self, base: Grant, need: float) -> int:
        """Return the usual memory, doubled until it is enough; all of a machine's at most."""
        if not base.memory:
            return 0
        return min(self._most(base), base.memory * 2 ** max(0, math.ceil(math.log2(max(1.0, need) / base.memory))))

    def _gpu_share(self, known: Memory, base: Grant, kind: Kind) -> float:
        """Return 1/k of a GPU, k a power of two; more than one GPU, and what the user has given, as they are."""
        if not base.gpus or base.gpus >= 1 or not known.gpu_total:
            return base.gpus
        least = base.gpus if kind in self._given else 1 / self._packing.most_per_gpu
        need = (known.gpu * self._packing.margin + CONTEXT_BYTES) / known.gpu_total
        sharing = 2 ** math.floor(math.log2(1 / min(1.0, max(need, least))))
        return max(base.gpus, 1 / sharing) if kind in self._given else 1 / sharing

    def _sized(self, grant: Grant, base: Grant) -> Grant:
        """Return a grant with the slots that it takes, of those that the base has."""
        size = (grant.cpus, grant.gpus, grant.memory, base.gpus)
        if size not in self._slots:  # asked at every step of Tune's, and a cluster may have many nodes
            fitting, usual = (sum(node.fits(each) for node in self._nodes) for each in (grant, base))
            self._slots[size] = max(usual / max(1, fitting), 1.0 if self._concurrency else 0.0)
        return replace(grant, slots=self._slots[size])


def memory_kind(pack: Pack, device: str) -> str:
    """Return a name that packs share which take about the same memory: the same sizes, as many seeds, one robot."""
    unit = pack.units[0]
    shared: list[Any] = [device, len(pack.units), pack.compute, unit.task.env_id]
    shared += [{name: work_shape(config) for name, config in unit.configs.items()}]
    if isinstance(unit, ComponentUnit):
        name, shared = unit.component, [*shared, work_shape(unit.config)]
    else:
        planner = None if unit.planner is None else work_shape(unit.planner)
        name, shared = unit.name, [*shared, planner, unit.base, unit.episodes]
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)}-{digest(shared)[:12]}"
