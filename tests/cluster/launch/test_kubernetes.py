"""Jobs for Kubernetes satisfy the schemas of the API and of the operator; a stand-in `kubectl` is given them.

The JSON file beside this one has the schemas, with their source, version and licence.
"""

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from cluster.launch.kubernetes import KubernetesSite, dns_name, kubectl, kubernetes_objects, to_yaml
from mpcwdwm.errors import UserError
from tests.support import ROOT
from tests.support.shells import hostile, stand_in

SCHEMAS = json.loads((Path(__file__).parent / "kubernetes_1.36_kuberay_1.7.0.json").read_text())
SMALL = {"image": "registry.example.org/mpcwdwm:1", "claim": "shared"}
FULL = {
    **SMALL,
    "namespace": "lab",
    "queue": "research",
    "priority_class": "low",
    "service_account": "sweeps",
    "workers": 4,
    "cpus_per_node": 16,
    "memory_per_node": "64Gi",
    "gpus_per_node": 2,
    "node_selector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "gpu": ""},
    "secrets": ["s3", "mlflow"],
    "variables": {"NCCL_DEBUG": "WARN"},
    "retries": 0,
    "deadline": 3600,
}


def objects(given: dict[str, Any], record: str = "trial", spec: str = "name: trial\n") -> list[dict[str, Any]]:
    """The objects as the cluster reads them: through YAML."""
    made = kubernetes_objects(KubernetesSite(**given), record, spec, ["--seeds=0,1"])
    return list(YAML(typ="safe", pure=True).load_all(to_yaml(made)))


def check(found: list[dict[str, Any]]) -> None:
    for each in found:
        jsonschema.validate(each, SCHEMAS[each["kind"]])


@pytest.mark.parametrize("given", [SMALL, FULL], ids=["small", "full"])
def test_the_objects_satisfy_the_schemas(given: dict[str, Any]) -> None:
    found = objects(given)
    assert [each["kind"] for each in found] == ["ConfigMap", "RayJob"]
    check(found)


def test_the_shipped_file_satisfies_them() -> None:
    check(list(YAML(typ="safe", pure=True).load_all(ROOT / "cluster" / "launch" / "kuberay.yaml")))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("spec", "entrypont"), "bash"),
        (("spec", "backoffLimit"), "3"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "replicas"), "4"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "imag"), "x"),
        (("metadata", "name"), "Trial"),
        (("apiVersion",), "ray.io/v1alpha1"),
    ],
)
def test_the_schemas_would_refuse_a_mistake(place: tuple[Any, ...], value: Any) -> None:
    job = copy.deepcopy(objects(SMALL)[1])
    parent = job
    for step in place[:-1]:
        parent = parent[step]
    parent[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check([job])


def test_a_job_has_what_the_yaml_says() -> None:
    files, job = objects(FULL)
    assert {each["metadata"]["namespace"] for each in (files, job)} == {"lab"}
    assert job["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "research"}
    assert "labels" not in objects(SMALL)[1]["metadata"]
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"] == 4
    head, worker = (group["template"]["spec"] for group in (cluster["headGroupSpec"], workers))
    assert worker["containers"][0]["resources"]["limits"] == {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "2"}
    assert "nvidia.com/gpu" not in head["containers"][0]["resources"]["limits"]
    for pod in (head, worker):
        (container,) = pod["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert container["envFrom"] == [{"secretRef": {"name": "s3"}}, {"secretRef": {"name": "mlflow"}}]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert files["data"]["spec.yaml"] == "name: trial\n"
    assert files["data"]["run.sh"].endswith("--cluster auto --seeds=0,1 -- /mnt/shared/mpcwdwm-trial.yaml\n")


@pytest.mark.parametrize("record", ["Trial", "a.b_c", "x" * 80, "trial/seeds-1-3fa2b1", f"{'x' * 80}/s-3fa2b1", "a-"])
def test_names_are_ones_that_the_operator_takes(record: str) -> None:
    check(objects(SMALL, record))
    assert dns_name(f"{'x' * 80}/s-3fa2b1") != dns_name(f"{'x' * 80}/s-3fa2b2")


@pytest.mark.parametrize("text", ["32GB", "32 Gi", "0", "-1Gi", "1e3", "Gi", "1.5.2", "32gi"])
def test_a_size_that_kubernetes_does_not_read_is_refused(text: str) -> None:
    for field in ("memory_per_node", "head_memory"):
        with pytest.raises(ValidationError):
            KubernetesSite.model_validate({**SMALL, field: text})
    for size in ("32Gi", "32G", "512Mi", "34359738368"):
        check(objects({**SMALL, "memory_per_node": size}))


@pytest.mark.parametrize("field", ["image", "claim", "namespace", "queue", "memory_per_node", "service_account"])
def test_a_field_takes_no_more_than_a_name(field: str, tmp_path: Path) -> None:
    for text in [*hostile(tmp_path / "mark"), "", "a b", "a\nkind: Pod"]:
        with pytest.raises(ValidationError):
            KubernetesSite.model_validate({**SMALL, field: text})


def test_the_yaml_of_the_sweep_arrives_as_it_is(tmp_path: Path) -> None:
    for text in ["a: 1\n", "a: 1", "  a: 1 \n\n# é\n", 'a: "---\\n"\n---\n', "a:\t1\n", *hostile(tmp_path / "mark")]:
        assert objects(SMALL, spec=text)[0]["data"]["spec.yaml"] == text


def test_what_kubernetes_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    made = kubernetes_objects(KubernetesSite(**FULL), "trial", "", [])
    refusal = 'Error from server (AlreadyExists): rayjobs.ray.io "mpcwdwm-trial" already exists'
    stand_in(tmp_path, "kubectl", f"echo '{refusal}' >&2; exit 1")
    again = "`kubectl delete rayjob,configmap mpcwdwm-trial -n lab` ends the earlier job"
    with pytest.raises(UserError, match=re.escape(again)):
        kubectl(made)
    stand_in(tmp_path, "kubectl", "echo 'error: quota exceeded' >&2; exit 1")
    with pytest.raises(UserError, match=r"^Kubernetes refused the job: error: quota exceeded$"):
        kubectl(made)
    unreachable = (
        'Get "http://localhost:8080/x": dial tcp 127.0.0.1:8080: connect: connection refused; if you choose to'
    )
    stand_in(tmp_path, "kubectl", f"echo '{unreachable} ignore these errors, turn validation off' >&2; exit 1")
    with pytest.raises(UserError, match=r"cannot be reached from here: .*refused; does `kubectl get pods` work\?$"):
        kubectl(made)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="there is no `kubectl` here"):
        kubectl(made)
