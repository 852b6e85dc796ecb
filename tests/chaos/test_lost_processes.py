"""Processes of a running sweep are killed; the command repeated gives the table of an undisturbed run.

The moments follow from ``MPCWDWM_CHAOS_SEED``, which a failure prints.
"""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.disturbed_sweeps import ACTOR, TRIAL, Sandbox, kill, wait_for_none

pytestmark = [pytest.mark.services, pytest.mark.slow]

SEED = os.environ.get("MPCWDWM_CHAOS_SEED", "0")


def test_an_actor_and_a_trial_are_killed_and_the_driver_is_stopped(
    undisturbed: Sandbox, new_sandbox: Callable[..., Sandbox], tmp_path: Path
) -> None:
    """Two processes are replaced by the driver that lost them; after SIGTERM the same command goes on."""
    draw = random.Random(f"one machine {SEED}")
    print("seed", SEED)
    sandbox = new_sandbox(tmp_path / "disturbed")
    driver = sandbox.start()
    assert kill(sandbox.mark, ACTOR, draw, driver), sandbox.log()
    assert kill(sandbox.mark, TRIAL, draw, driver), sandbox.log()
    driver.send_signal(signal.SIGTERM)
    sandbox.ended(driver, 0, 130)  # 0: it was done
    wait_for_none(sandbox.mark)
    sandbox.finish()
    sandbox.check_like(undisturbed)
