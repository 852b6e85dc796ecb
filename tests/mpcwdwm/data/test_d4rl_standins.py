"""Files of D4RL's layout under D4RL's names: read, audited, and told apart from D4RL's."""

import numpy as np
import pytest

from mpcwdwm.data import TASKS, audit, dataset_path, read_dataset
from tests.support.d4rl_standins import DIMS, stand_in

D4RL = [task for task in TASKS.values() if task.source == "d4rl"]


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))


@pytest.mark.parametrize("task", D4RL, ids=lambda task: task.name)
def test_a_stand_in_of_every_registered_task_is_read_and_audited(task):
    written = stand_in(task)
    assert dataset_path(task) == written
    data = read_dataset(written)
    assert (data.obs_dim, data.act_dim) == DIMS[task.name.split("-")[0]][:2]
    assert len(data.reward) == 480
    found = audit(data, task)
    known = not any(kind in task.name for kind in ("random", "full-replay", "open"))
    assert ("not D4RL's file: 480 transitions instead of" in found.render()) is known


def test_rows_at_an_antmazes_goal_each_end_an_episode_as_for_d4rls_own_reader():
    data = read_dataset(stand_in(next(task for task in D4RL if task.name == "antmaze-umaze-v2")))
    assert data.terminal.sum() == 6 * 3
    assert not data.has_next_action[data.terminal].any()
    np.testing.assert_array_equal(data.reward, data.terminal.astype(np.float32))
