"""Nodes of a Ray cluster are lost and added under a sweep that two drivers carry out; storage in a folder and on S3.

The moments follow from ``MPCWDWM_CHAOS_SEED``, which a failure prints.
"""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

from cluster.checkpoints import latest_checkpoint
from sweeps.watching.run_report import RunningPack, living_runs
from tests.support.disturbed_sweeps import ACTOR, SWEEP, TRIAL, Sandbox, wait_for_none, wait_until
from tests.support.ray_nodes import Nodes, ray_nodes
from tests.support.s3 import S3Server

pytestmark = [pytest.mark.services, pytest.mark.slow]

SEED = os.environ.get("MPCWDWM_CHAOS_SEED", "0")
CELLS = 27
SECTIONS = {
    "seeds": 3,
    "planners": {
        "mpc": {"horizon": [1, 2], "rollouts": [1, 2], "updates": [1, 2], "step_size": 1e-5},
    },
}
LONG = {"steps": 400_000, "hidden_dim": 16, "batch_size": 64, "evaluations": 1}  # minutes: it is never finished


@pytest.fixture(scope="module")
def large(new_sandbox: Callable[..., Sandbox], tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """The undisturbed sweep."""
    sandbox = new_sandbox(tmp_path_factory.mktemp("nodes") / "undisturbed", **SECTIONS)
    sandbox.compute()
    assert len(sandbox.published()["cell"]) == CELLS
    return sandbox


@pytest.fixture(scope="module")
def nodes(s3_session: S3Server) -> Iterator[Nodes]:
    with ray_nodes(3, s3_session.environment) as nodes:
        yield nodes


@pytest.mark.parametrize("kind", ["folder", "S3"])
def test_nodes_are_lost_and_added_under_two_drivers(
    kind: str,
    nodes: Nodes,
    large: Sandbox,
    new_sandbox: Callable[..., Sandbox],
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    print("seed", SEED)
    draw = random.Random(f"nodes {kind} {SEED}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    storage = "runs" if kind == "folder" else f"{s3.bucket()}/runs"
    sandbox = new_sandbox(tmp_path / "disturbed", storage=storage, **SECTIONS)
    driver = sandbox.start("--cluster", nodes.address)
    assert wait_until(lambda: nodes.working() > 0, driver), sandbox.log()
    second = sandbox.start("--cluster", nodes.address)
    nodes.lose(draw)  # while it pretrains
    nodes.add()
    half = draw.randint(1, CELLS // 3)
    assert wait_until(lambda: len(sandbox.published()["cell"]) >= half and nodes.working() > 0, driver), sandbox.log()
    nodes.lose(draw)  # while it evaluates
    nodes.add()
    sandbox.ended(driver, 0)
    sandbox.ended(second, 0)
    sandbox.finish("--cluster", nodes.address)
    sandbox.check_like(large)
    for title in (ACTOR, TRIAL):
        wait_for_none(nodes.mark, title)


@pytest.mark.parametrize("kind", ["folder", "S3"])
def test_a_lost_node_costs_the_work_since_the_last_checkpoint_and_sigterm_none(
    kind: str,
    nodes: Nodes,
    new_sandbox: Callable[..., Sandbox],
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = random.Random(f"cost {kind} {SEED}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    storage = "runs" if kind == "folder" else f"{s3.bucket()}/runs"
    sections = {"seeds": 3, "components": {"bc": LONG}, "baselines": ["bc"], "planners": {}}
    sandbox = new_sandbox(tmp_path / "long", storage=storage, **sections)
    store, driver = sandbox.store(), sandbox.start("--cluster", nodes.address)

    def running() -> dict[str, RunningPack]:
        return {pack.id: pack for run in living_runs(store, str(SWEEP["name"])) for pack in run.running if pack.pid}

    def saved(pack_id: str) -> float:
        """Return the part of a pack that its checkpoint holds; 0 if there is none."""
        file = latest_checkpoint(store, pack_id)
        if not file.exists():
            return 0.0
        with safe_open(file, framework="pt") as opened:
            return float(json.loads(opened.metadata()["facts"])["step"]) / LONG["steps"]

    assert wait_until(lambda: len(running()) == 3 and all(map(saved, running())), driver), sandbox.log()
    time.sleep(draw.uniform(3, 8))
    before = running()
    gone = nodes.lose(draw)
    nodes.add()
    (lost,) = (pack for pack in before.values() if pack.pid in gone)
    kept = saved(lost.id)

    def again() -> bool:
        pack = running().get(lost.id)
        return pack is not None and pack.pid not in gone and pack.fraction > 0

    began = time.monotonic()
    assert wait_until(again, driver), sandbox.log()
    assert running()[lost.id].fraction >= kept > 0
    print(f"{kind}: at {lost.fraction:.4f}, saved {kept:.4f}, going on after {time.monotonic() - began:.1f} s")
    last = running()
    driver.send_signal(signal.SIGTERM)
    sandbox.ended(driver, 130)
    assert all(saved(pack.id) >= pack.fraction for pack in last.values())
