"""Where ``sweep run`` computes: here, on a Ray cluster, or as a job that Slurm or Kubernetes is given."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analysis.mlflow_store import check_answers, without_password
from cluster.launch.kubernetes import (
    KubernetesSite,
    check_kubectl,
    dns_name,
    kubectl,
    kubernetes_objects,
    to_yaml,
)
from cluster.launch.slurm import SlurmSite, check_sbatch, sbatch, slurm_script
from cluster.ray.address import FOUND_BY_RAY, HERE, OPTION, Address, check_reachable, wanted_address
from cluster.ray.gpu_share import fitting
from mpcwdwm.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from sweeps.spec.reading import Reading
    from sweeps.spec.schema import Cluster
    from sweeps.spec.spec import Spec

__all__ = [
    "SCHEDULERS",
    "ClusterOption",
    "DryRunOption",
    "at_cluster",
    "check_cluster",
    "check_servers",
    "check_site",
    "run_options",
    "submit",
]

SLURM, KUBERNETES = "slurm", "kubernetes"
SCHEDULERS = (SLURM, KUBERNETES)
SQLITE = "tracking.uri is an SQLite file: on a network volume it loses its locks; an MLflow server does not"
ALSO_CALLED = {"k8s": KUBERNETES, "kube": KUBERNETES, "kuberay": KUBERNETES, "sbatch": SLURM, "localhost": HERE}
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="WHERE",
        help="local, the address of a Ray cluster, or slurm or kubernetes: a job as the YAML's `cluster` says.",
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="With --cluster slurm or kubernetes: print the job, submit nothing.")
]


def check_cluster(cluster: str | None, *, dry_run: bool) -> None:
    """Raise UserError unless the options fit together, before anything is loaded."""
    if dry_run and cluster not in SCHEDULERS:
        raise UserError("--dry-run prints a job: give --cluster slurm or kubernetes; `sweep plan` shows other runs")
    if cluster is None or cluster in (HERE, *SCHEDULERS):
        return
    if ":" not in cluster and cluster != FOUND_BY_RAY:
        hint = did_you_mean(ALSO_CALLED.get(cluster.lower(), cluster.lower()), [HERE, *SCHEDULERS])
        known = f"one of {HERE}, {', '.join(SCHEDULERS)}"
        raise UserError(f"--cluster {cluster}: neither {known} nor the address host:port of a Ray cluster{hint}")
    _ = Address(cluster, OPTION).host_and_port


def check_servers(reading: "Reading", cluster: str | None) -> None:
    """Raise UserError unless the servers that a run needs answer, or can be addresses; it takes a second at most.

    Whether a cluster answers that the YAML or the environment names is seen when one is needed: a sweep that is done
    needs none.
    """
    if cluster is None:
        _ = wanted_address(reading.file.resources.address).host_and_port
    else:
        check_reachable(Address(cluster, OPTION))
    check_answers(reading.tracking_uri)


def check_site(reading: "Reading", scheduler: str, *, dry_run: bool) -> None:
    """Raise UserError where a job cannot be submitted, as far as it shows without torch, which takes seconds to load.

    Args:
        reading: the sweep's YAML.
        scheduler: one of `SCHEDULERS`.
        dry_run: it is only printed; the scheduler's command is not needed.
    """
    name, nodes = reading.found.path.name, nodes_of(reading.file.cluster, scheduler, reading.found.path.name)
    _check_no_password(reading, scheduler)
    if not dry_run:
        (check_sbatch if scheduler == SLURM else check_kubectl)()
    resources = reading.file.resources.given(sum(gpus for _, gpus in nodes))
    for role, share in (("actor", resources.actor), ("trial", resources.trial)):
        if not fitting(nodes, share.cpus, share.gpus or 0.0):
            cpus, gpus = nodes[0]
            raise UserError(
                f"{name}: resources.{role} asks for {share.cpus:g} CPUs and {share.gpus or 0:g} GPUs, but a node of"
                f" cluster.{scheduler} has {cpus:g} and {gpus:g}: ask for less, or for larger nodes"
            )


def _check_no_password(reading: "Reading", scheduler: str) -> None:
    """Raise UserError if the job would contain a password: Kubernetes is given the YAML, both are given ``--set``."""
    uri, at = reading.tracking_uri, ("tracking", "uri")
    if without_password(uri) == uri or (scheduler == SLURM and at not in reading.set_at):
        return
    secret = "a Secret of cluster.kubernetes.secrets" if scheduler == KUBERNETES else "the command's environment"
    name = "MLFLOW_TRACKING_PASSWORD" if uri.startswith("http") else "PGPASSWORD"
    raise reading.document.error(at, f"tracking.uri has a password, which the job would show: give {name} in {secret}")


def nodes_of(cluster: "Cluster", scheduler: str, name: str) -> list[tuple[float, float]]:
    """Return the processor cores and GPUs of each node of the job; UserError if the YAML says nothing of the site."""
    if scheduler == SLURM:
        if (site := cluster.slurm) is None:
            raise _lacking(name, SLURM, "{nodes: 2, cpus_per_node: 16}")
        return [(float(site.cpus_per_node), float(site.gpus_per_node))] * site.nodes
    if (pods := cluster.kubernetes) is None:
        raise _lacking(name, KUBERNETES, "{image: registry.org/mpcwdwm:1, claim: shared}")
    return [(float(pods.cpus_per_node), float(pods.gpus_per_node))] * pods.workers


def at_cluster(spec: "Spec", cluster: str | None) -> "Spec":
    """Return a sweep that computes where the option says, instead of where its YAML says."""
    if cluster is None or cluster in SCHEDULERS:
        return spec
    return replace(spec, resources=spec.resources.model_copy(update={"address": cluster}))


def run_options(sets: Sequence[str] | None, tasks: str | None, seeds: str | None) -> list[str]:
    """Return the options with which the job runs the same sweep, or part of it, as words."""
    given = [*(f"--set={each}" for each in sets or ())]
    given += [] if tasks is None else [f"--tasks={tasks}"]
    return given + ([] if seeds is None else [f"--seeds={seeds}"])


def submit(spec: "Spec", scheduler: str, argument: str, options: Sequence[str], *, dry_run: bool) -> None:
    """Submit a sweep as a job, or only print the job.

    Args:
        spec: the sweep.
        scheduler: one of `SCHEDULERS`.
        argument: SPEC as it was given.
        options: of `run_options`.
        dry_run: print, submit nothing.

    Raises:
        UserError: the job was refused.
    """
    for note in _notes(spec, scheduler):
        print(f"note: {note}", file=sys.stderr)
    if scheduler == SLURM and (site := spec.cluster.slurm):
        _to_slurm(spec, site, argument, options, dry_run=dry_run)
    if scheduler == KUBERNETES and (pods := spec.cluster.kubernetes):
        _to_kubernetes(spec, pods, options, dry_run=dry_run)


def _notes(spec: "Spec", scheduler: str) -> list[str]:
    """Return what will probably not be as it is wanted, a line each."""
    from sweeps.plan.gpus import idle_gpus

    nodes = nodes_of(spec.cluster, scheduler, spec.path.name)
    notes = idle_gpus(spec.resources.given(sum(gpus for _, gpus in nodes)), nodes)
    if spec.tracking_uri.startswith("sqlite:"):
        notes.append(SQLITE)
    venv = spec.cluster.slurm.venv if scheduler == SLURM and spec.cluster.slurm else None
    if venv and not Path(venv, "bin", "mpcwdwm").exists():
        notes.append(f"there is no {venv}/bin/mpcwdwm on this machine: cluster.slurm.venv has to be on every node")
    return notes


def _lacking(name: str, scheduler: str, example: str) -> UserError:
    section = f"cluster: {{{scheduler}: {example}}}"
    return UserError(f"{name}: --cluster {scheduler} needs a section, as in {section}")


def _to_slurm(spec: "Spec", site: SlurmSite, argument: str, options: Sequence[str], *, dry_run: bool) -> None:
    folder = Path.cwd()
    script = slurm_script(site, spec.name, folder, [*options, "--", argument])
    if dry_run:
        print(script, end="")
        return
    job = sbatch(script)
    print(f"submitted as job {job}; what it prints: {folder / f'mpcwdwm-{spec.name}-{job}.log'}")


def _to_kubernetes(spec: "Spec", site: KubernetesSite, options: Sequence[str], *, dry_run: bool) -> None:
    objects = kubernetes_objects(site, spec.record, spec.path.read_text(encoding="utf-8"), options)
    if dry_run:
        print(to_yaml(objects), end="")
        return
    print(kubectl(objects))
    name = dns_name(spec.record)
    where = f" -n {site.namespace}" if site.namespace else ""
    print(f"what it prints: `kubectl logs -f job/{name}{where}`; how it stands: `kubectl get rayjob {name}{where}`")
