"""The example files that start a cluster are ones that Ray, KubeRay and Slurm would take."""

import subprocess
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML

from tests.support import ROOT

LAUNCH = ROOT / "cluster" / "launch"
FILES = sorted(path.name for path in LAUNCH.iterdir())


def load(name: str) -> dict:
    return YAML(typ="safe", pure=True).load(LAUNCH / name)


def test_there_is_one_for_each_kind_of_cluster() -> None:
    assert FILES == ["aws.yaml", "kuberay.yaml", "slurm.sh"]


@pytest.mark.parametrize("name", FILES)
def test_each_runs_a_sweep_and_stays_short(name: str) -> None:
    text = (LAUNCH / name).read_text()
    assert "mpcwdwm sweep run" in text
    assert "tracking.uri" in text
    assert len(text.splitlines()) < 80


def test_the_cluster_launcher_accepts_its_file() -> None:
    validate_config(prepare_config(load("aws.yaml")))


def test_the_cluster_launcher_would_refuse_a_misspelt_key() -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**load("aws.yaml"), "max_wrkers": 3}))


def test_the_kuberay_job_has_what_the_operator_requires() -> None:
    job = load("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["metadata"]["name"]
    spec = job["spec"]
    assert spec["entrypoint"].startswith("mpcwdwm sweep run /mnt/shared/")
    assert spec["shutdownAfterJobFinishes"] is True
    groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"].startswith("registry.example.org/mpcwdwm:")
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"]: "/mnt/shared" for volume in pod["volumes"]}
        assert container["resources"]["limits"] == container["resources"]["requests"]


def test_versions_named_are_those_installed() -> None:
    ray = version("ray")
    assert load("kuberay.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == ray
    assert f"ray:{ray}-" in load("aws.yaml")["docker"]["image"]


@pytest.mark.parametrize("name", FILES)
def test_none_names_a_version_of_this_package_that_an_index_would_have_to_have(name: str) -> None:
    text = (LAUNCH / name).read_text()
    assert "mpcwdwm==" not in text
    assert version("mpcwdwm") not in text


def test_every_node_of_the_cluster_launcher_installs_the_wheel_of_the_checkout() -> None:
    config = load("aws.yaml")
    ((target, source),) = config["file_mounts"].items()
    assert source == "dist"
    assert config["setup_commands"][-1] == f"pip install {target}/mpcwdwm-*.whl"


def test_the_slurm_script_parses_and_passes_the_spec_on(tmp_path: Path) -> None:
    subprocess.run(["bash", "-n", LAUNCH / "slurm.sh"], check=True)
    (tmp_path / "activate").write_text("")
    for name, body in {
        "scontrol": "printf 'node1\\nnode2\\n'",
        "getent": "echo 10.0.0.1 STREAM node1",
        "srun": 'echo "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "bin").symlink_to(tmp_path)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "MPCWDWM_VENV": str(tmp_path),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_ID": "7",
        "SLURM_CPUS_PER_TASK": "16",
    }
    (tmp_path / "python").write_text("#!/bin/bash\necho token\n")
    (tmp_path / "python").chmod(0o755)
    command = ["bash", str(LAUNCH / "slurm.sh"), "/shared/spec.yaml", "--seeds", "0,1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "--address 10.0.0.1:6379 --min-nodes 2 --num-cpus 16 -- env RAY_ADDRESS=10.0.0.1:6379" in done.stdout
    assert done.stdout.rstrip().endswith("mpcwdwm sweep run /shared/spec.yaml --seeds 0,1")
    assert not list((tmp_path / ".ray").iterdir())  # the token is gone with the job


def test_the_slurm_script_says_how_to_call_it() -> None:
    done = subprocess.run(["bash", str(LAUNCH / "slurm.sh")], capture_output=True, text=True)
    assert done.returncode != 0
    assert "usage: sbatch slurm.sh SPEC" in done.stderr
