"""The artifact store: what has a name is complete, and stays as it is."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cluster.store import Store, open_store
from mpcwdwm.errors import UserError
from tests.support.artifacts import artifact

PUBLISH_FOREVER = """
import hashlib, itertools, json, os, sys
from cluster.store import open_store
store = open_store(sys.argv[1])
def write(folder):
    content = os.urandom(300_000)
    for part in range(3):
        (folder / f"weights-{part}").write_bytes(content[part * 100_000:(part + 1) * 100_000])
    (folder / "manifest.json").write_text(json.dumps({"sha": hashlib.sha256(content).hexdigest()}))
for n in itertools.count():
    store.publish("component", f"{os.getpid()}-{n}", write)
    store.write_text("failures/k.json", json.dumps({"n": n, "padding": "x" * 50_000}))
    if n % 3 == 2:
        store.delete("component", f"{os.getpid()}-{n - 1}")
"""


PUBLISH_THE_SAME = """
import hashlib, json, os, sys, time
from cluster.store import open_store
store, writer, begin = open_store(sys.argv[1]), sys.argv[2], float(sys.argv[3])
def write(folder):
    (folder / "weights").write_bytes(writer.encode() * 1000)
    (folder / "manifest.json").write_text(json.dumps({"writer": writer}))
time.sleep(max(0, begin - time.time()))
print(json.dumps([store.publish("cell", f"k{n}", write) for n in range(12)]))
"""


def test_an_artifact_is_found_after_it_was_published(store: Store) -> None:
    assert not store.has("component", "bc-s0")
    assert store.keys("component") == []
    assert store.publish("component", "bc-s0", artifact(seed=0))
    assert store.publish("component", "bc-s1", artifact(seed=1))
    assert store.keys("component") == ["bc-s0", "bc-s1"]
    assert store.keys("cell") == []
    assert store.manifest("component", "bc-s1")["seed"] == 1
    folder = store.folder("component", "bc-s0")
    assert (folder / "weights").read_bytes() == b"w" * 1000
    assert json.loads((folder / "manifest.json").read_text())["seed"] == 0


def test_publishing_twice_changes_nothing(store: Store) -> None:
    assert store.publish("cell", "k", artifact(version=1))
    assert not store.publish("cell", "k", artifact(version=2))
    assert store.manifest("cell", "k")["version"] == 1


def test_of_two_writers_at_once_the_first_wins_and_no_files_mix(store: Store) -> None:
    def overtaken(folder: Path) -> None:
        artifact(version="late")(folder)
        (folder / "extra").write_text("late")
        assert store.publish("component", "k", artifact(version="first"))

    assert not store.publish("component", "k", overtaken)
    assert store.manifest("component", "k")["version"] == "first"
    assert not (store.folder("component", "k") / "extra").exists()


PUBLISH_ONE = """
import sys
from cluster.store import open_store
def write(folder):
    (folder / "weights").write_text("w")
    (folder / "manifest.json").write_text("{}")
