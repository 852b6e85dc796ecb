"""`sweep run --cluster`: what is submitted, and what is refused, with stand-ins for the schedulers' commands."""

import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from cluster.store import open_store
from mpcwdwm.errors import UserError
from sweeps.cli import app
from sweeps.plan.plan import build_plan
from sweeps.spec.spec import load_spec
from sweeps.submission import at_cluster, check_cluster
from tests.support.parts import BUNDLED
from tests.support.shells import hostile, stand_in

TINY = f"name: tiny\ntasks: [{BUNDLED}]\nseeds: 2\nbaselines: [bc]\ntracking: {{uri: 'http://mlflow:5000'}}\n"
SITES = """\
cluster:
  slurm: {nodes: 2, cpus_per_node: 16, gpus_per_node: 1, partition: gpu, time: "24:00:00", venv: /shared/venv}
  kubernetes: {image: "registry.example.org/mpcwdwm:1", claim: shared, workers: 2}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a sweep, and stand-ins for `sbatch` and `kubectl` that note what they are given."""
    (tmp_path / "tiny.yaml").write_text(TINY + SITES)
    (tmp_path / "bin").mkdir()
    stand_in(tmp_path / "bin", "sbatch", f'echo "$@" >{tmp_path}/sbatch; cat >{tmp_path}/given; echo 12')
    stand_in(tmp_path / "bin", "kubectl", f'echo "$@" >{tmp_path}/kubectl; cat >{tmp_path}/given; echo created')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["sweep", "run", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_dry_run_prints_what_would_be_submitted_to_slurm(folder: Path) -> None:
    options = ("tiny.yaml", "--cluster", "slurm", "--seeds", "0,1", "--set", "description=a; b", "--tasks", "hopper*")
    printed = run(*options, "--dry-run")
    assert not (folder / "given").exists()
    assert f"cd -- {folder}\n" in printed
    assert "--cluster \"$address\" '--set=description=a; b' '--tasks=hopper*' --seeds=0,1 -- tiny.yaml &\n" in printed
    said = run(*options)
    assert said == f"submitted as job 12; what it prints: {folder}/mpcwdwm-tiny-12.log\n"
    assert (folder / "given").read_text() == printed
    assert (folder / "sbatch").read_text() == "--parsable\n"


def test_a_dry_run_prints_what_would_be_given_to_kubernetes(folder: Path) -> None:
    printed = run("tiny.yaml", "--cluster", "kubernetes", "--dry-run")
    assert not (folder / "given").exists()
    assert "created\n" in (said := run("tiny.yaml", "--cluster", "kubernetes"))
    assert "kubectl logs -f job/mpcwdwm-tiny" in said
    assert (folder / "given").read_text() == printed
    assert (folder / "kubectl").read_text() == "create -f -\n"
    files, job = YAML(typ="safe", pure=True).load_all(printed)
    assert files["data"]["spec.yaml"] == TINY + SITES
    assert files["data"]["run.sh"] == (
        "cd -- /mnt/shared\nexec mpcwdwm sweep run --cluster auto -- /mnt/shared/mpcwdwm-tiny.yaml\n"
    )
    assert job["spec"]["entrypoint"] == "bash /etc/mpcwdwm/run.sh"


def test_options_reach_the_driver_on_kubernetes_as_they_are(folder: Path) -> None:
    stand_in(folder / "bin", "mpcwdwm", f"printf '%s\\0' \"$@\" >{folder}/words")
    (folder / "tiny.yaml").write_text(TINY + SITES.replace("claim: shared", f"claim: shared, mount: '{folder}'"))
    texts = [text for text in hostile(folder / "mark") if "\n" not in text]
    sets = [word for text in texts for word in ("--set", f"description='{text.replace(chr(39), chr(39) * 2)}'")]
    printed = run("tiny.yaml", "--cluster", "kubernetes", "--dry-run", *sets)
    files, job = YAML(typ="safe", pure=True).load_all(printed)
    subprocess.run(["bash", "-s"], input=files["data"]["run.sh"], text=True, check=True)
    words = (folder / "words").read_text().split("\0")[4:-1]
    assert words[:-2] == [f"--set={value}" for value in sets[1::2]]
    assert job["spec"]["entrypoint"] == "bash /etc/mpcwdwm/run.sh"
    assert not (folder / "mark").exists()


def test_the_site_changes_no_key_and_makes_no_part(folder: Path) -> None:
    (folder / "plain.yaml").write_text(TINY)
    plain, with_site = load_spec("plain.yaml"), load_spec("tiny.yaml", sets=["cluster.slurm.nodes=8"])
    keys = [
        [unit.key for unit in (*plan.components, *plan.cells)]
        for plan in (build_plan(spec, open_store(spec.storage)) for spec in (plain, with_site))
    ]
    assert keys[0] == keys[1]
    assert len(keys[0]) == 4
    assert with_site.options == ()
    assert plain.asks_for_the_same(with_site.to_yaml())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cluster", "slrum"], "did you mean 'slurm'"),
        (["--cluster", "somewhere"], r"'somewhere' \(--cluster\) is no address"),
        (["--cluster", "-x"], "is no address"),
        (["--cluster", "node:port"], "is no address"),
        (["--dry-run"], "give --cluster slurm or kubernetes"),
        (["--dry-run", "--cluster", "local"], "give --cluster slurm or kubernetes"),
        (["--cluster", "slurm", "--set", "cluster.slurm="], "needs a section, as in cluster: {slurm:"),
        (["--cluster", "kubernetes", "--set", "cluster.kubernetes="], "needs a section, as in cluster: {kubernetes:"),
        (
            ["--cluster", "slurm", "--set", "cluster.slurm.partition='a; b'"],
            "cluster.slurm.partition: should be a word",
        ),
        (["--cluster", "slurm", "--set", "cluster.slurm.partiton=a"], "did you mean 'partition'"),
        (["--cluster", "slurm", "--set", "cluster.slurm.nodes=0"], "cluster.slurm.nodes"),
        (["--cluster", "kubernetes", "--set", "cluster.kubernetes.image='a b'"], "cluster.kubernetes.image: should be"),
        (["--cluster", "kubernetes", "--set", "cluster.kubernetes.queue=Q$"], "cluster.kubernetes.queue: should be"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line(folder: Path, arguments: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says.replace("{", r"\{")) as caught:
        CliRunner().invoke(app, ["sweep", "run", "tiny.yaml", *arguments], catch_exceptions=False)
    assert "\n" not in str(caught.value)
    assert not (folder / "given").exists()


def test_the_address_wins_over_the_yaml(folder: Path) -> None:
    spec = load_spec("tiny.yaml", sets=["resources.address=10.0.0.1:6379"])
    assert at_cluster(spec, "local").resources.address == "local"
    assert at_cluster(spec, "10.0.0.2:6379").resources.address == "10.0.0.2:6379"
    assert at_cluster(spec, None) is spec
    for address in ("local", "auto", "10.0.0.2:6379", "ray://head:10001", None, "slurm", "kubernetes"):
        check_cluster(address, dry_run=False)


def test_an_sqlite_file_is_noted(folder: Path) -> None:
    (folder / "tiny.yaml").write_text(TINY.partition("tracking")[0] + SITES)
    done = CliRunner().invoke(app, ["sweep", "run", "tiny.yaml", "--cluster", "slurm", "--dry-run"])
    assert done.stderr.startswith("note: tracking.uri is an SQLite file")
    assert done.stdout.startswith("#!/bin/bash\n#SBATCH")
