"""Units are found by the words of their line, and their logs printed once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.store import Store, open_store
from cluster.units import Pack
from mpcwdwm.errors import UserError
from sweeps.watching.logs import follow_log, logs_of, named
from sweeps.watching.run_report import Reporter
from sweeps.watching.status import SweepStatus, status_of
from sweeps.watching.units import watched_plan
from tests.support.recorded_sweeps import baseline, component, mpc, publish_result, task

WALKER = task("walker-mini-v0")
CELLS = [baseline("x", "rebrac", 0), mpc("x", 0), mpc("x", 1), mpc("x", 1, of=WALKER)]
PLANNED = watched_plan([component("x", "rebrac", 0)], CELLS, 0, "")
LOG = "ValueError: no such luck"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path))
    place = store.append_log("cell-1", f"Traceback\n{LOG}")
    for cell in CELLS[1:3]:  # of one pack
        store.record_failure(cell.key, LOG, place, tries=3)
    return store


def status(store: Store) -> SweepStatus:
    return status_of("x", PLANNED, store)


@pytest.mark.parametrize(
    ("described", "meant"),
    [
        ("mpc", [1, 2, 3]),
        ("mpc seed 1", [2, 3]),
        ("MPC H=3 · walker · s1", [3]),
        ("hopper mpc seeds 0", [1]),
        (CELLS[2].key[:20], [1, 2]),
        ("rebrac seed 0", [-1, 0]),  # the component, and the row of its policy
    ],
)
def test_words_and_keys_name_units(store: Store, described: str, meant: list[int]) -> None:
    units = named(status(store), [described])
    keys = ["rebrac-hopper-mini-v0-s0-x" if index < 0 else CELLS[index].key for index in meant]
    assert [one.unit.key for one in units] == keys


def test_what_fits_nothing_is_answered_with_the_closest(store: Store) -> None:
    with pytest.raises(UserError, match=r"'walker-mini-v1 mpc'.*did you mean 'walker-mini-v0'"):
        named(status(store), ["walker-mini-v1 mpc"])


def test_the_log_of_a_pack_is_printed_once_under_the_names_of_its_units(store: Store) -> None:
    (text,) = logs_of(status(store), [], store)
    assert text.startswith("hopper-mini-v0  mpc H=3 M=8 E=1 α=1e-05  seed 0, hopper-mini-v0  mpc")
    assert text.count(LOG) == 1
    (line,) = logs_of(status(store), ["walker"], store)
    assert line == "walker-mini-v0  mpc H=3 M=8 E=1 α=1e-05  seed 1: new, no log"


def test_a_log_is_followed_until_its_unit_is_done(store: Store, tmp_path: Path) -> None:
    pack, said = Pack((CELLS[3],)), list[str]()
    reporter = Reporter(store, "x")
    reporter.write(running={pack.id: (pack, 0.1, "")})

    def moments() -> Iterator[None]:
        reporter.write(running={pack.id: (pack, 0.1, "")})
        store.append_log(pack.id, "a first try that failed")
        yield
        reporter.write(running={pack.id: (pack, 0.5, "")})
        yield
        reporter.close()
        publish_result(tmp_path, CELLS[3], [1.0])
        yield

    moment = moments()
    follow_log(lambda: status(store), ["walker"], store, say=said.append, sleep=lambda _: next(moment))
    assert ["10 %" in said[0], "first try" in said[1], "50 %" in said[2]] == [True] * 3
    assert said[-1].endswith(": done")
    assert "".join(said).count("first try") == 1


def test_only_what_runs_in_one_pack_is_followed(store: Store) -> None:
    with pytest.raises(UserError, match="name one unit"):
        follow_log(lambda: status(store), ["mpc"], store)
