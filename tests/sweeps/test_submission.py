"""`sweep run --cluster`: what is submitted, and what is refused, with stand-ins for the schedulers' commands."""

import os
import subprocess
import sys
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
from tests.support import ROOT
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


def slip(scheduler: str, field: str, value: str, says: str) -> tuple[list[str], str]:
    """A field of the YAML's section with a wrong value."""
    name = f"cluster.{scheduler}.{field}"
    return ["--cluster", scheduler, "--set", f"{name}={value}"], f"{name}: {says}" if says[:1] != "^" else says[1:]


SLIPS = [
    (["--cluster", "slrum"], r"did you mean 'slurm'"),
    (["--cluster", "Slurm"], r"did you mean 'slurm'"),
    (["--cluster", "k8s"], r"did you mean 'kubernetes'"),
    (["--cluster", "somewhere"], r"neither one of local, slurm, kubernetes nor the address host:port"),
    (["--cluster", "10.0.0.7"], r"nor the address host:port"),
    (["--cluster", ""], r"nor the address host:port"),
    (["--cluster", "-x"], r"nor the address host:port"),
    (["--cluster", "node:port"], r"is no address"),
    (["--cluster", "node:99999"], r"is no address"),
    (["--cluster", "$(id):6379;x"], r"is no address"),
    (["--dry-run"], r"give --cluster slurm or kubernetes"),
    (["--dry-run", "--cluster", "local"], r"give --cluster slurm or kubernetes"),
    (["--cluster", "slurm", "--set", "cluster.slurm="], r"needs a section, as in cluster: \{slurm:"),
    (["--cluster", "kubernetes", "--set", "cluster.kubernetes="], r"needs a section, as in cluster: \{kubernetes:"),
    (["--cluster", "slurm", "--set", "cluster=slurm"], r"cluster should be a mapping"),
    (["--cluster", "slurm", "--set", "cluster.slurm={nodes: 2}"], r"missing key 'cpus_per_node' in cluster.slurm"),
    (["--cluster", "kubernetes", "--set", "cluster.kubernetes={claim: x}"], r"missing key 'image'"),
    (["--cluster", "slurm", "--set", "cluster.slurm.partiton=a"], r"did you mean 'partition'"),
    (["--cluster", "slurm", "--set", "cluster.slurm.nodes=2-4"], r"nodes should be a whole number"),
    (["--cluster", "slurm", "--set", "cluster.slurm.nodes=0"], r"nodes should be greater"),
    (
        ["--cluster", "slurm", "--set", "cluster.slurm.nodes=99999999999"],
        r"nodes should be less than or equal to 10000",
    ),
    (["--cluster", "slurm", "--set", "cluster.slurm.port=80"], r"port should be greater"),
    (["--cluster", "slurm", "--set", "cluster.slurm.setup=module load cuda"], r"setup should be a list"),
    (["--cluster", "slurm", "--set", "cluster.slurm.variables={N: 4}"], r"variables.N should be text, in quotes"),
    (["--cluster", "slurm", "--set", "cluster.slurm.variables={HF_TOKEN: x}"], r"no credentials in a YAML"),
    (["--cluster", "slurm", "--set", "cluster.slurm.grace=86400"], r"grace should be less"),
    (["--cluster", "slurm", "--set", "cluster.slurm.time='2:00'"], r"the last 120 s are grace"),
    (["--cluster", "kubernetes", "--set", "cluster.kubernetes.workers=99999999999"], r"workers should be less"),
    (["--cluster", "kubernetes", "--set", "cluster.kubernetes.deadline=1e12"], r"deadline should be less"),
    (
        ["--cluster", "slurm", "--set", "resources.actor.cpus=17"],
        r"actor asks for 17 CPUs .* cluster.slurm has 16 and 1",
    ),
    (["--cluster", "slurm", "--set", "resources.trial.gpus=2"], r"trial asks for 1 CPUs and 2 GPUs"),
    (["--cluster", "kubernetes", "--set", "resources.actor.gpus=1"], r"cluster.kubernetes has 8 and 0"),
    slip("slurm", "partition", "'a; b'", "should be a partition"),
    slip("slurm", "partition", "'a, b'", "should be a partition"),
    slip("slurm", "partition", "größe", "should be a partition"),
    slip("slurm", "account", "$(id)", "should be a word"),
    slip("slurm", "gpu_type", "a100:4 --x", "should be a word"),
    slip("slurm", "memory_per_node", "128 GB", "should be a size such as 128G"),
    slip("slurm", "time", "two days", "should be a time such as"),
    slip("slurm", "venv", "~/venv", "should be an absolute path"),
    slip("slurm", "setup", "['a && b']", r"^setup\[0\]: should be one command"),
    slip("slurm", "port", "10500", "10500 may be taken by a worker"),
    slip("kubernetes", "image", "'a b'", "should be an image"),
    slip("kubernetes", "queue", "Q$", "should be a name of lower-case"),
    slip("kubernetes", "claim", "a..b", "should be a name of lower-case"),
    slip("kubernetes", "memory_per_node", "32GB", "should be a size such as 32Gi"),
    slip("kubernetes", "mount", "shared", "should be an absolute path"),
    slip("kubernetes", "mount", "/a:b", "should be an absolute path without colons"),
    slip("kubernetes", "node_selector", "{'a b': c}", "^should be the name of a label"),
    slip("kubernetes", "secrets", "[S3_KEYS]", r"^secrets\[0\]: should be a name"),
]


