"""The file of Ray's cluster launcher for AWS: a small head, GPU workers on spot instances, shared storage on EFS."""

import sys
from importlib.metadata import version
from typing import Any

__all__ = ["aws_cluster"]

SHARED = "/mnt/shared"
WHEEL = "/home/ray/mpcwdwm-wheel"
FILE_SYSTEM = "fs-00000000.efs.us-west-2.amazonaws.com:/"  # of nobody: to be replaced


def aws_cluster() -> dict[str, Any]:
    """Return the file's content; Ray and Python are those that run now, because all nodes need the same."""
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    return {
        "cluster_name": "mpcwdwm",
        "max_workers": 8,
        "idle_timeout_minutes": 10,
        "provider": {"type": "aws", "region": "us-west-2", "cache_stopped_nodes": False},
        "auth": {"ssh_user": "ubuntu"},
        "docker": {
            "image": f"rayproject/ray:{version('ray')}-{python}-gpu",
            "container_name": "mpcwdwm",
            "run_options": ["--ulimit nofile=65536:65536", f"--volume {SHARED}:{SHARED}"],
        },
        "initialization_commands": [
            "sudo apt-get install -y nfs-common",
            f"sudo mkdir -p {SHARED}",
            f"mountpoint -q {SHARED} || sudo mount -t nfs4 -o nfsvers=4.1,hard {FILE_SYSTEM} {SHARED}",
            f"sudo chmod 1777 {SHARED}",
        ],
        "file_mounts": {WHEEL: "dist"},
        "setup_commands": [f"pip install {WHEEL}/mpcwdwm-*.whl"],
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": {"InstanceType": "m6i.xlarge"}},
            "gpu": {
                "min_workers": 2,
                "max_workers": 8,
                "resources": {},
                "node_config": {"InstanceType": "g6.2xlarge", "InstanceMarketOptions": {"MarketType": "spot"}},
            },
        },
    }
