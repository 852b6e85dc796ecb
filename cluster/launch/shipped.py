"""The files in this folder that start a cluster: examples, made by what `mpcwdwm sweep run --cluster` submits.

`python -m cluster.launch.shipped` writes them; a test holds them to it.
"""

from pathlib import Path

from cluster.launch.aws import aws_cluster
from cluster.launch.kubernetes import KubernetesSite, kubernetes_objects, to_yaml
from cluster.launch.slurm import SlurmSite, slurm_script

__all__ = ["shipped_files"]

SWEEP = "quickstart"
YAML = f"name: {SWEEP}\ntasks: [hopper-medium-v2]\nseeds: 5\nplanners: {{mpc: {{H: 3, M: 8, E: 1}}}}\nstorage: runs\n"
SLURM_SITE = SlurmSite(nodes=4, cpus_per_node=16, gpus_per_node=4, time="24:00:00", venv="/shared/mpcwdwm/.venv")
KUBERNETES_SITE = KubernetesSite(
    image="registry.example.org/mpcwdwm:my-checkout", claim="mpcwdwm-shared", workers=4, gpus_per_node=1
)

SLURM = """\
One sweep on whole Slurm nodes; Ray lives as long as the job. With `cluster: {slurm: …}` in the YAML, this command
prints such a script for it, and without --dry-run submits it:

    mpcwdwm sweep run SPEC --cluster slurm --dry-run

The environment with mpcwdwm, the YAML, `storage` and the datasets lie on a file system that all nodes share; for
leases across nodes it needs flock (Lustre: mount option "flock"; without, heartbeats are used). In the YAML:
`tracking.uri` of an MLflow server. Submitted again after a failure, the same command continues.
"""
KUBERNETES = """\
One sweep as a KubeRay job (operator 1.5.1 or later). The cluster lives as long as the sweep. With
`cluster: {kubernetes: …}` in the YAML, this command prints such a job for it, and without --dry-run creates it:

    mpcwdwm sweep run SPEC --cluster kubernetes --dry-run

It needs an image with mpcwdwm (cluster/launch/Containerfile) and a claim that many nodes can write (ReadWriteMany),
with the datasets. In the YAML: `storage: runs` (on the claim) or a URL, and `tracking.uri` of an MLflow server, because
SQLite on a network volume loses its locks. Created again after an interruption, the job continues.
"""
AWS = """\
A cluster of one small head and GPU workers on AWS, shared storage on EFS.

    pip wheel --no-deps --wheel-dir dist .    # in the checkout whose version all nodes are to run
    ray up cluster/launch/aws.yaml
    ray rsync-up cluster/launch/aws.yaml SPEC.yaml /mnt/shared/SPEC.yaml
    ray exec cluster/launch/aws.yaml --tmux 'mpcwdwm sweep run /mnt/shared/SPEC.yaml --cluster auto'
    ray down cluster/launch/aws.yaml

Replace the file system's id; its security group has to let NFS (port 2049) in from the cluster's. The head has no CPUs
for Ray, because the driver needs them. Every node installs the wheel of your checkout: keys and code have to agree.

In the YAML: `storage: runs` (beside it, so on EFS), datasets below /mnt/shared too, and `tracking.uri` of an MLflow
server, or of SQLite on the head's own disk: on a network file system SQLite loses its locks. After an interruption, by
you or by a lost spot instance, the same command continues.
"""


def shipped_files() -> dict[str, str]:
    """Return file name → content."""
    script = slurm_script(SLURM_SITE, SWEEP, Path("/shared"), ["--", "quickstart.yaml"], SLURM)
    objects = kubernetes_objects(KUBERNETES_SITE, SWEEP, YAML, [])
    return {"slurm.sh": script, "kuberay.yaml": to_yaml(objects, KUBERNETES), "aws.yaml": to_yaml([aws_cluster()], AWS)}


if __name__ == "__main__":
    for name, content in shipped_files().items():
        (Path(__file__).parent / name).write_text(content, encoding="utf-8")
