"""Our reader, registry and scores against the d4rl package itself, where it is installed.

d4rl runs in a process of its own, by the interpreter `MPCWDWM_D4RL_PYTHON` (default: this one), because
importing it changes the interpreter and because it is best kept in another environment altogether; see
docs/development.md. Without d4rl the tests are skipped, unless that variable asks for them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from mpcwdwm.data import TASKS, Dataset, dataset_path, find_task, read_dataset
from mpcwdwm.data.scores import normalized_score
from tests.support import ROOT
from tests.support.d4rl_side import ABSENT
from tests.support.parts import BUNDLED
from tests.support.synthetic import write_hdf5

SIDE = ROOT / "tests" / "support" / "d4rl_side.py"
ASKED = os.environ.get("MPCWDWM_D4RL_PYTHON")
D4RL_TASKS = [task for task in TASKS.values() if task.source == "d4rl"]
ARRAYS = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")


def d4rl_side(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ASKED or sys.executable, str(SIDE), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "D4RL_DATASET_DIR": str(folder / "datasets")},
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """The bundled file as it is, and as files of other origins are: without next observations, without timeouts."""
    folder = tmp_path_factory.mktemp("files")
    with h5py.File(dataset_path(find_task(BUNDLED))) as file:
        arrays = {name: file[name][()] for name in ARRAYS}
    variants = {"whole": (), "no_next_observations": ("next_observations",), "no_timeouts": ("timeouts",)}
    return {
        variant: write_hdf5(folder / f"{variant}.hdf5", {name: arrays[name] for name in ARRAYS if name not in dropped})
        for variant, dropped in variants.items()
    }


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, files) -> Path:
    """The folder in which d4rl's answers lie."""
    folder = tmp_path_factory.mktemp("d4rl")
    if (found := d4rl_side(folder)).returncode:
        if found.returncode == ABSENT and not ASKED:
            pytest.skip("d4rl is not installed (see docs/development.md)")
        pytest.fail(f"MPCWDWM_D4RL_PYTHON={ASKED}: {found.stderr}")
    ended = d4rl_side(folder, folder, *files.values())
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.fixture(scope="module")
def tables(theirs) -> dict:
    return json.loads((theirs / "tables.json").read_text())


def both(theirs: Path, files: dict[str, Path], variant: str) -> tuple[dict[str, np.ndarray], Dataset]:
    with np.load(theirs / f"{variant}.npz") as loaded:
        return dict(loaded), read_dataset(files[variant])


def assert_same(theirs: dict[str, np.ndarray], ours: Dataset, chosen: np.ndarray, *names: str) -> None:
    """Their transitions at these of their positions equal ours of the same rows, bit for bit."""
    mine = {"observations": ours.obs, "actions": ours.action, "rewards": ours.reward}
    mine |= {"next_observations": ours.next_obs, "terminals": ours.terminal}
    rows = theirs["rows"][chosen]
    assert len(rows) > 0
    for name in names:
        assert theirs[name].dtype == mine[name].dtype, name
        np.testing.assert_array_equal(theirs[name][chosen], mine[name][rows], err_msg=name)


# ── Transitions ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("variant", ["whole", "no_next_observations"])
def test_d4rl_keeps_every_row_but_the_timeouts_and_the_last(theirs, files, variant):
    found, ours = both(theirs, files, variant)
    rows = np.arange(len(ours.obs))
    np.testing.assert_array_equal(found["rows"], rows[~ours.timeout])  # the file's last row is a timeout
    np.testing.assert_array_equal(found["rows_on_end"], rows[:-1])


@pytest.mark.parametrize("variant", ["whole", "no_next_observations"])
def test_transitions_are_d4rls_bit_for_bit(theirs, files, variant):
    found, ours = both(theirs, files, variant)
    everywhere = np.ones(len(found["rows"]), dtype=bool)
    assert_same(found, ours, everywhere, "observations", "actions", "rewards", "terminals")
    assert_same(found, ours, ~found["terminals"], "next_observations")


def test_the_next_observation_of_a_terminal_row_is_the_fall_and_not_the_reset(theirs, files):
    found, ours = both(theirs, files, "whole")
    ends = found["rows"][found["terminals"]]
    assert len(ends) == ours.terminal.sum() > 0
    np.testing.assert_array_equal(found["next_observations"][found["terminals"]], ours.obs[ends + 1])  # the reset
    with h5py.File(files["whole"]) as file:
        stored = file["next_observations"][()]
    np.testing.assert_array_equal(ours.next_obs[ends], stored[ends])  # the fall
    assert (stored[ends] != ours.obs[ends + 1]).any(axis=1).all()
    assert ours.has_next_obs[ends].all()


def test_the_rows_d4rl_drops_serve_models_and_no_critic(theirs, files):
    found, ours = both(theirs, files, "whole")
    dropped = np.setdiff1d(np.arange(len(ours.obs)), found["rows"])
    np.testing.assert_array_equal(dropped, np.flatnonzero(ours.timeout))
    assert ours.has_next_obs[dropped].all()
    assert not ours.has_next_action[dropped].any()
    assert not ours.terminal[dropped].any()


def test_without_stored_next_observations_ends_have_none(theirs, files):
    found, ours = both(theirs, files, "no_next_observations")
    np.testing.assert_array_equal(np.flatnonzero(ours.has_next_obs), found["rows"][~found["terminals"]])


def test_without_timeouts_d4rl_joins_cut_episodes_and_we_do_not(theirs, files):
    found, ours = both(theirs, files, "no_timeouts")
    _, whole = both(theirs, files, "whole")
    np.testing.assert_array_equal(ours.timeout, whole.timeout)  # the jumps show where they were
    # d4rl counts steps instead: an episode cut before its thousandth step runs on into the next one.
    joined = np.isin(found["rows"], np.flatnonzero(ours.timeout))
    assert joined.any()
    found_next = found["next_observations"][joined]
    np.testing.assert_array_equal(found_next, ours.obs[found["rows"][joined] + 1])
    assert (found_next != ours.next_obs[found["rows"][joined]]).any(axis=1).all()
    assert_same(found, ours, ~joined & ~found["terminals"], *ARRAYS[:4], "terminals")


# ── Registry and scores ───────────────────────────────────────────────────────


def test_there_are_24_of_d4rls_tasks():
    assert len(D4RL_TASKS) == 32


@pytest.mark.parametrize("task", D4RL_TASKS, ids=lambda task: task.name)
def test_address_and_reference_scores_are_d4rls(tables, task):
    assert task.url == tables["urls"][task.name].replace("http://", "https://")  # the same host, asked over TLS
    assert task.reference == (tables["low"][task.name], tables["high"][task.name])


@pytest.mark.parametrize("task", D4RL_TASKS, ids=lambda task: task.name)
def test_normalized_score_is_a_hundred_times_d4rls(tables, task):
    ours = [normalized_score(value, task.reference) for value in tables["returns"]]
    assert ours == pytest.approx([100 * score for score in tables["scores"][task.name]], rel=1e-12)
