"""Where ``sweep run`` computes: here, on a Ray cluster, or as a job that Slurm or Kubernetes is given."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.launch.kubernetes import KubernetesSite, dns_name, kubectl, kubernetes_objects, to_yaml
from cluster.launch.slurm import SlurmSite, sbatch, slurm_script
from cluster.ray.address import HERE, Address
from mpcwdwm.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from sweeps.spec.spec import Spec

__all__ = [
    "SCHEDULERS",
    "ClusterOption",
    "DryRunOption",
    "at_cluster",
    "check_cluster",
    "run_options",
    "submit",
]

SLURM, KUBERNETES = "slurm", "kubernetes"
SCHEDULERS = (SLURM, KUBERNETES)
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
    if ":" not in cluster and (hint := did_you_mean(cluster, [HERE, *SCHEDULERS])):
        raise UserError(f"--cluster {cluster}: neither an address nor one of {HERE}, {', '.join(SCHEDULERS)}{hint}")
    _ = Address(cluster, "--cluster").host_and_port


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
        UserError: the YAML says nothing of such a site, or the job was refused.
    """
    if spec.tracking_uri.startswith("sqlite:"):
        print(
            "note: tracking.uri is an SQLite file: on a network volume it loses its locks; an MLflow server does not",
            file=sys.stderr,
        )
    if scheduler == SLURM:
        site = spec.cluster.slurm
        if site is None:
            raise _lacking(spec, SLURM, "{nodes: 2, cpus_per_node: 16}")
        _to_slurm(spec, site, argument, options, dry_run=dry_run)
    else:
        pods = spec.cluster.kubernetes
        if pods is None:
            raise _lacking(spec, KUBERNETES, "{image: registry.org/mpcwdwm:1, claim: shared}")
        _to_kubernetes(spec, pods, options, dry_run=dry_run)


def _lacking(spec: "Spec", scheduler: str, example: str) -> UserError:
    section = f"cluster: {{{scheduler}: {example}}}"
    return UserError(f"{spec.path.name}: --cluster {scheduler} needs a section, as in {section}")


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
