"""A sweep as a RayJob of the KubeRay operator (1.5.1 or later): its cluster lives as long as the sweep.

The YAML and the command travel in a ConfigMap. The operator pastes the entrypoint into a shell, so that is always the
same three words; what a user gave is quoted once, in the script that it runs.
"""

import io
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import LiteralScalarString

from cluster.launch.fields import (
    MOST_CORES,
    MOST_GPUS,
    MOST_NODES,
    AbsolutePath,
    DnsName,
    Image,
    LabelName,
    LabelValue,
    Quantity,
    Variables,
)
from mpcwdwm.config import Config, Int, setting
from mpcwdwm.errors import UserError

__all__ = ["KubernetesSite", "check_kubectl", "dns_name", "kubectl", "kubernetes_objects", "to_yaml"]

OPERATOR_API = "ray.io/v1"
FILES = "/etc/mpcwdwm"  # where the ConfigMap is mounted
SCRIPT, SPEC = "run.sh", "spec.yaml"
NAME_LENGTH = 47  # the operator's limit for a RayJob: names of pods are longer
GPU = "nvidia.com/gpu"
ANSWER_SECONDS = 60  # kubectl itself waits much longer for a cluster that is not there
LONGEST = 2**31 - 1  # the operator's seconds have 32 bits


class KubernetesSite(Config):
    """``cluster: {kubernetes: …}``: the image, the shared volume and the sizes of the pods."""

    image: Image = setting(..., "image with mpcwdwm and this version of Ray: cluster/launch/Containerfile")
    claim: DnsName = setting(..., "PersistentVolumeClaim that many nodes can write, with the datasets")
    mount: AbsolutePath = setting("/mnt/shared", "where it is mounted; the YAML's relative paths count from there")
    namespace: DnsName | None = setting(None, "namespace; unset: that of kubectl's context")
    queue: DnsName | None = setting(None, "Kueue's LocalQueue that admits the job; unset: none")
    priority_class: DnsName | None = setting(None, "PriorityClass of the pods; unset: the cluster's default")
    service_account: DnsName | None = setting(None, "ServiceAccount of the pods; unset: the namespace's")
    workers: Int = setting(1, "pods that compute", ge=1, le=MOST_NODES)
    cpus_per_node: Int = setting(8, "processor cores of each of them", ge=1, le=MOST_CORES)
    memory_per_node: Quantity = setting(
        "32Gi", "memory of each: near it Ray kills workers, and the pack is tried again"
    )
    gpus_per_node: Int = setting(0, "GPUs of each", ge=0, le=MOST_GPUS)
    head_cpus: Int = setting(2, "processor cores of the pod of the driver, which computes nothing", ge=1, le=MOST_CORES)
    head_memory: Quantity = setting("8Gi", "memory of the pod of the driver")
    node_selector: dict[LabelName, LabelValue] = setting({}, "labels that nodes need to have, such as a kind of GPU")
    secrets: list[DnsName] = setting([], "Secrets whose entries become environment variables: credentials")
    variables: Variables = setting({}, "environment variables; no credentials")
    retries: Int = setting(3, "new clusters if one is lost; what was published is kept", ge=0, le=1000)
    keep: Int = setting(300, "after its end the cluster is deleted", unit="s", ge=0, le=LONGEST)
    deadline: Int | None = setting(None, "the job is ended after so long; unset: never", unit="s", ge=60, le=LONGEST)


def dns_name(record: str) -> str:
    """Return the name of the objects of a sweep, or of a part of one: lower-case letters, digits and dashes."""
    plain = "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in f"mpcwdwm-{record.lower()}")
    if len(plain) <= NAME_LENGTH:
        return plain.strip("-")
    return f"{plain[: NAME_LENGTH - 7]}-{plain[-6:]}".strip("-")  # a part's name ends in the hash of its options


