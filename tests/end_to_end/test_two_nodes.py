"""A sweep on a running Ray cluster of two nodes, which its YAML names."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from cluster.ray import start as ray_cluster
from cluster.ray.nodes import check_nodes
from cluster.store import open_store
from mpcwdwm.errors import UserError
from sweeps.execution.driver import run
from sweeps.plan.plan import build_plan
from sweeps.spec.document import write_yaml
from sweeps.spec.spec import Spec, load_spec
from tests.support.parts import BUNDLED

pytestmark = [pytest.mark.services, pytest.mark.slow]

TINY = {"steps": 20, "hidden_dim": 8, "batch_size": 16, "evaluations": 1}
NODE = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": ray_cluster.OBJECT_STORE_BYTES}


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """Two nodes of one CPU each, so that a pack at a time fits on each."""
    with ray_cluster._loopback_only():
        cluster = Cluster(initialize_head=True, head_node_args=NODE)
        cluster.add_node(**NODE)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def gpus_beside_the_head() -> Iterator[Cluster]:
    """A head without a GPU, as launch files have it, and a node that says it has four."""
    with ray_cluster._loopback_only():
        cluster = Cluster(initialize_head=True, head_node_args=NODE)
        cluster.add_node(**NODE, num_gpus=4)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def spec_in(folder: Path, address: str) -> Spec:
    file = folder / "two.yaml"
    spec = {
        "name": "two",
        "tasks": [BUNDLED],
        "seeds": 2,
        "components": {"rebrac": TINY, "reward": TINY, "world_model": {**TINY, "denoising_steps": 2}},
        "baselines": ["rebrac"],
        "planners": {"mpc": {"kind": "policy", "horizon": [1, 2], "rollouts": 2, "updates": 1}},
        "evaluation": {"episodes": 1},
        "resources": {"address": address, "retries": 1},
    }
    file.write_text(write_yaml(spec))
    return load_spec(file)


def noting(folder: Path):
    """Return what computes a pack and notes on which node."""
    place = str(folder)

    def compute(store, pack, device, threads, on_progress):  # nested: pickled by value, workers see no tests
        from pathlib import Path

        import ray

        from cluster.work import compute_pack

        (Path(place) / f"{ray.get_runtime_context().get_node_id()} {pack.units[0].key} {device}").touch()
        return compute_pack(store, pack, "cpu", threads, on_progress)

    return compute


def notes_in(folder: Path) -> list[list[str]]:
    """Return (node, key, device) of every pack that was begun."""
    return [path.name.split() for path in folder.iterdir()]


def test_a_sweep_uses_both_nodes_of_the_cluster_its_yaml_names(nodes: Cluster, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    spec = spec_in(tmp_path, nodes.address)
    outcome = run(spec, compute=noting(tmp_path / "notes"))
    plan = build_plan(spec, store := open_store(spec.storage))
    assert (outcome.trained, outcome.evaluated, outcome.failed) == (len(plan.components), len(plan.cells), {})
    assert set(plan.states(store).values()) == {"cached"}
    for units in (plan.components, plan.cells):  # of a pack, the first unit is noted
        keys = {unit.key for unit in units}
        assert len({node for node, key, _ in notes_in(tmp_path / "notes") if key in keys}) == 2


def test_every_node_is_asked_before_work_starts(nodes: Cluster, tmp_path: Path) -> None:
    store, data, absent = open_store(tmp_path / "runs"), tmp_path / "data.hdf5", str(tmp_path / "absent.hdf5")
    data.write_bytes(b"12345")
    ray.init(nodes.address)
    assert check_nodes(store, [str(data)]) == []
    other = "a tree that is not the driver's"  # as on a node that was not brought up to date
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("cluster.ray.nodes.code_digest", lambda: other)
        patched.setattr("cluster.ray.nodes._size", lambda path: 7)
        found = check_nodes(store, [str(data), absent])
    assert len(found) == 6
    assert {(each.what, each.expected, each.hinders) for each in found} == {
        ("code of mpcwdwm", other, True),
        (str(data), "7 bytes", True),
        (absent, "7 bytes", True),
    }
    assert {each.found for each in found if each.what == absent} == {"no such file"}
    assert len({each.node for each in found}) == 2
    assert not store.names("checks")


def test_a_sweep_does_not_begin_on_nodes_that_lack_what_it_reads(
    nodes: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cluster.ray.nodes._size", lambda path: 7)  # on this machine alone: workers load their own
    spec = spec_in(tmp_path, nodes.address)
    with pytest.raises(UserError, match="2 of the cluster's nodes are not as the driver's machine is"):
        run(spec, compute=noting(tmp_path))
    assert "should be 7 bytes, found" in capsys.readouterr().err
    assert not open_store(spec.storage).keys("component")


def test_the_gpus_of_a_cluster_are_used_though_the_drivers_machine_has_none(
    gpus_beside_the_head: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").mkdir()
    run(spec_in(tmp_path, gpus_beside_the_head.address), compute=noting(tmp_path / "notes"))
    ray.init(gpus_beside_the_head.address)
    [gpu_node] = [node["NodeID"] for node in ray.nodes() if node["Resources"].get("GPU") == 4]
    assert {(node, device) for node, _, device in notes_in(tmp_path / "notes")} == {(gpu_node, "cuda")}
    idle = "note: training uses 0.25 of Ray's 4 GPUs: resources.actor.cpus is 1 and the nodes with GPUs have 1 CPUs"
    assert idle in capsys.readouterr().err
