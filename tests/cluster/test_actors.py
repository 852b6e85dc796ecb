"""The pool on a real local Ray with two CPUs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import ray

from cluster.ray import start as ray_cluster
from cluster.ray.address import Address, check_reachable
from cluster.ray.attempts import Finished
from cluster.ray.grant import Grant
from cluster.ray.pool import Pool
from cluster.store import Store
from cluster.store.lease import hold
from cluster.units import ComponentUnit, Pack, TaskRef
from mpcwdwm.errors import Interrupted, UserError

pytestmark = pytest.mark.slow

TASK = TaskRef("hopper", "Hopper-v4", "/data/hopper.hdf5", "0" * 64, "3.4.0", "hopper", None, 1000, "local")
PATIENCE = 60.0  # seconds; a new actor takes about three


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray_cluster.start("local", cpus=2)
    yield
    ray_cluster.stop()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def pack(name: str) -> Pack:
    """A pack whose name says what becomes of it: see `obeying`."""
    return Pack(tuple(ComponentUnit(f"{name}-s{seed}", name, {}, TASK, seed) for seed in (0, 1)))


def obeying(folder: Path) -> Callable:
    """What stands in for the science: does what the pack's name says and notes pid and threads."""
    place = str(folder)

    def compute(store, pack, device, threads, on_progress):  # nested: pickled by value, workers see no tests
        import json
        import os
        import time
        from pathlib import Path

        name = pack.units[0].component
        tries = Path(place) / f"{name}-tries"
        tries.write_text((tries.read_text() if tries.exists() else "") + "x")
        pids = Path(place) / f"{name}-pid"
        pids.write_text(str(os.getpid()))
        if name == "wrong":
            raise UserError("a.hdf5: no rewards")
        if name == "broken":
            raise ZeroDivisionError("division\nby zero")
        if name == "dies" and len(tries.read_text()) < 2:
            os.kill(os.getpid(), 9)
        if name == "hangs-once" and len(tries.read_text()) < 2:
            on_progress(0.25)
            time.sleep(600)
        if name.startswith("slow"):
            on_progress(0.5)
            time.sleep(1.5)
        while name == "saves-when-told" and len(tries.read_text()) < 2:
            try:
                on_progress(0.5)
            except Interrupted:
                (Path(place) / "saved").touch()
                time.sleep(1.0)
                (Path(place) / "saved slowly").touch()
                raise
            time.sleep(0.05)
        facts = {"pid": os.getpid(), "omp": os.environ["OMP_NUM_THREADS"]}
        if name == "p0":
            import torch  # takes two seconds

            facts["torch_threads"] = torch.get_num_threads()

        def write(target):
            (target / "manifest.json").write_text(json.dumps(facts))

        return dict.fromkeys(pack.keys, write)

    return compute


@pytest.fixture
def pool(store: Store, tmp_path: Path) -> Iterator[Pool]:
    pool = Pool(store, slots=2, retries=2, compute=obeying(tmp_path))
    yield pool
    pool.close()


def finish(pool: Pool) -> list[Finished]:
    """Poll until nothing is pending."""
    finished: list[Finished] = []
    deadline = time.monotonic() + PATIENCE
    while pool.pending:
        assert time.monotonic() < deadline
        finished += pool.poll(1.0)
    return finished


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def free_cpus() -> float:
    return ray.available_resources().get("CPU", 0.0)


def test_an_actor_that_gets_no_process_is_asked_for_anew_once_there_is_room(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, room = [10**13], {"CPU": 2.0, "memory": 0.0}  # the first request is one that Ray never meets
    pool = Pool(store, slots=2, grant=lambda _: Grant(memory=memory[0]), compute=obeying(tmp_path))
    monkeypatch.setattr(ray, "available_resources", lambda: room)
    monkeypatch.setattr("cluster.ray.pool.STUCK_AFTER", 0.5)
    pool.submit(pack("p1"))
    time.sleep(1)
    pool.unstick()
    assert pool.poll(2.0) == []  # there is no room for it, so it still waits
    memory[0] = 10**9  # what it would get now
    room["memory"] = 10.0**10
    pool.unstick()
    assert [end.error for end in finish(pool)] == [None]
    assert (tmp_path / "p1-tries").read_text() == "x"
    pool.close()


def test_an_actor_that_answers_is_left_alone(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.ray.pool.STUCK_AFTER", 0.0)
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 2.0})
    pool.submit(pack("slow"))
    wait_until(lambda: pool.heard() != {} and any(slot.answered for slot in pool._busy.values()))
    pool.unstick()
    assert [end.error for end in finish(pool)] == [None]
    assert (tmp_path / "slow-tries").read_text() == "x"


