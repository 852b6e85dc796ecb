"""What a run tells of itself while it lives: a small file beside the sweep's spec, renewed every few seconds.

It says what runs where since when and how long the rest will take, which artifacts alone do not show, and it tells a
run that lives from one that was killed on another machine. Readers take no lock, and nothing waits for them. Each
run has a file of its own, so that two on one sweep do not overwrite each other's.
"""

import contextlib
import json
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from cluster.provenance import is_dead, process
from cluster.store import Store
from cluster.store.lease import holder
from cluster.units import Kind, Pack

__all__ = ["PhaseReport", "Reporter", "RunReport", "RunningPack", "living_runs"]

RENEW = 5.0  # seconds between two reports
LOOK_UP_FOR = 0.5  # seconds at most, for who runs new packs: behind a URL each lease takes tens of milliseconds
EXPIRY = 90.0  # seconds without one until a run counts as dead: a storage that fails for a minute kills none


@dataclass(frozen=True)
class PhaseReport:
    """How far the training or the evaluation is."""

    kind: Kind
    seconds_left: float | None  # None: nothing can be said yet, or nothing is left


@dataclass(frozen=True)
class RunningPack:
    """A pack that a worker computes."""

    id: str
    keys: tuple[str, ...]  # of its units
    fraction: float  # that is done
    host: str  # "" until its worker has said so
    pid: int
    since: str  # ISO 8601, UTC
    note: str = ""  # whom it waits for


@dataclass(frozen=True)
class RunReport:
    """A run at one moment."""

    host: str
    pid: int
    started: str  # ISO 8601, UTC
    renewed: float  # seconds since 1970
    phases: tuple[PhaseReport, ...] = ()
    running: tuple[RunningPack, ...] = ()


_READER = TypeAdapter(RunReport)


class Reporter:
    """Writes the report of this process' run of a sweep.

    Args:
        store: where the sweep is recorded.
        record: the sweep's name there.
    """

    def __init__(self, store: Store, record: str) -> None:
        self._store, self._me = store, process()
        self._name = f"{_folder(record)}/{self._me['host']}-{self._me['pid']}.json"
        self._leases: dict[str, Mapping[str, Any]] = {}  # of the packs that run, by id
        self._lost: dict[str, Mapping[str, Any]] = {}  # of packs that are tried again: the leases of earlier tries
        self._written = 0.0
        self._sweep_up(record)

    def due(self) -> bool:
        """Return whether it is time for another report."""
        return time.monotonic() - self._written >= RENEW

    def write(
        self, phases: Collection[PhaseReport] = (), running: Mapping[str, tuple[Pack, float, str]] | None = None
    ) -> None:
        """Write how far the run is; a storage that fails delays nothing, the next report follows in seconds.

        Args:
            phases: how far they are.
            running: pack id → the pack, the fraction that is done, and a note.
        """
        self._written = time.monotonic()
        with contextlib.suppress(Exception):  # each back end raises its own errors
            running = running or {}
            self._leases = {each: lease for each, lease in self._leases.items() if each in running}
            self._look_up(each for each in running if each not in self._leases)
            packs = tuple(self._running(*each) for each in running.values())
            report = RunReport(**self._me, renewed=time.time(), phases=tuple(phases), running=packs)
            self._store.write_text(self._name, json.dumps(asdict(report)))

    def lose(self, pack_id: str) -> None:
        """Take note that a pack is tried again: whoever ran it runs it no more, though its lease is still there."""
        with contextlib.suppress(Exception):
            if lost := self._leases.pop(pack_id, None) or holder(self._store, pack_id):
                self._lost[pack_id] = lost

    def close(self) -> None:
        """Take the report away, if there is one: the run has ended."""
        with contextlib.suppress(Exception):
            if self._written:
                self._store.delete_tree(self._name)

    def _sweep_up(self, record: str) -> None:
        """Remove the reports of runs that were killed."""
        with contextlib.suppress(Exception):
            alive = {(report.host, report.pid) for report in living_runs(self._store, record)}
            for name in self._store.names(_folder(record)):
                if tuple(name.removesuffix(".json").rsplit("-", 1)) not in {(host, str(pid)) for host, pid in alive}:
                    self._store.delete_tree(f"{_folder(record)}/{name}")

    def _look_up(self, pack_ids: Iterable[str]) -> None:
        """Read who runs these packs, as far as that is quick; the next reports have the rest."""
        began = time.monotonic()
        for pack_id in pack_ids:
            taken = holder(self._store, pack_id)
            if taken and _who(taken) != _who(self._lost.get(pack_id, {})):
                self._leases[pack_id] = taken
            if time.monotonic() - began > LOOK_UP_FOR:
                return

    def _running(self, pack: Pack, fraction: float, note: str) -> RunningPack:
        lease = self._leases.get(pack.id, {})
        where = (lease.get("host", ""), lease.get("pid", 0), lease.get("started", ""))
        return RunningPack(pack.id, pack.keys, round(fraction, 3), *where, note)


def living_runs(store: Store, record: str) -> list[RunReport]:
    """Return the reports of the runs of a sweep that live, the oldest first."""
    found = []
    for name in store.names(_folder(record)):
        with contextlib.suppress(ValueError):  # of another version
            report = _READER.validate_json(store.read_text(f"{_folder(record)}/{name}") or "")
            if time.time() - report.renewed < EXPIRY and not is_dead(report.host, report.pid):
                found.append(report)
    return sorted(found, key=lambda report: report.started)


def _who(lease: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return whose lease it is; behind a URL it also says when it was renewed last."""
    return tuple(lease.get(name) for name in ("host", "pid", "started"))


def _folder(record: str) -> str:
    return f"sweeps/{record}/runs"
