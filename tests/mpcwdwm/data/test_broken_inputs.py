"""Every broken YAML and HDF5 file, through `mpcwdwm sweep run`: one line, exit code 2, nothing started.

What each line has to say is tested where the files are described; here it is that the command line
ends there, and that no cluster, no store and no record has been begun.
"""

import sys

import numpy as np
import pytest

import sweeps.cli
import sweeps.execution.driver
from tests.support.broken_datasets import BROKEN_ARRAYS, BROKEN_FILES
from tests.support.broken_specs import BROKEN
from tests.support.synthetic import episodes, write_hdf5

SPEC = """
name: foreign
tasks: [{name: mine, dataset: data.hdf5, env: Hopper-v4}]
seeds: 1
baselines: [rebrac]
"""


class Ended(Exception):
    """In place of the process's end."""


def outcome(folder, monkeypatch, capsys, *arguments):
    """Return (exit code, stderr) of the command run in `folder`."""
    codes = []

    def end(code):
        codes.append(code)
        raise Ended

    def started(*_):
        raise AssertionError("the driver was started")

    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["mpcwdwm", *arguments])
    monkeypatch.setattr(sweeps.cli, "leave", end)
    monkeypatch.setattr(sweeps.execution.driver.Driver, "carry_out", started)
    with pytest.raises(Ended):
        sweeps.cli.main()
    printed = capsys.readouterr()
    assert printed.out == ""
    return codes[0], printed.err


def check(folder, monkeypatch, capsys, *says):
    before = sorted(path.name for path in folder.iterdir())
    code, err = outcome(folder, monkeypatch, capsys, "sweep", "run", "s.yaml")
    assert code == 2
    *places, line = err.splitlines()  # a run says first where things go
    assert [one.split()[0] for one in places] in ([], ["sweep", "MLflow:"])
    assert line.startswith("error: ")
    for part in says:
        assert part in line
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_yaml_starts_nothing(kind, tmp_path, monkeypatch, capsys):
    content, place, _ = BROKEN[kind]
    (tmp_path / "s.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    check(tmp_path, monkeypatch, capsys, place)


@pytest.mark.parametrize("kind", BROKEN_ARRAYS)
def test_a_broken_array_starts_nothing(kind, tmp_path, monkeypatch, capsys):
    (tmp_path / "s.yaml").write_text(SPEC)
    change, _ = BROKEN_ARRAYS[kind]
    arrays = episodes()
    change(arrays)
    write_hdf5(tmp_path / "data.hdf5", arrays)
    check(tmp_path, monkeypatch, capsys, "data.hdf5")


@pytest.mark.parametrize("kind", BROKEN_FILES)
def test_a_broken_file_starts_nothing(kind, tmp_path, monkeypatch, capsys):
    (tmp_path / "s.yaml").write_text(SPEC)
    make, _ = BROKEN_FILES[kind]
    make(tmp_path / "data.hdf5")
    check(tmp_path, monkeypatch, capsys, "data.hdf5")


def test_a_dataset_of_another_robot_starts_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "s.yaml").write_text(SPEC)
    arrays = episodes(lengths=(20, 20), ends="tt", obs_dim=17, act_dim=6)
    write_hdf5(tmp_path / "data.hdf5", arrays)
    check(tmp_path, monkeypatch, capsys, "17", "11", "Hopper-v4")


def test_a_dataset_whose_rewards_are_all_equal_is_no_error(tmp_path):
    """Constant rewards are unusual, not broken: standardising them must not divide by zero."""
    from mpcwdwm.components import component_config
    from mpcwdwm.data import read_dataset
    from mpcwdwm.training.loop import train

    arrays = episodes(lengths=(20, 20), ends="tt")
    arrays["rewards"] = np.ones_like(arrays["rewards"])
    dataset = read_dataset(write_hdf5(tmp_path / "data.hdf5", arrays))
    config = component_config("reward", {}, {"steps": 5, "hidden_dim": 4, "batch_size": 8, "evaluations": 1})
    (trained,) = train("reward", config, dataset, [0])
    assert all(np.isfinite(tensor.numpy()).all() for tensor in trained.tensors.values())
