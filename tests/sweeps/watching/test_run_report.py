"""What a run tells of itself, from a storage that is slow."""

import json
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from cluster.store import Store
from cluster.store.lease import hold
from cluster.units import Pack
from sweeps.watching.run_report import LOOK_UP_FOR, Reporter, living_runs
from tests.support.recorded_sweeps import baseline

ANSWER = 0.15  # seconds
PACKS = [Pack((baseline("x", f"m{number}", 0),)) for number in range(8)]


class Slow(Store):
    """A store that takes its time to read a lease."""

    def read_text(self, name: str) -> str | None:
        if name.endswith("/lease"):
            time.sleep(ANSWER)
        return super().read_text(name)


def test_who_runs_new_packs_is_looked_up_over_several_reports_where_that_is_slow(tmp_path: Path) -> None:
    store, known = Store(tmp_path), []
    reporter = Reporter(Slow(tmp_path), "x")
    with ExitStack() as stack:
        for pack in PACKS:
            stack.enter_context(hold(store, pack.id, wait=False))
        for _ in range(3):
            began = time.monotonic()
            reporter.write((), {pack.id: (pack, 0.5, "") for pack in PACKS})
            assert time.monotonic() - began < LOOK_UP_FOR + 3 * ANSWER
            (run,) = living_runs(store, "x")
            assert len(run.running) == len(PACKS)
            known.append(sum(bool(each.host) for each in run.running))
    assert 0 < known[0] < len(PACKS)
    assert known == sorted(known)
    assert known[-1] == len(PACKS)


@pytest.mark.parametrize("looked_up", [True, False])
def test_of_a_pack_that_is_tried_again_the_new_try_is_reported(looked_up: bool, tmp_path: Path) -> None:
    store, pack = Store(tmp_path), PACKS[0]
    reporter, known = Reporter(store, "x"), []

    def report() -> None:
        reporter.write((), {pack.id: (pack, 0.5, "")})
        known.append(living_runs(store, "x")[0].running[0].pid)

    def take(pid: int, renewed: float = 0.0) -> None:
        lease = {"host": "a", "pid": pid, "started": "now", "renewed": renewed}
        store.write_text(f"work/{pack.id}/lease", json.dumps(lease))

    take(1)
    if looked_up:
        report()
    reporter.lose(pack.id)
    take(1, renewed=5.0)
    report()  # the lease of the worker that was lost is still there
    take(2)
    report()
    assert known[-3:] == ([1] if looked_up else []) + [0, 2]
