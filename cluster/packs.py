"""What is to be computed in one process: packs that were begun, and packs of what is missing.

A seed's numbers agree with those of a separate run to rounding, not to the last bit: stacked
matrix products may be summed in another order. A pack's composition is therefore written down
(``pack.json``) before its work starts, so that a sweep that was killed ends with the same table.
Packs that were begun are continued as recorded, and only their missing units are published;
other missing units form new packs.

Two sweeps with different lists of seeds can have packs that share a unit. Each has its own work
folder and lease; the first to publish the unit wins, the other's copy is discarded.
"""

import json
import time
from contextlib import suppress

from cluster.store import Store
from cluster.store.lease import Busy, hold
from cluster.store.texts import parsed
from cluster.units import KINDS, Pack, pack_from_dict

__all__ = ["begin", "begun_packs", "finish", "missing", "open_packs", "plan_packs", "sweep_up"]

RECORD = "pack.json"


def missing(store: Store, pack: Pack) -> tuple[str, ...]:
    """Return the keys of a pack that are not published, in stacking order."""
    return tuple(key for key in pack.keys if not store.has(pack.kind, key))


def begin(store: Store, pack: Pack) -> None:
    """Write down the composition of a pack whose work starts; a second time is a no-op."""
    name = f"work/{pack.id}/{RECORD}"
    if not store.exists(name):
        store.write_text(name, json.dumps({**pack.to_dict(), "begun": time.time()}))


def finish(store: Store, pack: Pack) -> bool:
    """Remove the work of a pack if all its units are published; only the holder of its lease may."""
    if missing(store, pack):
        return False
    store.remove_work(pack.id)
    return True


def begun_packs(store: Store) -> list[Pack]:
    """Return the packs whose composition is written down, the oldest first."""
    records = [record for pack_id in store.work_ids() if (record := _record(store, pack_id))]
    return [pack for _, pack in sorted(records, key=lambda record: record[0])]


def open_packs(store: Store) -> list[Pack]:
    """Return the packs that were begun and have units missing, the oldest first."""
    return [pack for pack in begun_packs(store) if missing(store, pack)]


def plan_packs(store: Store, packs: list[Pack], wanted: set[str]) -> list[Pack]:
    """Return the packs to run so that all wanted units get published.

    Packs that were begun come first, as they were recorded, if they cover a wanted unit that none
    before them covers; they may hold units that are not wanted. The given packs follow, without the
    units that are published or covered by then. A begun pack of which nothing is published and
    everything has failed is planned anew: the user may have chosen smaller packs because it
    did not fit into memory.

    Args:
        store: where artifacts are published and packs are recorded.
        packs: all wanted units, grouped as if nothing had been done yet. Grouping only what is
            missing would let the limits of the groups depend on what happened to be finished.
        wanted: the keys asked for; nothing is begun for others.
    """
    needed = set(wanted).difference(*(store.keys(kind) for kind in KINDS))
    chosen: list[Pack] = []
    for pack in open_packs(store):
        lacking = missing(store, pack)
        untouched = len(lacking) == len(pack.keys)
        if untouched and all(store.failure(key) for key in lacking):
            continue
        if needed.intersection(lacking):
            chosen.append(pack)
            needed.difference_update(lacking)
    for pack in packs:
        units = tuple(unit for unit in pack.units if unit.key in needed)
        if units:
            chosen.append(Pack(units, pack.compute))
            needed.difference_update(unit.key for unit in units)
    return chosen


def sweep_up(store: Store) -> None:
    """Remove what dead processes left: temporary names, and work folders that nothing needs.

    A process can be killed after publishing its last unit and before removing its work, or between
    taking the lease and writing down the pack. Work under a lease is kept.
    """
    store.sweep_up()
    unfinished = {pack.id for pack in open_packs(store)}
    for pack_id in store.work_ids():
        if pack_id in unfinished:
            continue
        with suppress(Busy), hold(store, pack_id, wait=False):
            record = _record(store, pack_id)  # it may have been begun since we looked
            if record is None or not missing(store, record[1]):
                store.remove_work(pack_id)


def _record(store: Store, pack_id: str) -> tuple[float, Pack] | None:
    """Return when a pack was begun, and its composition; None if it is not written down, or cannot be read."""
    record = parsed(store.read_text(f"work/{pack_id}/{RECORD}")) or {}
    try:
        begun, pack = float(record.pop("begun")), pack_from_dict(record)
    except (ValueError, TypeError, KeyError):  # damaged, or of another version: `sweep_up` removes it
        return None
    return (begun, pack) if pack.id == pack_id else None
