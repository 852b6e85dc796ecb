"""`kill -9` of drivers, actors, trials and nodes at seeded moments; the command repeated gives the undisturbed table.

By default an actor, or a trial, and the driver. ``MPCWDWM_KILLS=50`` is the long version, on a Ray cluster of three
nodes, over as many sweeps as the kills need. ``MPCWDWM_CHAOS_SEED`` chooses what is killed when.
"""

import os
import random
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.disturbed_sweeps import ACTOR, TRIAL, Sandbox, kill
from tests.support.ray_nodes import Nodes, ray_nodes

pytestmark = pytest.mark.slow

SHORT = 2
KILLS = int(os.environ.get("MPCWDWM_KILLS", SHORT))
SEED = os.environ.get("MPCWDWM_CHAOS_SEED", "0")
MOST = 10.0  # seconds from one kill to that of a driver or a node: within them a run starts, trains and evaluates
TITLES = {"actor": ACTOR, "trial": TRIAL}


def test_a_second_run_finds_everything_done(undisturbed: Sandbox, tmp_path: Path) -> None:
    folder = undisturbed.folder / "runs"
    before, stamps = undisturbed.table(), {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*")}
    undisturbed.finish()
    assert {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*")} == stamps
    assert undisturbed.table() == before
    undisturbed.check_like(undisturbed)


def test_whatever_is_killed_the_command_repeated_ends_with_the_undisturbed_table(
    undisturbed: Sandbox, new_sandbox: Callable[..., Sandbox], tmp_path: Path
) -> None:
    draw = random.Random(f"kills {SEED}")
    kinds = ["actor", "trial", "driver"] if KILLS == SHORT else ["actor", "trial", "driver", "node"]
    left = ["driver", draw.choice(["actor", "trial"])] if KILLS == SHORT else draw.choices(kinds, k=KILLS)
    print("seed", SEED, left)
    with ExitStack() as stack:
        nodes = stack.enter_context(ray_nodes(3, {})) if "node" in left else None
        for number in range(KILLS):
            if not left:
                break
            sandbox = new_sandbox(tmp_path / f"sweep-{number}")
            done = len(left)
            disturb(sandbox, draw, left, nodes)
            sandbox.check_like(undisturbed)
            print(f"sweep {number}: {done - len(left)} killed")
    assert not left


def disturb(sandbox: Sandbox, draw: random.Random, left: list[str], nodes: Nodes | None) -> None:
    """Run a sweep to its end, killing what is left to be killed, the last first, as long as it runs."""
    where = () if nodes is None else ("--cluster", nodes.address)
    mark = sandbox.mark if nodes is None else nodes.mark
    driver = sandbox.start(*where)
    while left:
        if not killed(left[-1], driver, mark, draw, nodes):
            break  # it had ended
        kind = left.pop()
        if kind == "driver":
            driver.wait()
            driver = sandbox.start(*where)
    if sandbox.ended(driver, 0, 1):  # a pack has lost more processes than it is tried again
        sandbox.finish(*where)


def killed(kind: str, driver: subprocess.Popen[bytes], mark: str, draw: random.Random, nodes: Nodes | None) -> bool:
    """Kill one of this kind after a while; False if the driver ends first."""
    if kind in TITLES:
        return kill(mark, TITLES[kind], draw, driver)
    try:
        driver.wait(draw.uniform(0, MOST))
    except subprocess.TimeoutExpired:
        if nodes is None or kind == "driver":
            driver.kill()
        else:
            nodes.lose(draw)
            nodes.add()
        return True
    return False