def test_packs_run_in_order_on_reused_actors_with_capped_threads(pool: Pool, store: Store) -> None:
    names = [f"p{n}" for n in range(6)]
    for name in names:
        pool.submit(pack(name))
    assert pool.pending == 6
    finished = finish(pool)
    assert sorted(end.pack.units[0].component for end in finished) == names
    assert all(end.error is None for end in finished)
    manifests = [store.manifest("component", f"{name}-s0") for name in names]
    assert len({manifest["pid"] for manifest in manifests}) <= 2
    assert {manifest["omp"] for manifest in manifests} == {"1"}
    assert manifests[0]["torch_threads"] == 1
    assert store.work_ids() == []


def test_idle_actors_are_released_while_others_still_run(pool: Pool) -> None:
    wait_until(lambda: free_cpus() == 2)
    pool.submit(pack("slow"))
    pool.submit(pack("quick"))
    (quick,) = pool.poll(PATIENCE)
    assert quick.pack == pack("quick")
    wait_until(lambda: free_cpus() == 1)
    wait_until(lambda: pool.heard() == {pack("slow").id: (0.5, "")})
    assert pool.pending == 1
    finish(pool)
    wait_until(lambda: free_cpus() == 2)


def test_an_actor_saves_at_sigterm_then_ends_and_its_pack_runs_again(pool: Pool, store: Store, tmp_path: Path) -> None:
    pool.submit(pack("saves-when-told"))
    wait_until(lambda: pool.heard() == {pack("saves-when-told").id: (0.5, "")})
    actor = psutil.Process(int((tmp_path / "saves-when-told-pid").read_text()))
    actor.terminate()
    (finished,) = finish(pool)
    assert (tmp_path / "saved slowly").exists()
    assert finished.error is None
    assert store.keys("component") == ["saves-when-told-s0", "saves-when-told-s1"]
    assert not actor.is_running()
    assert store.failed() == set()


def test_a_pool_that_is_closed_lets_packs_save(pool: Pool, store: Store, tmp_path: Path) -> None:
    pool.submit(pack("saves-when-told"))
    wait_until(lambda: pool.heard() == {pack("saves-when-told").id: (0.5, "")})
    pool.close()
    assert (tmp_path / "saved slowly").exists()
    wait_until(lambda: free_cpus() == 2)
    assert store.failed() == set()


