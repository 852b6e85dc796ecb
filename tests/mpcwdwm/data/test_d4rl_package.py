"""A dataset that an installed d4rl reads, with a stand-in for its interpreter, and with d4rl 1.1 where there is one."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest

from mpcwdwm.data import dataset_path, find_task, read_dataset
from mpcwdwm.data.d4rl_package import Told, ask_d4rl, interpreter, package_path
from mpcwdwm.data.tasks import package_task
from mpcwdwm.errors import UserError
from sweeps.data_commands import data_get
from sweeps.spec.spec import load_spec
from tests.support.d4rl_standins import stand_in

ANTMAZE, HOPPER = "antmaze-umaze-v2", "hopper-medium-v2"
ASKED = os.environ.get("MPCWDWM_D4RL_PYTHON")

# What d4rl_side uses of d4rl and gym. The rewards of its own get_dataset are doubled, so that they can be told apart.
D4RL = {
    "gym.py": """
        import collections, types
        spaces = types.SimpleNamespace(Box=collections.namedtuple("Box", "low high shape"))
    """,
    "d4rl/__init__.py": """
        import numpy as np
        from d4rl import infos, offline_env

        def qlearning_dataset(env, dataset):
            rows = [i for i in range(len(dataset["rewards"]) - 1) if not dataset["timeouts"][i]]
            pick = lambda name, shift=0: dataset[name][[row + shift for row in rows]]
            return {
                "observations": pick("observations"), "actions": pick("actions"), "rewards": pick("rewards"),
                "next_observations": pick("observations", SHIFT), "terminals": pick("terminals"),
            }
    """,
    "d4rl/infos.py": """
        DATASET_URLS = {TASK: "http://localhost/FILE"}
    """,
    "d4rl/offline_env.py": """
        import h5py, os

        def download_dataset_from_url(url):
            print("Downloading dataset:", url)
            return os.path.join(os.environ["D4RL_DATASET_DIR"], url.rsplit("/", 1)[1])

        class OfflineEnv:
            def __init__(self, dataset_url):
                self.url = dataset_url

            def get_dataset(self):
                assert self.observation_space.shape and self._max_episode_steps
                arrays = {}
                with h5py.File(download_dataset_from_url(self.url), "r") as file:
                    found = lambda name, node: arrays.update({name: node[()]} if hasattr(node, "dtype") else {})
                    file.visititems(found)
                for name in ("rewards", "terminals"):
                    arrays[name] = arrays[name].reshape(-1)
                arrays["rewards"] = 2 * arrays["rewards"]
                return arrays
    """,
    "d4rl-1.1.dist-info/METADATA": """
        Metadata-Version: 2.1
        Name: d4rl
        Version: 1.1
    """,
}


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def stand_in_python(folder: Path, task: str, *, without: str = "", shift: int = 1) -> str:
    """Return an interpreter that has this d4rl; every use of it adds a line to ``uses``."""
    for name, text in D4RL.items():
        if not (without and name.startswith(without)):
            (folder / "site" / name).parent.mkdir(parents=True, exist_ok=True)
            text = text.replace("TASK", repr(task)).replace("FILE", Path(find_task(task).url).name)
            (folder / "site" / name).write_text(textwrap.dedent(text).replace("SHIFT", str(shift)).lstrip())
    return program(folder / "python", f'echo >> {folder}/uses\nPYTHONPATH={folder}/site exec {sys.executable} "$@"')


def transitions(dataset) -> int:
    """Every row but the last and those that the file calls timeouts."""
    with h5py.File(dataset.path) as file:
        return len(dataset.obs) - 1 - int(file["timeouts"][:-1].sum())


@pytest.mark.parametrize("task", [ANTMAZE, HOPPER])
def test_its_own_get_dataset_gives_the_rows_and_is_asked_once(tmp_path, task):
    original = read_dataset(stand_in(find_task(task)))
    asked = package_task(task, stand_in_python(tmp_path, task))
    path = dataset_path(asked)
    ours = read_dataset(path)
    np.testing.assert_array_equal(ours.reward, 2 * original.reward)
    for name in ("obs", "action", "terminal", "timeout", "next_obs", "has_next_obs", "has_next_action"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(original, name), err_msg=name)
    assert Told.recorded(path) == Told("1.1", transitions(original), 0)
    with h5py.File(path) as file:
        assert file["infos/qpos"].shape[0] == len(original.obs)
        assert not any(name.startswith("metadata") for name in file)
    assert dataset_path(asked) == path
    assert (tmp_path / "uses").read_text() == "\n"
    assert path.with_name(f"{path.name}.json").exists()  # size and hash, recorded at first use
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="not the file recorded at first use"):
        dataset_path(asked)


def test_transitions_that_it_forms_otherwise_are_counted(tmp_path):
    original = read_dataset(stand_in(find_task(ANTMAZE)))
    path = ask_d4rl(ANTMAZE, stand_in_python(tmp_path, ANTMAZE, shift=0), 700)  # next observations are the same rows
    told = Told.recorded(path)
    with h5py.File(path) as file:
        kept = ~(file["timeouts"][:-1].astype(bool) | original.terminal[:-1])
    assert told.otherwise == int(kept.sum()) > 0


def test_a_sweep_and_the_command_line_name_the_interpreter(tmp_path, capsys):
    stand_in(find_task(ANTMAZE))
    python = stand_in_python(tmp_path, ANTMAZE)
    text = "name: s\ntasks:\n- {name: antmaze-umaze-v2, source: d4rl-package, python: ./python}\nseeds: 1\n"
    (tmp_path / "s.yaml").write_text(text)
    spec = load_spec(tmp_path / "s.yaml")
    [resolved] = spec.tasks
    assert (resolved.task.python, resolved.task.path) == (python, package_path(ANTMAZE, python))
    assert resolved.task.source == "d4rl"  # published settings and scores hold
    (tmp_path / "r.yaml").write_text(spec.to_yaml())
    assert load_spec(tmp_path / "r.yaml").tasks[0].task == resolved.task
    data_get([ANTMAZE], python)
    said = capsys.readouterr()
    counted = "d4rl 1.1: 474 transitions, 0 of them read otherwise here"
    assert said.out.splitlines() == [str(resolved.task.path), counted]
    assert "the file is not D4RL's" in said.err


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{name: antmaze-umaze-v2, source: d4rl-package, python: ./absent}", r"absent' is no program"),
        ("{name: antmaze-umaze-v2, source: d4rl-package, python: no-such-command}", r"'no-such-command' is no program"),
        ("{name: antmaze-umaze-v2, source: d4rl-package}", r"python"),
        ("{name: antmaze-umaze-v3, source: d4rl-package, python: sh}", r"did you mean 'antmaze-umaze-v2'"),
        ("{name: hopper-medium-replay-mini-ppo-v0, source: d4rl-package, python: sh}", r"not one of D4RL's"),
        ("{name: antmaze-umaze-v2, source: d4rl, python: sh}", r"d4rl-package"),
    ],
)
def test_a_wrong_entry_is_refused_at_its_line(tmp_path, entry, said):
    (tmp_path / "s.yaml").write_text(f"name: s\ntasks:\n- {entry}\nseeds: 1\n")
    with pytest.raises(UserError, match=rf"s\.yaml:3: .*{said}"):
        load_spec(tmp_path / "s.yaml")


FAILURES = {
    "no_interpreter": ("exit 0", "wrote no arrays"),
    "raises": ("echo Traceback >&2; echo 'OSError: the host is away' >&2; exit 1", "OSError: the host is away$"),
    "killed": ("kill -9 $$", "exit code -9"),
    "writes_nonsense": ('echo nonsense > "$4"', "wrote no arrays"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_one_line(tmp_path, failure):
    script, said = FAILURES[failure]
    with pytest.raises(UserError, match=said) as caught:
        ask_d4rl(ANTMAZE, program(tmp_path / "python", script), 700)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.hdf5"))


def test_an_interpreter_that_cannot_be_run_or_has_no_d4rl_is_named(tmp_path):
    (tmp_path / "python").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(UserError, match="cannot be run: Exec format error"):
        ask_d4rl(ANTMAZE, interpreter("./python", tmp_path), 700)
    bare = stand_in_python(tmp_path, ANTMAZE, without="d4rl")
    with pytest.raises(UserError, match=r"No module named 'd4rl'.*pip install --no-deps d4rl==1\.1"):
        ask_d4rl(ANTMAZE, bare, 700)
    stand_in_python(tmp_path, ANTMAZE)
    with pytest.raises(UserError, match="does not give 'hopper-medium-v2': it has no dataset of this name"):
        ask_d4rl(HOPPER, bare, 1000)


@pytest.mark.parametrize("task", [ANTMAZE, "antmaze-medium-diverse-v2", HOPPER, "maze2d-umaze-v1"])
def test_d4rl_itself_gives_what_is_read_here(tmp_path, task):
    python = ASKED or sys.executable
    if not ASKED and subprocess.run([python, "-c", "import d4rl"], capture_output=True).returncode:
        pytest.skip("d4rl is not installed (see docs/development.md)")
    original = read_dataset(stand_in(find_task(task)))
    path = dataset_path(package_task(task, interpreter(python, tmp_path)))
    ours, told = read_dataset(path), Told.recorded(path)
    for name in ("obs", "action", "reward", "terminal", "timeout", "next_obs", "has_next_obs", "has_next_action"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(original, name), err_msg=name)
    assert (told.transitions, told.otherwise) == (transitions(original), 0)
