"""What an image or a cluster's environment gets: the steps of the Containerfile, and `pip install` from a git URL.

No image is built. The steps run in a fresh virtual environment, from a wheel of this checkout. What the wheel lacks,
files and requirements, shows in a sweep from another folder.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpcwdwm.data import find_task
from sweeps.spec.document import write_yaml
from tests.support import ROOT
from tests.support.d4rl_standins import stand_in
from tests.support.parts import BUNDLED

pytestmark = [pytest.mark.services, pytest.mark.slow]

CONTAINERFILE = ROOT / "cluster" / "launch" / "Containerfile"
OF_THE_SYSTEM = ("apt-get ", "useradd ")  # steps that an environment of Python has no part in
TINY = {"steps": 20, "hidden_dim": 8, "batch_size": 16, "evaluations": 1}
SWEEP = {
    "name": "tiny",
    "tasks": [BUNDLED],
    "seeds": 2,
    "components": {"rebrac": TINY, "reward": TINY, "world_model": {**TINY, "denoising_steps": 2}},
    "baselines": ["rebrac"],
    "planners": {"mpc": {"kind": "policy", "horizon": 1, "rollouts": 2, "updates": 1}},
    "evaluation": {"episodes": 1, "max_episode_steps": 20},
}


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    own = {**os.environ, **environment}
    own.pop("PYTHONPATH", None)  # this checkout
    own["PIP_NO_COMPILE"] = "1"  # most of what is installed is never imported here
    ended = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, f"{command}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
    return ended.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with what is installed of this checkout; setuptools leaves folders beside what it builds."""
    copy = tmp_path_factory.mktemp("fresh") / "mpcwdwm.git"
    for package in ("mpcwdwm", "cluster", "sweeps", "analysis"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, copy)
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "all")):
        run("git", *words, folder=copy)
    return copy


@pytest.fixture(scope="module")
def environment(source: Path) -> Iterator[Path]:
    """The virtual environment that the Containerfile's steps have made."""
    base, build = source.parent, source.parent / "build"
    run(sys.executable, "-m", "venv", base / "venv", folder=base)
    run("git", "clone", "-q", source, "checkout", folder=base)
    text = CONTAINERFILE.read_text(encoding="utf-8")
    (wheel,) = re.findall(r"^#   (pip wheel [^#\n]*\S)", text, re.MULTILINE)
    run("bash", "-ec", wheel, folder=base / "checkout", PATH=on_path(base / "venv"))
    arguments: dict[str, str] = {}
    for word, rest in (line.split(" ", 1) for line in text.splitlines() if line and not line.startswith("#")):
        here = rest.replace("/build/", f"{build}/").replace(" --no-cache-dir", "")
        if word == "ARG":
            name, _, value = here.partition("=")
            arguments[name] = value
        elif word == "COPY":
            copied, target = here.split()
            build.mkdir(exist_ok=True)
            run("cp", "-r", base / "checkout" / copied, target, folder=base)
        elif word == "RUN" and not rest.startswith(OF_THE_SYSTEM):
            run("bash", "-ec", here, folder=base, PATH=on_path(base / "venv"), **arguments)
        else:
            assert word in ("FROM", "RUN", "USER", "WORKDIR", "ENV"), f"{word}: what is its equivalent here?"
    yield base / "venv"
    shutil.rmtree(base / "venv")  # two gigabytes


def on_path(venv: Path) -> str:
    return f"{venv}/bin:{os.environ['PATH']}"


def mpcwdwm(environment: Path, folder: Path, *arguments: str) -> str:
    own = {"D4RL_DATASET_DIR": f"{folder}/d4rl", "XDG_CACHE_HOME": f"{folder}/cache"}
    return run(environment / "bin" / "mpcwdwm", *arguments, folder=folder, **own)


def test_the_steps_of_the_containerfile_give_an_environment_that_runs_sweeps(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No broken requirements found." in run(environment / "bin" / "python", "-m", "pip", "check", folder=tmp_path)
    assert mpcwdwm(environment, tmp_path, "--version").startswith("mpcwdwm ")
    packaged = {path.stem for path in (ROOT / "sweeps" / "specs").glob("*.yaml")}
    assert packaged == {line.split()[0] for line in mpcwdwm(environment, tmp_path, "sweep", "specs").splitlines()}
    monkeypatch.setenv("D4RL_DATASET_DIR", f"{tmp_path}/d4rl")
    stand_in(find_task("antmaze-umaze-v2"), episodes=60, length=20)
    planned = mpcwdwm(environment, tmp_path, "sweep", "plan", "table3", "--tasks", "antmaze-umaze-v2")
    assert "GPU-hours" in planned

    (tmp_path / "tiny.yaml").write_text(write_yaml(SWEEP))
    table = mpcwdwm(environment, tmp_path, "sweep", "run", "tiny.yaml")
    assert re.search(r"\brebrac\b.*\n(.*\n)*.*\bmpc\b", table)
    assert "tiny" in mpcwdwm(environment, tmp_path, "report", "tiny.yaml")
    assert "bc" not in mpcwdwm(environment, tmp_path, "table", "tiny.yaml", "--format", "html")


def test_it_installs_from_a_git_url_as_the_page_says(source: Path, environment: Path, tmp_path: Path) -> None:
    """From a repository on this machine; pip takes a name before a URL only if that has a host."""
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^\S+/(pip install -c constraints\.txt) \"mpcwdwm @ git\+https", page, re.MULTILINE)
    (url,) = re.findall(r"`\"(git\+file:///\S+)@COMMIT\"`", page)
    assert url.startswith("git+file:///shared/")
    commit = run("git", "rev-parse", "HEAD", folder=source).strip()
    before = files(environment)
    run("pip", "uninstall", "-q", "-y", "mpcwdwm", folder=source, PATH=on_path(environment))
    run(*command.split(), f"git+file://{source}@{commit}", folder=source, PATH=on_path(environment))
    assert files(environment) == before
    assert commit in run(environment / "bin" / "pip", "freeze", folder=tmp_path)
    assert mpcwdwm(environment, tmp_path, "--version").startswith("mpcwdwm ")


def files(environment: Path) -> set[str]:
    """The files of the installed package, those of its own metadata aside."""
    names = "from importlib.metadata import files; print(*files('mpcwdwm'), sep='\\n')"
    listed = run(environment / "bin" / "python", "-c", names, folder=environment).splitlines()
    return {name for name in listed if ".dist-info/" not in name and not name.endswith(".pyc")}