open_store(sys.argv[1]).publish("cell", sys.argv[2], write)
"""


@pytest.mark.parametrize("store", ["folder", "file URL", "S3"], indirect=True)
def test_what_another_process_publishes_is_seen_at_once(store: Store) -> None:
    for published in (["k1"], ["k1", "k2"]):
        subprocess.run([sys.executable, "-c", PUBLISH_ONE, store.location, published[-1]], check=True)
        assert store.keys("cell") == published
        assert store.names("results") == published
        assert [key for key, manifest in store.manifests("cell") if manifest is not None] == published
        assert store.has("cell", published[-1])
        assert "manifest.json" in store.names(f"results/{published[-1]}")
        assert store.damage("cell", published[-1]) == []


@pytest.mark.parametrize("store", ["folder", "S3"], indirect=True)
def test_two_processes_that_publish_the_same_units_double_nothing(store: Store) -> None:
    begin = time.time() + 4
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISH_THE_SAME, store.location, writer, str(begin)], stdout=subprocess.PIPE
        )
        for writer in "ab"
    ]
    published = [json.loads(process.communicate()[0]) for process in processes]
    assert store.keys("cell") == sorted(f"k{n}" for n in range(12))
    for number, won in enumerate(zip(*published, strict=True)):
        assert sorted(won) == [False, True]
        key = f"k{number}"
        writer = "ab"[won.index(True)]
        assert store.manifest("cell", key)["writer"] == writer
        assert (store.folder("cell", key) / "weights").read_bytes() == writer.encode() * 1000
        assert store.faults("cell", key) == []
        assert len(store.names(f"results/{key}")) == 2  # the manifest, and the file or one upload


def test_a_checked_store_is_empty_still(store: Store) -> None:
    assert store.check() == ()
    assert store.names("") == []


def test_a_damaged_file_is_named(store: Store) -> None:
    for key in ("cut", "flipped", "gone", "manifest", "sound"):
        store.publish("cell", key, artifact(seed=1))
    for key in ("cut", "flipped", "gone"):
        (inside,) = (name for name in store.names(f"results/{key}") if name != "manifest.json")
        name = f"results/{key}/{inside}" if inside == "weights" else f"results/{key}/{inside}/weights"
        if key == "gone":
            store.delete_tree(name)
        else:
            store.write_bytes(name, b"w" * 999 + (b"v" if key == "flipped" else b""))
    text = store.read_text("results/manifest/manifest.json") or ""
    store.write_text("results/manifest/manifest.json", text.replace('"seed": 1', '"seed": 2'))
    assert store.faults("cell", "cut") == ["weights: 999 bytes of 1000"]
    assert store.faults("cell", "flipped") == ["weights: changed since it was written"]
    assert store.faults("cell", "gone") == ["weights: missing"]
    assert store.faults("cell", "manifest") == ["manifest.json: changed since it was written"]
    assert store.faults("cell", "sound") == []
    assert {key for key, manifest in store.manifests("cell") if manifest} == set(store.keys("cell"))


def test_a_writer_that_fails_leaves_nothing(store: Store) -> None:
    def fail(folder: Path) -> None:
        (folder / "weights").write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.publish("component", "k", fail)
    assert not store.has("component", "k")
    assert store.keys("component") == []
    assert list((store.root / ".tmp").iterdir()) == []


def test_an_artifact_without_manifest_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match=r"manifest\.json"):
        store.publish("component", "k", lambda folder: None)
    assert not store.has("component", "k")


def test_a_deleted_artifact_is_gone_and_can_be_published_anew(store: Store) -> None:
    store.publish("component", "k", artifact(version=1))
    store.folder("component", "k")
    store.delete("component", "k")
    assert not store.has("component", "k")
    with pytest.raises(UserError, match="not in the store"):
        store.folder("component", "k")
    assert store.publish("component", "k", artifact(version=2))
    assert json.loads((store.folder("component", "k") / "manifest.json").read_text())["version"] == 2


def test_a_failure_is_remembered_until_it_is_cleared(store: Store) -> None:
    assert store.failure("k") is None
    store.clear_failure("k")
    store.record_failure("k", "ValueError: no", "/logs/p.log")
    record = store.failure("k")
    assert record is not None
    assert (record["key"], record["error"], record["log"]) == ("k", "ValueError: no", "/logs/p.log")
    store.clear_failure("k")
    assert store.failure("k") is None


def test_log_entries_are_appended(store: Store) -> None:
    place = store.append_log("component-1", "first trouble")
    assert store.append_log("component-1", "second trouble\n") == place
    text = log_text(store, "component-1")
    assert text.index("first trouble") < text.index("second trouble")


def log_text(store: Store, name: str) -> str:
    """All entries of a log, be it a file or, behind a URL, a folder with one object per entry."""
    path = f"logs/{name}.log"
    return store.read_text(path) or "".join(store.read_text(f"{path}/{entry}") or "" for entry in store.names(path))


def test_no_entry_of_a_log_with_many_writers_is_lost(store: Store) -> None:
    threads = [threading.Thread(target=store.append_log, args=("component-1", f"entry {n};")) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = log_text(store, "component-1")
    assert all(f"entry {n};" in text for n in range(20))


def test_a_reader_of_a_file_that_is_replaced_sees_one_version(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_text("failures/k.json", "old content")
    with (tmp_path / "failures" / "k.json").open() as reader:
        store.write_text("failures/k.json", "new")
        assert reader.read() == "old content"
    assert store.read_text("failures/k.json") == "new"


def test_a_file_goes_to_the_store_and_comes_back(store: Store, tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(b"x" * 100_000)
    assert not store.download("work/pack/file", tmp_path / "got")
    for _ in range(2):  # in place of an earlier one
        store.upload(tmp_path / "sent", "work/pack/file")
        assert store.download("work/pack/file", tmp_path / "got")
        assert (tmp_path / "got").read_bytes() == (tmp_path / "sent").read_bytes()
        (tmp_path / "sent").write_bytes(b"y")


def test_work_is_listed_until_it_is_removed(store: Store) -> None:
    store.write_text("work/cell-1/pack.json", "{}")
    (store.work_folder("cell-1") / "checkpoint.safetensors").write_bytes(b"c")
    assert store.work_ids() == ["cell-1"]
    store.remove_work("cell-1")
    assert store.work_ids() == []
    assert not (store.work_folder("cell-1") / "checkpoint.safetensors").exists()


def test_sweep_files_are_saved_under_the_sweeps_name(store: Store) -> None:
    place = store.save_sweep_file("quick", "table.md", "| a |")
    assert place.endswith("sweeps/quick/table.md")
    assert store.read_text("sweeps/quick/table.md") == "| a |"
    store.save_sweep_file("quick", "figure.png", b"| a |")
    assert store.read_text("sweeps/quick/figure.png") == "| a |"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden"])
def test_a_name_that_leads_out_of_its_folder_is_refused(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="plain name"):
        store.publish("component", name, artifact())


def test_opening_a_store_creates_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "runs")
    assert store.keys("cell") == []
    assert store.work_ids() == []
    assert store.failure("k") is None
    assert not (tmp_path / "runs").exists()


def test_a_location_is_absolute_because_actors_run_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("runs").location == str(tmp_path / "runs")


@pytest.mark.parametrize("location", ["nosuchprotocol://bucket/x", "FILE"])
def test_a_place_that_cannot_hold_a_store_is_the_users_error(location: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        open_store(location.replace("FILE", str(tmp_path / "file")))


def test_a_folder_without_manifest_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "components" / "k").mkdir(parents=True)
    (tmp_path / "components" / "k" / "weights").write_text("copied by hand, half of it")
    with pytest.raises(UserError, match="components/k"):
        Store(tmp_path).publish("component", "k", artifact())


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_kept(store: Store) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    host, _, started, _ = _temporary_name(store).split("~")
    folder = store.root / ".tmp"
    for name in (f"{host}~{dead.pid}~{started}~a", f"{host}~{os.getpid()}~{started}~b", f"elsewhere~1~{started}~c"):
        (folder / name).mkdir()
        (folder / name / "weights").write_text("half")
    (folder / f"elsewhere~1~{int(time.time()) - 10**6}~d").mkdir()
    assert store.sweep_up() == 2
    assert {path.name.split("~")[3] for path in folder.iterdir()} == {"b", "c"}


def test_writers_killed_at_any_moment_leave_only_complete_artifacts(tmp_path: Path) -> None:
    generator = random.Random(0)
    store = open_store(tmp_path / "runs")
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", PUBLISH_FOREVER, store.location])
        before = len(store.keys("component"))
        while len(store.keys("component")) == before:  # until it has come as far as publishing
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert json.loads(store.read_text("failures/k.json") or '{"n": 0}')["n"] >= 0
    keys = store.keys("component")
    assert len(keys) >= 20
    assert keys == store.names("components")
    for key in keys:
        folder = store.folder("component", key)
        content = b"".join((folder / f"weights-{part}").read_bytes() for part in range(3))
        assert hashlib.sha256(content).hexdigest() == store.manifest("component", key)["sha"]
    store.sweep_up()
    assert list((store.root / ".tmp").iterdir()) == []


def _temporary_name(store: Store) -> str:
    with store.temporary() as path:
        return path.name


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("file", "'.*file' is a file"),
        ("file/a/b", "'.*b' lies below '.*file', which is a file"),
        ("s3://", "names no bucket"),
        ("ftp://127.0.0.1:9/x", "cannot be opened"),
    ],
)
def test_a_place_that_can_be_no_store_is_refused_at_once(place: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=says):
        open_store(place if "://" in place else tmp_path / place)
