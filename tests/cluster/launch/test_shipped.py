"""The files that start a cluster are made by the code that submits, and Ray, Slurm and Kubernetes would take them."""

import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML

from cluster.launch.shipped import shipped_files
from tests.support import ROOT

LAUNCH = ROOT / "cluster" / "launch"
FILES = sorted(path.name for path in LAUNCH.iterdir() if path.suffix in (".sh", ".yaml"))


def load(name: str) -> dict:
    """The last document of a file."""
    return list(YAML(typ="safe", pure=True).load_all(LAUNCH / name))[-1]


def test_each_is_what_the_code_makes() -> None:
    made = shipped_files()
    assert sorted(made) == FILES == ["aws.yaml", "kuberay.yaml", "slurm.sh"]
    for name, content in made.items():
        assert (LAUNCH / name).read_text() == content, f"{name}: write it with `python -m cluster.launch.shipped`"


@pytest.mark.parametrize("name", FILES)
def test_each_runs_a_sweep_and_says_what_it_needs(name: str) -> None:
    text = (LAUNCH / name).read_text()
    assert "mpcwdwm sweep run" in text
    assert "tracking.uri" in text
    assert len(text.splitlines()) < 110


def test_the_cluster_launcher_accepts_its_file() -> None:
    validate_config(prepare_config(load("aws.yaml")))


def test_the_cluster_launcher_would_refuse_a_misspelt_key() -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**load("aws.yaml"), "max_wrkers": 3}))


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


def test_the_slurm_script_is_one_that_bash_and_shellcheck_take(tmp_path: Path) -> None:
    subprocess.run(["bash", "-n", LAUNCH / "slurm.sh"], check=True)
    if shutil.which("shellcheck"):
        # SC2317: a trap calls it; SC2016: the inner shell expands it
        subprocess.run(["shellcheck", "--exclude=SC2317,SC2016", LAUNCH / "slurm.sh"], check=True)
