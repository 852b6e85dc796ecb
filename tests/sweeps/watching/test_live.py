"""A status is shown until its run ends, in place on a terminal, as lines elsewhere."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from cluster.store import Store, open_store
from sweeps.watching.live import show_until_the_end
from sweeps.watching.run_report import Reporter
from sweeps.watching.status import SweepStatus, status_of
from sweeps.watching.units import watched_plan
from tests.support.recorded_sweeps import baseline, publish_result

CELLS = [baseline("x", "rebrac", seed) for seed in (0, 1)]
PLANNED = watched_plan([], CELLS, 0, "")


def looks(store: Store, published: int) -> Iterator[None]:
    """A run that publishes a cell between two looks, and ends with so many."""
    reporter = Reporter(store, "x")
    reporter.write()
    yield
    for cell in CELLS[:published]:
        publish_result(store.root, cell, [1.0])
        yield
    reporter.close()
    yield


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("published", [1, 2])  # of two: the run was stopped, or came to the end
def test_it_is_shown_until_the_run_ends(tmp_path: Path, terminal: bool, published: int) -> None:
    store, out = open_store(str(tmp_path)), io.StringIO()
    moment = looks(store, published)
    next(moment)

    def look() -> SweepStatus:
        return status_of("x", PLANNED, store)

    show_until_the_end(look, Console(file=out, force_terminal=terminal, width=100), sleep=lambda _: next(moment))
    shown = out.getvalue()
    assert shown.index("0 done, 2 new") < shown.index("1 done, 1 new")
    assert ("2: 2 done" in shown) == (published == 2)
    assert ("not running" in shown) == (published == 1)  # at the end everything is settled before the run is gone
    assert ("\x1b" in shown) == terminal