def kubernetes_objects(site: KubernetesSite, record: str, spec: str, options: Sequence[str]) -> list[dict[str, Any]]:
    """Return a ConfigMap and a RayJob.

    Args:
        site: what the YAML says of the cluster.
        record: name of the sweep, or of a part of it.
        spec: text of the YAML.
        options: of ``mpcwdwm sweep run``, without SPEC.
    """
    name = dns_name(record)
    metadata: dict[str, Any] = {"name": name, "namespace": site.namespace} if site.namespace else {"name": name}
    place = f"{site.mount.rstrip('/')}/{name}.yaml"
    command = shlex.join(["mpcwdwm", "sweep", "run", "--cluster", "auto", *options, "--", place])
    script = f"cd -- {shlex.quote(site.mount)}\nexec {command}\n"
    files = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": dict(metadata),
        "data": {SCRIPT: LiteralScalarString(script), SPEC: LiteralScalarString(spec)},
    }
    worker = {"cpu": str(site.cpus_per_node), "memory": site.memory_per_node}
    worker |= {GPU: str(site.gpus_per_node)} if site.gpus_per_node else {}
    job: dict[str, Any] = {
        "apiVersion": OPERATOR_API,
        "kind": "RayJob",
        "metadata": metadata | ({"labels": {"kueue.x-k8s.io/queue-name": site.queue}} if site.queue else {}),
        "spec": {
            "entrypoint": f"bash {FILES}/{SCRIPT}",
            "backoffLimit": site.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": site.keep,
            **({"activeDeadlineSeconds": site.deadline} if site.deadline else {}),
            "rayClusterSpec": {
                "rayVersion": version("ray"),
                "authOptions": {"mode": "token"},
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": "0"},  # the driver needs the head for itself
                    "template": _pod(site, "ray-head", {"cpu": str(site.head_cpus), "memory": site.head_memory}, place),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": site.workers,
                        "minReplicas": site.workers,
                        "maxReplicas": site.workers,
                        "rayStartParams": {},
                        "template": _pod(site, "ray-worker", worker, place),
                    }
                ],
            },
        },
    }
    return [files, job]


def _pod(site: KubernetesSite, container: str, size: Mapping[str, str], place: str) -> dict[str, Any]:
    """Return the template of a pod; Kueue admits it by its requests, which are its limits."""
    shared, files = {"name": "shared", "mountPath": site.mount}, {"name": "files", "mountPath": FILES}
    # beside the datasets, because relative paths count from the YAML's folder
    spec = {"name": "files", "mountPath": place, "subPath": SPEC}
    claim = {"name": "shared", "persistentVolumeClaim": {"claimName": site.claim}}
    name = place.rpartition("/")[2].removesuffix(".yaml")
    variables = [{"name": key, "value": value} for key, value in site.variables.items()]
    secrets = [{"secretRef": {"name": secret}} for secret in site.secrets]
    return {
        "spec": {
            "containers": [
                {
                    "name": container,
                    "image": site.image,
                    "resources": {"limits": dict(size), "requests": dict(size)},
                    **({"env": variables} if variables else {}),
                    **({"envFrom": secrets} if secrets else {}),
                    "volumeMounts": [shared, files, spec],
                }
            ],
            "volumes": [claim, {"name": "files", "configMap": {"name": name}}],
            **({"nodeSelector": dict(site.node_selector)} if site.node_selector else {}),
            **({"serviceAccountName": site.service_account} if site.service_account else {}),
            **({"priorityClassName": site.priority_class} if site.priority_class else {}),
        }
    }


def to_yaml(objects: Sequence[Mapping[str, Any]], header: str = "") -> str:
    """Return objects as YAML documents below a comment."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 4096  # no line is folded
    out = io.StringIO()
    yaml.dump_all([dict(each) for each in objects], out)
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    return comment + out.getvalue()


def check_kubectl() -> None:
    """Raise UserError unless there is a `kubectl`."""
    if not shutil.which("kubectl"):
        raise UserError("--cluster kubernetes: there is no `kubectl` here; install it, or see the job with --dry-run")


def kubectl(objects: Sequence[Mapping[str, Any]]) -> str:
    """Create the objects in the cluster of kubectl's context and return what it says.

    Raises:
        UserError: there is no kubectl, the job exists already, or the cluster refuses it or does not answer.
    """
    check_kubectl()
    command = ["kubectl", "create", "-f", "-"]
    try:
        ended = subprocess.run(
            command, input=to_yaml(objects), capture_output=True, encoding="utf-8", timeout=ANSWER_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"Kubernetes has not answered in {ANSWER_SECONDS} s: does `kubectl get pods` work here?"
        ) from None
    if ended.returncode:
        said = " ".join(ended.stderr.split()).partition("; if you choose to ignore")[0]
        if re.search("dial tcp|no such host|nable to connect|no configuration", said):
            raise UserError(f"Kubernetes cannot be reached from here: {said}; does `kubectl get pods` work?")
        metadata = objects[-1]["metadata"]
        where = f" -n {metadata['namespace']}" if "namespace" in metadata else ""
        again = f"`kubectl delete rayjob,configmap {metadata['name']}{where}` ends the earlier job; no result is lost"
        raise UserError(f"Kubernetes refused the job: {said}{f'; {again}' if 'exists' in said else ''}")
    return " and ".join(ended.stdout.splitlines())
