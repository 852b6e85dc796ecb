"""A training that stops or loses its machine is continued by another from its last checkpoint, wherever that lies."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster import work
from cluster.checkpoints import latest_checkpoint
from cluster.store import Store, open_store
from cluster.units import ComponentUnit, Pack, TaskRef
from cluster.work import PackFailure, attempt_pack, run_pack
from mpcwdwm.components import component_config
from mpcwdwm.data import dataset_path, find_task, sha256_of
from mpcwdwm.envs.factory import mujoco_version
from mpcwdwm.training import loop
from tests.support.parts import BUNDLED

STEPS = 400  # progress is reported every 50


@pytest.fixture
def pack() -> Pack:
    task = find_task(BUNDLED)
    path = dataset_path(task)
    where = TaskRef(task.name, task.env_id, str(path), sha256_of(path), mujoco_version(), None, None, 40, task.source)
    config = component_config("bc", {}, {"steps": STEPS, "hidden_dim": 8, "batch_size": 16, "evaluations": 2}).to_dict()
    return Pack(tuple(ComponentUnit(f"bc-s{seed}", "bc", config, where, seed) for seed in (3, 5)))


@pytest.fixture(params=["folder", "S3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "runs") if request.param == "folder" else request.getfixturevalue("s3").bucket()


@pytest.fixture
def on_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What goes on to another machine: what it has is the storage, and a cache of its own."""
    return lambda name: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))


def weights(store: Store) -> list[bytes]:
    return [(store.folder("component", key) / "weights.safetensors").read_bytes() for key in ("bc-s3", "bc-s5")]


def test_what_is_told_to_stop_is_continued_elsewhere_from_that_step(
    storage: str, pack: Pack, on_machine: Callable[[str], None], tmp_path: Path
) -> None:
    run_pack(str(tmp_path / "undisturbed"), pack, device="cpu", threads=1)
    on_machine("first")
    stop, heard = threading.Event(), list[float]()

    def stop_late(fraction: float) -> None:
        if fraction == 150 / STEPS:
            stop.set()  # which the next report finds

    left = attempt_pack(storage, pack, device="cpu", threads=1, on_progress=stop_late, stop=stop)
    assert isinstance(left, PackFailure)
    assert left.of_the_machine
    on_machine("second")
    run_pack(storage, pack, device="cpu", threads=1, on_progress=heard.append)
    assert heard[0] == 250 / STEPS  # the first report after 200
    assert weights(store := open_store(storage)) == weights(Store(tmp_path / "undisturbed"))
    assert store.work_ids() == []
    assert store.names(f"work/{pack.id}") == []


def test_a_machine_that_is_lost_costs_the_work_since_its_last_checkpoint(
    storage: str, pack: Pack, on_machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine("first")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)  # one after each update

    def die(fraction: float) -> None:
        if fraction == 250 / STEPS:
            raise KeyboardInterrupt  # nothing is saved on the way

    with pytest.raises(KeyboardInterrupt):
        run_pack(storage, pack, device="cpu", threads=1, on_progress=die)
    on_machine("second")
    heard = list[float]()
    run_pack(storage, pack, device="cpu", threads=1, on_progress=heard.append)
    assert heard[0] >= (200 if "://" in storage else 250) / STEPS  # the upload of 199 may last until 250


def test_of_two_checkpoints_the_further_one_is_continued(
    pack: Pack, on_machine: Callable[[str], None], request: pytest.FixtureRequest
) -> None:
    store_of: Callable[[], Store] = lambda: open_store(request.getfixturevalue("s3").bucket())  # noqa: E731
    on_machine("first")
    store = store_of()
    assert not latest_checkpoint(store, pack.id).exists()
    for here, there, expected in ((20, 30, 30), (40, 30, 40), (None, 30, 30), (40, None, 40), (40, b"cut", 40)):
        file = store.work_folder(pack.id) / "checkpoint.safetensors"
        store.delete_tree(f"work/{pack.id}")
        file.unlink(missing_ok=True)
        for step, target in ((there, file.with_name("there")), (here, file)):
            if isinstance(step, int):
                _checkpoint(target, step)
            elif step is not None:
                target.write_bytes(step)
        if there is not None:
            store.upload(file.with_name("there"), f"work/{pack.id}/checkpoint.safetensors")
        assert _step(latest_checkpoint(store, pack.id)) == expected


def _checkpoint(file: Path, step: int) -> None:
    from mpcwdwm.training.checkpoint import write_checkpoint

    write_checkpoint(file, {}, {"step": step})


def _step(file: Path) -> int:
    from mpcwdwm.training.checkpoint import read_checkpoint

    found = read_checkpoint(file)
    assert found is not None
    return int(found[1]["step"])


def test_storage_that_fails_costs_no_training(
    pack: Pack, on_machine: Callable[[str], None], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine("first")
    storage = request.getfixturevalue("s3").bucket()
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    failed = list[str]()

    def upload(own: Store, file: Path, name: str) -> None:
        failed.append(name)
        raise OSError("no answer")

    real = type(open_store(storage)).upload
    monkeypatch.setattr(
        type(open_store(storage)),
        "upload",
        lambda own, file, name: upload(own, file, name) if name.startswith("work/") else real(own, file, name),
    )
    result = run_pack(storage, pack, device="cpu", threads=1)
    assert result.keys == ("bc-s3", "bc-s5")
    assert len(failed) > 1  # each further checkpoint is tried again


def test_a_dead_folder_of_logs_ends_no_attempt(pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "append_log", full)
    monkeypatch.setattr(Store, "record_failure", full)
    outcome = attempt_pack(str(tmp_path), pack, device="cpu", threads=1, compute=lambda *_: {})
    assert isinstance(outcome, PackFailure)
    assert "No space left on device" in outcome.log
    work.record_failures(Store(tmp_path), pack, outcome)
