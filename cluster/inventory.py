"""What a store holds, what of it is damaged, and what nobody needs any more.

What a living process works on is never unneeded: the units of packs under a lease, and what those are built on.
What a sweep that runs will still need is known to the sweep alone (`sweeps.store_commands`).
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cluster.packs import begun_packs
from cluster.store import Store
from cluster.store.checksums import size
from cluster.store.lease import Busy, hold, is_held
from cluster.units import KINDS, Kind

__all__ = ["Checked", "Stored", "held_keys", "inventory", "remove_unneeded_work", "unneeded", "verify"]


@dataclass(frozen=True)
class Stored:
    """An artifact, as its manifest describes it."""

    kind: Kind
    key: str
    task: str
    method: str  # of a cell its row in the table, else the component's name
    seed: int | None
    bytes: int | None  # of its files; None: of a version that did not write it down
    finished_at: str  # ISO 8601, UTC; "" if that is unknown

    @property
    def age(self) -> float:
        """Return the seconds since it was finished; infinite if that is unknown."""
        return time.time() - datetime.fromisoformat(self.finished_at).timestamp() if self.finished_at else float("inf")


@dataclass(frozen=True)
class Checked:
    """What reading all artifacts has shown."""

    sound: int
    unknown: int  # without checksums, of an earlier version
    damaged: dict[tuple[Kind, str], list[str]]  # what is wrong, a line for each file


def inventory(store: Store) -> list[Stored]:
    """Return all artifacts, components first, by task, method and seed; one whose manifest is damaged has no names."""
    found = [_stored(kind, key, manifest or {}) for kind in KINDS for key, manifest in store.manifests(kind)]
    return sorted(found, key=lambda each: (KINDS.index(each.kind), each.task, each.method, each.seed or 0, each.key))


def _stored(kind: Kind, key: str, manifest: dict[str, Any]) -> Stored:
    task, method = manifest.get("task", {}), manifest.get("method" if kind == "cell" else "component", "")
    return Stored(
        kind,
        key,
        str(task.get("name", "")) if isinstance(task, dict) else "",
        str(method),
        manifest.get("seed"),
        size(manifest),
        str(manifest.get("finished_at", "")),
    )


def verify(store: Store, *, repair: bool = False) -> Checked:
    """Read all artifacts and compare their checksums; ``repair`` removes damaged ones, so that they are made again."""
    sound, unknown, damaged = 0, 0, dict[tuple[Kind, str], list[str]]()
    for kind in KINDS:
        for key, _ in list(store.manifests(kind)):
            wrong = store.faults(kind, key)
            if wrong:
                damaged[kind, key] = wrong
            elif wrong is None:
                unknown += 1
            else:
                sound += 1
    if repair:
        for kind, key in damaged:
            store.delete(kind, key)
    return Checked(sound, unknown, damaged)


def held_keys(store: Store) -> set[str]:
    """Return the keys of the units that living processes compute, and of the components they are built on."""
    packs = [pack for pack in begun_packs(store) if is_held(store, pack.id)]
    units = [unit for pack in packs for unit in pack.units]
    return {unit.key for unit in units}.union(*(unit.parts.values() for unit in units))


def unneeded(
    store: Store, needed: Callable[[], Collection[str]], older_than: float, *, remove: bool = False
) -> Iterator[Stored]:
    """Yield the artifacts that nobody needs and that are old enough.

    Args:
        store: where they lie.
        needed: returns the keys to keep; asked again before each removal, because a sweep may have begun meanwhile.
        older_than: seconds since they were finished.
        remove: remove each before it is yielded.
    """
    keep = needed()
    for each in inventory(store):
        if each.key in keep or each.age < older_than:
            continue
        if remove:
            if each.key in needed():
                continue
            store.delete(each.kind, each.key)
        yield each


def remove_unneeded_work(store: Store, keep: Collection[str]) -> int:
    """Remove the checkpoints of packs that nobody computes or needs, and failures of such units; return how many."""
    removed = 0
    for pack in begun_packs(store):
        if not any(key in keep for key in pack.keys):
            with suppress(Busy), hold(store, pack.id, wait=False):
                store.remove_work(pack.id)
                removed += 1
    for key in store.failed().difference(keep):
        store.clear_failure(key)
        removed += 1
    return removed
