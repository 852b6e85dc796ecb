"""A table of the paper, by name and unchanged but for its size, on a file of D4RL's layout in the cache folder."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpcwdwm.data import find_task
from tests.support.d4rl_standins import stand_in

pytestmark = pytest.mark.slow

COMMAND = Path(sys.executable).parent / "mpcwdwm"
TASK = "antmaze-umaze-v2"
TINY = {  # what makes a run of minutes or days one of seconds
    "evaluation.episodes": 2,
    "evaluation.max_episode_steps": 5,
    "evaluation.select.episodes": 1,
    **{f"components.{part}.steps": 10 for part in ("rebrac", "iql", "bc", "world_model", "reward", "value")},
    **{f"components.{part}.batch_size": 32 for part in ("rebrac", "iql", "bc", "world_model", "reward", "value")},
    "components.value.episodes": 10,
    "components.value.length": 5,
    **{f"planners.{planner}.rollouts": 2 for planner in ("v1", "v1-tuned", "robust")},
}


def run(folder: Path, *arguments: str) -> str:
    own = {"D4RL_DATASET_DIR": str(folder / "d4rl"), "XDG_CACHE_HOME": str(folder / "cache")}
    ended = subprocess.run(
        [COMMAND, *arguments], cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_table_3_runs_by_name_from_an_empty_folder_to_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    stand_in(find_task(TASK), episodes=60, length=20)
    sets = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]
    part = ["--tasks", TASK, "--seeds", "1", *sets]
    printed = run(tmp_path, "sweep", "run", "table3", *part)
    (csv_file,) = (tmp_path / "runs" / "sweeps" / "table3").glob("tasks-*/table.csv")
    with csv_file.open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert {"rebrac", "iql", "bc", "v1", "v1-tuned", "robust"} <= rows.keys()
    for method in ("v1", "v1-tuned", "robust"):
        assert (rows[method]["base"], rows[method]["n_episodes"], rows[method]["status"]) == ("rebrac", "2", "ok")
        assert rows[method]["gain_mean"] != ""
    assert not {"ReBRAC", "MPCwDWM"}.intersection(rows)  # no published score beside a stand-in's
    assert run(tmp_path, "table", "table3", *part).splitlines()[:4] == printed.splitlines()[:4]
