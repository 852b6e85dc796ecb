"""What is said of a node that is not as the driver's machine is."""

import os
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from ray.exceptions import NodeDiedError, RayError, RaySystemError, WorkerCrashedError

from cluster.provenance import code_digest
from cluster.ray.nodes import Facts, _answer, differences, facts_here
from cluster.store import open_store
from tests.support.shells import stand_in

VERSIONS = {"python": "3.11", "code": "abc", "torch": "2.13.0"}
HERE = Facts("head", VERSIONS, 1000.0, datasets={"/data/a.hdf5": 10})
THERE = replace(HERE, host="node7")


def said(there: Facts, asked: float = 999.0, answered: float = 1001.0) -> list[str]:
    return [str(found) for found in differences("node7", HERE, there, asked, answered)]


def test_a_node_as_the_drivers_machine_is_passes() -> None:
    assert said(THERE) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"versions": {**VERSIONS, "torch": "2.12.0"}}, "torch should be 2.13.0, found 2.12.0"),
        ({"versions": {**VERSIONS, "torch": "none"}}, "torch should be 2.13.0, found none"),
        ({"versions": {**VERSIONS, "code": "abd"}}, "code of mpcwdwm should be abc, found abd"),
        ({"versions": {"python": "3.11", "code": "abc"}}, "torch should be 2.13.0, found none"),
        ({"datasets": {"/data/a.hdf5": 9}}, "/data/a.hdf5 should be 10 bytes, found 9 bytes"),
        ({"datasets": {"/data/a.hdf5": -1}}, "/data/a.hdf5 should be 10 bytes, found no such file"),
        ({"storage": "cannot be written"}, "storage should be the driver's, readable and writable, found cannot be"),
    ],
    ids=str,
)
def test_what_is_different_is_one_line_and_hinders(change: dict, line: str) -> None:
    (found,) = differences("node7", HERE, replace(THERE, **change), 999.0, 1001.0)
    assert str(found).startswith(f"node node7: {line}")
    assert found.hinders


def test_a_clock_is_wrong_by_what_the_way_there_and_back_does_not_explain() -> None:
    assert said(replace(THERE, time=1100.0), answered=1075.0) == []
    assert said(replace(THERE, time=1100.0), answered=1060.0) == [
        "node node7: clock should be within 30 s of the driver's, found 40 s ahead"
    ]
    assert said(replace(THERE, time=900.0)) == [
        "node node7: clock should be within 30 s of the driver's, found 99 s behind"
    ]
    assert not differences("node7", HERE, replace(THERE, time=900.0), 999.0, 1001.0)[0].hinders


@pytest.mark.parametrize(
    ("error", "hinders"),
    [(NodeDiedError("gone"), False), (WorkerCrashedError(), False), (RaySystemError("no module named cluster"), True)],
    ids=lambda value: type(value).__name__,
)
def test_a_node_that_is_lost_while_it_is_asked_hinders_nothing(
    error: RayError, hinders: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("cluster.ray.nodes.ray.get", lose)
    (found,) = _answer("node7", HERE, None, 999.0)
    assert found.hinders == hinders


def test_a_gpu_that_somebody_else_uses_is_named() -> None:
    there = replace(THERE, gpus=((80000, 81920), (20480, 81920)))
    assert said(there) == ["node node7: memory of GPU 1 should be mostly free, found 20.0 GiB of 80.0 GiB free"]


def test_the_facts_are_those_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "runs")
    store.write_text("checks/mark", "seen")
    (tmp_path / "data").write_bytes(b"12345")
    stand_in(tmp_path, "nvidia-smi", "echo '100, 200'; echo '50, 200'")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = facts_here(store.location, "checks/mark", [str(tmp_path / "data"), str(tmp_path / "absent")], gpus=True)
    assert found.storage == ""
    assert found.datasets == {str(tmp_path / "data"): 5, str(tmp_path / "absent"): -1}
    assert found.versions["torch"] == version("torch").partition("+")[0]
    assert found.gpus == ((100, 200), (50, 200))


def test_another_folder_under_the_storages_path_is_found(tmp_path: Path) -> None:
    found = facts_here(str(tmp_path / "runs"), "checks/mark", [])  # here the driver has written nothing
    assert found.storage == f"another place at '{tmp_path / 'runs'}', without the driver's file"
    (tmp_path / "file").touch()
    assert facts_here(str(tmp_path / "file"), "checks/mark", []).storage


def test_the_hash_of_the_code_is_that_of_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, beside = tmp_path / "mpcwdwm", tmp_path / "cluster"
    for path in (package / "a.py", beside / "provenance.py"):
        path.parent.mkdir()
        path.write_text("x = 1\n")
    monkeypatch.setattr("mpcwdwm.__file__", str(package / "__init__.py"))
    monkeypatch.setattr("cluster.provenance.__file__", str(beside / "provenance.py"))
    hashes = [code_digest.__wrapped__()]
    for path in (package / "a.py", beside / "provenance.py"):
        path.write_text("x = 2\n")
        hashes.append(code_digest.__wrapped__())
    assert len(set(hashes)) == 3