@pytest.mark.parametrize(("arguments", "says"), SLIPS, ids=[" ".join(arguments) for arguments, _ in SLIPS])
def test_what_is_wrong_is_one_line(folder: Path, arguments: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        CliRunner().invoke(app, ["sweep", "run", "tiny.yaml", *arguments], catch_exceptions=False)
    assert "\n" not in str(caught.value)
    assert not (folder / "given").exists()


def test_what_is_wrong_is_said_before_anything_heavy_is_loaded(folder: Path) -> None:
    """Also that there is no scheduler here; torch and Ray take seconds."""
    all_words = [*(arguments for arguments, _ in SLIPS), ["--cluster", "slurm"], ["--cluster", "kubernetes"]]
    script = (
        "import sys\n"
        "from mpcwdwm.errors import UserError\n"
        "from sweeps.cli import app\n"
        f"for words in {all_words}:\n"
        "    sys.argv = ['mpcwdwm', 'sweep', 'run', 'tiny.yaml', *words]\n"
        "    try: app()\n"
        "    except UserError as error: print(error)\n"
        "print('loaded:', sorted({'torch', 'ray', 'mlflow', 'pandas', 'mujoco', 'scipy'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PATH": "/nowhere", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    *said, loaded = ended.stdout.splitlines()
    assert len(said) == len(all_words)
    assert "no `sbatch` here; go to a login node" in said[-2]
    assert "no `kubectl` here" in said[-1]
    assert loaded == "loaded: []"


def test_gpus_of_the_job_that_would_stay_unused_are_noted(folder: Path) -> None:
    wants = ["--set", "cluster.slurm.cpus_per_node=1", "--set", "cluster.slurm.gpus_per_node=4", "--dry-run"]
    done = CliRunner().invoke(app, ["sweep", "run", "tiny.yaml", "--cluster", "slurm", *wants])
    assert "note: training uses 0.5 of Ray's 8 GPUs: resources.actor.cpus is 1" in done.stderr
    assert "note: there is no /shared/venv/bin/mpcwdwm on this machine" in done.stderr


def test_a_scheduler_that_does_not_answer_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for scheduler, command, module in (
        ("slurm", "sbatch", "cluster.launch.slurm"),
        ("kubernetes", "kubectl", "cluster.launch.kubernetes"),
    ):
        stand_in(folder / "bin", command, "exec sleep 60")
        monkeypatch.setattr(f"{module}.ANSWER_SECONDS", 0.2)
        with pytest.raises(UserError, match=r"has not answered in 0\.2 s"):
            CliRunner().invoke(app, ["sweep", "run", "tiny.yaml", "--cluster", scheduler], catch_exceptions=False)


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


GEHEIM = "http://me:geheim@mlflow:5000"


@pytest.mark.parametrize(
    ("scheduler", "in_yaml", "says"),
    [
        ("kubernetes", True, "give MLFLOW_TRACKING_PASSWORD in a Secret of cluster.kubernetes.secrets"),
        ("kubernetes", False, "give MLFLOW_TRACKING_PASSWORD in a Secret of cluster.kubernetes.secrets"),
        ("slurm", False, "give MLFLOW_TRACKING_PASSWORD in the command's environment"),
    ],
)
def test_a_password_becomes_no_part_of_a_job(folder: Path, scheduler: str, in_yaml: bool, says: str) -> None:
    options = [] if in_yaml else ["--set", f"tracking.uri={GEHEIM}"]
    (folder / "tiny.yaml").write_text((TINY.replace("http://mlflow:5000", GEHEIM) if in_yaml else TINY) + SITES)
    for dry in ([], ["--dry-run"]):
        with pytest.raises(UserError, match=says) as refused:
            CliRunner().invoke(
                app, ["sweep", "run", "tiny.yaml", "--cluster", scheduler, *options, *dry], catch_exceptions=False
            )
        assert "geheim" not in str(refused.value)
    assert not (folder / "given").exists()


def test_a_job_for_slurm_reads_a_password_from_the_yaml_itself(folder: Path) -> None:
    (folder / "tiny.yaml").write_text(TINY.replace("http://mlflow:5000", GEHEIM) + SITES)
    assert "geheim" not in run("tiny.yaml", "--cluster", "slurm", "--dry-run")
