"""What is damaged is removed before a run's work starts, and made again in the packs in which it was made.

A run reads what it will use: the components that missing cells need, and all results of its plan, which are small and
become records. So no record, and no table, is made of a damaged result. Components that nothing needs are read by
`mpcwdwm store verify` alone: they may be large. Behind a URL, results are read as they are downloaded, and components
by the workers that load them.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from cluster import packs
from cluster.store import Store
from cluster.units import KINDS, Kind, Pack, Unit
from mpcwdwm.errors import UserError
from sweeps.plan.plan import Plan, cell_packs, component_packs

__all__ = ["remove_damaged"]

READERS = 8  # files at a time: on a network's file system, waiting takes longer than reading


def remove_damaged(store: Store, plan: Plan, done: Mapping[Kind, set[str]], failed: set[str]) -> Iterator[str]:
    """Remove damaged artifacts from the store and from what is done, and yield a line for each.

    Args:
        store: where they lie.
        plan: whose units are looked at.
        done: the keys of those that are published, by kind.
        failed: the keys of those that are not tried in this run.
    """
    planned: list[Unit] = [*plan.components, *plan.cells]
    units = {unit.key: unit for unit in planned}
    with ThreadPoolExecutor(READERS) as readers:
        for kind in reversed(KINDS):  # results first: those that are removed need their components
            missing = units.keys() - done["component"] - done["cell"] - failed
            needed = {part for key in missing for part in units[key].parts.values()} if store.has_locks else set()
            read = sorted(done["cell"] if kind == "cell" else needed & done["component"])
            for key, wrong in zip(read, readers.map(lambda key, kind=kind: store.damage(kind, key), read), strict=True):
                if wrong:
                    mates = _packed_with(store, units, kind, key)
                    store.delete(kind, key)
                    done[kind].remove(key)
                    # computed alone, it would differ by rounding
                    made = component_packs(plan) if kind == "component" else cell_packs(plan)
                    packs.begin(store, Pack(mates, next(pack.compute for pack in made if key in pack.keys)))
                    yield f"{kind} {key} is damaged ({'; '.join(wrong)}) and is computed again"


def _packed_with(store: Store, units: Mapping[str, Unit], kind: Kind, key: str) -> tuple[Unit, ...]:
    """Return the units of the pack in which an artifact was made; itself alone if that is not known."""
    with suppress(UserError):
        mates = [units.get(mate) for mate in store.manifest(kind, key).get("packed_with", [])]
        known = tuple(mate for mate in mates if mate is not None)
        if known and len(known) == len(mates):
            return known
    return (units[key],)