def test_a_pack_whose_actor_is_killed_runs_again_and_only_we_say_so(
    pool: Pool, store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pool.submit(pack("hangs-once"))
    wait_until(lambda: pool.heard() == {pack("hangs-once").id: (0.25, "")})
    os.kill(int((tmp_path / "hangs-once-pid").read_text()), signal.SIGKILL)
    (finished,) = finish(pool)
    assert finished.error is None
    assert store.keys("component") == ["hangs-once-s0", "hangs-once-s1"]
    assert (tmp_path / "hangs-once-tries").read_text() == "xx"
    (again,) = pool.tried_again()
    assert again.error == "the worker died (killed, out of memory, or it crashed)"
    assert "died" in Path(again.log).read_text()
    assert pool.tried_again() == []
    assert "A worker died" not in "".join(capfd.readouterr())


def test_a_failure_is_reported_in_one_line_after_the_last_try(pool: Pool, store: Store, tmp_path: Path) -> None:
    pool.submit(pack("broken"))
    pool.submit(pack("fine"))
    outcome = {end.pack.units[0].component: end for end in finish(pool)}
    broken = outcome["broken"]
    assert broken.error is not None
    assert broken.error.startswith("ZeroDivisionError: division by zero")
    assert "\n" not in broken.error
    assert Path(broken.log).read_text().count("Traceback") == 3
    assert (tmp_path / "broken-tries").read_text() == "xxx"
    assert (store.failure("broken-s1") or {})["error"] == broken.error
    assert outcome["fine"].error is None
    assert store.failure("fine-s0") is None


def test_what_the_user_got_wrong_is_not_tried_again(pool: Pool, tmp_path: Path) -> None:
    pool.submit(pack("wrong"))
    (finished,) = finish(pool)
    assert finished.error == "a.hdf5: no rewards"
    assert (tmp_path / "wrong-tries").read_text() == "x"


def test_a_worker_that_dies_every_time_is_given_up_with_a_reason(store: Store, tmp_path: Path) -> None:
    pool = Pool(store, slots=1, retries=0, compute=obeying(tmp_path))
    pool.submit(pack("dies"))
    (finished,) = finish(pool)
    pool.close()
    assert finished.error == "the worker died (killed, out of memory, or it crashed)"
    assert (store.failure("dies-s0") or {})["log"] == finished.log
    assert Path(finished.log).exists()


def test_a_pack_held_by_another_process_is_waited_for_and_says_so(pool: Pool, store: Store) -> None:
    with hold(store, pack("held").id, wait=False):
        pool.submit(pack("held"))
        wait_until(lambda: any(note for _, note in pool.heard().values()))
        assert f"pid {os.getpid()} on" in pool.heard()[pack("held").id][1]
        assert pool.poll(0.2) == []
    (finished,) = finish(pool)
    assert finished.error is None


def test_fewer_slots_release_actors_as_their_packs_end(pool: Pool) -> None:
    wait_until(lambda: free_cpus() == 2)
    for name in ("slow-1", "slow-2", "quick"):
        pool.submit(pack(name))
    wait_until(lambda: sorted(pool.heard().values()) == [(0.5, ""), (0.5, "")])
    pool.resize(1)
    ended = pool.poll(PATIENCE)
    while pool.pending:
        assert len(pool.heard()) == 1
        ended += pool.poll(PATIENCE)
    assert len(ended) == 3


def test_capacity_counts_whole_actors_and_refuses_what_never_fits() -> None:
    assert ray_cluster.capacity(1) == 2
    assert ray_cluster.capacity(0.5) == 4
    assert ray_cluster.capacity(2) == 1
    with pytest.raises(UserError, match="3 CPUs"):
        ray_cluster.capacity(3)
    with pytest.raises(UserError, match="1 GPUs"):
        ray_cluster.capacity(1, 1)


def test_an_actor_has_to_fit_on_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "resources", lambda: [(16.0, 0.0), (2.0, 4.0), (8.0, 1.0)])
    assert ray_cluster.capacity(1) == 26
    assert ray_cluster.capacity(1, 0.25) == 2 + 4
    assert ray_cluster.capacity(4) == 4 + 2
    with pytest.raises(UserError, match="but the nodes have 16 CPUs, 0 GPUs and 2 CPUs, 4 GPUs and 8 CPUs, 1 GPUs"):
        ray_cluster.capacity(4, 4)


def test_a_running_ray_is_found_to_answer() -> None:
    check_reachable(Address(ray.get_runtime_context().gcs_address, "RAY_ADDRESS"))


def test_local_ray_listens_on_the_loopback_only() -> None:
    pids = {process.pid for process in psutil.Process().children(recursive=True)}
    listening = [c for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.pid in pids]
    assert listening
    assert {c.laddr.ip.removeprefix("::ffff:") for c in listening} == {"127.0.0.1"}


DRIVER = """
import sys, time
from cluster.ray import start as ray_cluster
from cluster.ray.address import Address, check_reachable
from cluster.ray.pool import Pool
from cluster.store import open_store
from cluster.units import ComponentUnit, Pack, TaskRef
task = TaskRef("hopper", "Hopper-v4", "/x", "0" * 64, "3.4.0", None, None, 1000, "local")
def make():
    def compute(store, pack, device, threads, on_progress):
        import os, time
        from pathlib import Path
        Path(store.root.parent, "pid").write_text(str(os.getpid()))
        time.sleep(600)
    return compute
ray_cluster.start("local", cpus=1)
pool = Pool(open_store(sys.argv[1]), slots=1, compute=make())
pool.submit(Pack((ComponentUnit("orphan-s0", "orphan", {}, task, 0),)))
pool.poll(600)
"""


def test_workers_of_a_killed_driver_end_and_free_their_pack(store: Store, tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, store.location], stderr=subprocess.DEVNULL)
    wait_until((tmp_path / "pid").exists)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    (pack_id,) = store.work_ids()
    with hold(store, pack_id, wait=True):
        assert json.loads(store.read_text(f"work/{pack_id}/pack.json") or "")["units"][0]["key"] == "orphan-s0"


def test_a_ray_that_starts_too_late_gets_another_try(monkeypatch):
    calls = []

    def init(*arguments, **options):
        calls.append(arguments)
        if len(calls) < 3:
            raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_cluster.ray, "init", init)
    monkeypatch.setattr(ray_cluster.ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray_cluster.start()
    assert calls == [("local",)] * 3
    monkeypatch.setattr(ray_cluster, "START_TRIES", 1)
    calls.clear()
    with pytest.raises(UserError, match="did not start on this machine"):
        ray_cluster.start()
