"""The batch script of a sweep: what it asks for, and that nothing in it becomes a word of the shell."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.launch.fields import seconds_of
from cluster.launch.slurm import SlurmSite, sbatch, slurm_script
from mpcwdwm.errors import UserError
from tests.support.shells import hostile, stand_in

FIELDS = ("partition", "account", "qos", "constraint", "gpu_type", "memory_per_node", "time")


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH where Slurm's commands and Ray's are stand-ins; the driver notes its words."""
    (tmp_path / "bin").mkdir()
    for name, body in {
        "scontrol": f"if [ $1 = show ]; then printf 'node1\\nnode2\\n'; else echo \"$@\" >>{tmp_path}/scontrol; fi",
        "getent": "echo 10.0.0.1 STREAM node1",
        "srun": 'printf "%s\\n" "$@" >"$HOME/srun"; while [ "$1" != -- ]; do shift; done; shift; "$@"',
        "mpcwdwm": f"printf '%s\\0' \"$@\" >{tmp_path}/words; env -0 >{tmp_path}/env; pwd >{tmp_path}/folder",
        "python": "echo token",
        "module": f'echo "$@" >>{tmp_path}/modules',
    }.items():
        stand_in(tmp_path / "bin", name, body)
    for name, value in {
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_ID": "7",
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def site(nodes: Path, **given: Any) -> SlurmSite:
    return SlurmSite(**{"nodes": 2, "cpus_per_node": 16, "venv": str(nodes), **given})


def execute(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-s"], input=script, capture_output=True, text=True, timeout=60)


def test_the_driver_gets_its_options_and_ray_its_sizes(nodes: Path) -> None:
    script = slurm_script(
        site(nodes, gpus_per_node=4, gpu_type="a100"), "trial", nodes, ["--seeds=0,1", "--", "x.yaml"]
    )
    done = execute(script)
    assert done.returncode == 0, done.stderr
    words = (nodes / "words").read_text().split("\0")[:-1]
    assert words == ["sweep", "run", "--cluster", "10.0.0.1:6379", "--seeds=0,1", "--", "x.yaml"]
    assert (nodes / "folder").read_text().strip() == str(nodes)
    asked = " ".join((nodes / "srun").read_text().split("\n"))
    assert "--cpus-per-task=16 bash -c" in asked
    assert "node --address 10.0.0.1:6379 --min-nodes 2 --num-cpus 16 --num-gpus 4 -- bash" in asked
    environment = dict(entry.split("=", 1) for entry in (nodes / "env").read_text().split("\0") if "=" in entry)
    assert environment["RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT"] == "600"
    assert environment["RAY_AUTH_MODE"] == "token"
    assert not list((nodes / ".ray").iterdir())  # the token is gone with the job
    assert not (nodes / "scontrol").exists()  # it is not queued again


def test_what_is_asked_of_slurm_is_what_the_yaml_says(nodes: Path) -> None:
    asked = site(
        nodes,
        gpus_per_node=4,
        gpu_type="a100",
        memory_per_node="128G",
        partition="gpu-long",
        account="lab",
        qos="high",
        constraint="nvlink",
        time="2-12:00:00",
        grace=300,
    )
    lines = slurm_script(asked, "trial", nodes, []).splitlines()
    options = {line.removeprefix("#SBATCH ").partition("  #")[0] for line in lines if line.startswith("#SBATCH")}
    assert options == {
        "--job-name=mpcwdwm-trial",
        "--output=mpcwdwm-trial-%j.log",
        "--open-mode=append",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--cpus-per-task=16",
        "--gpus-per-node=a100:4",
        "--mem=128G",
        "--partition=gpu-long",
        "--account=lab",
        "--qos=high",
        "--constraint=nvlink",
        "--time=2-12:00:00",
        "--signal=B:USR1@300",
        "--exclusive",
        "--requeue",
    }
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])  # what comes later Slurm does not read


@pytest.mark.parametrize("code", [0, 1, 130])
def test_the_exit_code_is_the_drivers(nodes: Path, code: int) -> None:
    stand_in(nodes / "bin", "mpcwdwm", f"exit {code}")
    stand_in(nodes / "bin", "srun", 'while [ "$1" != -- ]; do shift; done; shift; "$@"; exit 9')  # of lingering workers
    assert execute(slurm_script(site(nodes), "trial", nodes, [])).returncode == code


def test_before_the_time_limit_the_driver_is_stopped_and_the_job_queued_again(nodes: Path) -> None:
    begun = "until [ -s $HOME/.ray/mpcwdwm-7/pid ]; do sleep 0.05; done"
    stopped = f"trap 'echo stopped >{nodes}/stopped; exit 130' TERM"
    stops = f"{stopped}; {begun}; kill -USR1 $JOB; for i in {{1..100}}; do sleep 0.1; done"
    stand_in(nodes / "bin", "mpcwdwm", stops)
    script = slurm_script(site(nodes), "trial", nodes, []).replace("\nstop() ", "\nexport JOB=$$\nstop() ", 1)
    done = execute(script)
    assert done.returncode == 130, done.stderr
    assert (nodes / "stopped").exists()
    assert (nodes / "scontrol").read_text() == "requeue 7\n"


def test_a_job_whose_ray_did_not_start_fails_and_is_tried_again(nodes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(nodes / "bin", "srun", "exit 0")  # as symmetric-run ends where `ray start` failed
    script = slurm_script(site(nodes), "trial", nodes, [])
    for count, queued in (("0", True), ("1", True), ("2", False)):
        monkeypatch.setenv("SLURM_RESTART_COUNT", count)
        done = execute(script)
        assert done.returncode == 1
        assert f"attempt {int(count) + 1}" in done.stderr
        assert (nodes / "scontrol").exists() == queued
        (nodes / "scontrol").unlink(missing_ok=True)


def test_a_cancelled_job_is_not_queued_again(nodes: Path) -> None:
    stand_in(nodes / "bin", "srun", "kill -TERM $JOB; sleep 0.5; exit 143")  # Slurm ends the step, too
    script = slurm_script(site(nodes), "trial", nodes, []).replace("\nstop() ", "\nexport JOB=$$\nstop() ", 1)
    done = execute(script)
    assert done.returncode == 143
    assert "did not start" not in done.stderr
    assert not (nodes / "scontrol").exists()


@pytest.mark.parametrize(
    ("left", "symmetric_run", "said"),
    [
        ("", "exit 0", "symmetric-run --address a:1 -- driver"),
        ("", "exit 7", "symmetric-run --address a:1 -- driver"),
        ("exit 0", "exit 0", "stop --force; symmetric-run --address a:1 -- driver"),
        ("", "kill -TERM $$", "symmetric-run --address a:1 -- driver; stop --force"),
    ],
    ids=["runs", "fails", "an earlier Ray is left", "is killed"],
)
def test_what_is_left_of_ray_on_a_node_is_stopped(nodes: Path, left: str, symmetric_run: str, said: str) -> None:
    """What each node runs around symmetric-run, with a stand-in for Ray: it stops Ray itself unless it is killed."""
    stand_in(nodes / "bin", "pgrep", left or "exit 1")
    ray = f'echo -n "; $*" >>{nodes}/ray\nif [ $1 = symmetric-run ]; then {symmetric_run}; fi'
    stand_in(nodes / "bin", "ray", ray)
    script = slurm_script(site(nodes), "trial", nodes, [])
    body = script[script.index("node='") + 6 : script.index('exit "$code"\'')] + 'exit "$code"'
    done = subprocess.run(["bash", "-c", body, "node", "--address", "a:1", "--", "driver"], timeout=60)
    assert (nodes / "ray").read_text() == f"; {said}"
    assert done.returncode == {"exit 7": 7, "exit 0": 0}.get(symmetric_run, 143)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_slurm_reads_takes_no_more_than_a_word(field: str, tmp_path: Path) -> None:
    for text in [*hostile(tmp_path / "mark"), "", "a,b --x", "a\n#SBATCH --uid=0"]:
        with pytest.raises(ValidationError):
            SlurmSite.model_validate({"cpus_per_node": 1, field: text})


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("30", 1800),
        ("30:10", 1810),
        ("24:00:00", 86400),
        ("2-12", 216_000),
        ("1-0:30", 88_200),
        ("1-00:00:05", 86_405),
    ],
)
def test_a_time_is_as_long_as_slurm_reads_it(time: str, seconds: int) -> None:
    """The formats are those of sbatch's manual: minutes, minutes:seconds, hours:minutes:seconds, days-hours, …"""
    assert seconds_of(time) == seconds
    assert SlurmSite(cpus_per_node=1, time=time).time == time


def test_a_job_that_would_be_stopped_as_soon_as_it_starts_is_refused() -> None:
    assert SlurmSite(cpus_per_node=1, time="4", grace=120).grace == 120
    with pytest.raises(UserError, match=r"time is 3:59 \(239 s\), of which the last 120 s are grace"):
        SlurmSite(cpus_per_node=1, time="3:59", grace=120)


def test_words_that_sites_use_are_taken() -> None:
    given = {"partition": "gpu,gpu-long", "constraint": "(a100|h100)&nvlink", "memory_per_node": "128G", "port": 20000}
    script = slurm_script(SlurmSite.model_validate({"cpus_per_node": 1, **given}), "trial", Path("/"), [])
    assert "\n#SBATCH --partition=gpu,gpu-long\n" in script
    assert "\n#SBATCH --constraint=(a100|h100)&nvlink\n" in script


def test_a_setup_line_is_a_command_and_nothing_else(nodes: Path) -> None:
    assert execute(slurm_script(site(nodes, setup=["module load 'cuda 12'"]), "t", nodes, [])).returncode == 0
    assert (nodes / "modules").read_text() == "load cuda 12\n"
    for line in ["a; b", "a $(b)", "a `b`", "a\nb", "a && b", "a > b", "'a", "-x", "", "a $HOME", "a *"]:
        with pytest.raises(ValidationError):
            SlurmSite.model_validate({"cpus_per_node": 1, "setup": [line]})


def test_values_without_a_pattern_reach_the_driver_as_they_are(nodes: Path) -> None:
    mark = nodes / "mark"
    folder = nodes / "a folder; $(touch mark) 'x"
    folder.mkdir()
    texts = hostile(mark)
    variables = {f"GIVEN_{number}": text for number, text in enumerate(texts) if text.isprintable()}
    assert len(variables) > 12
    arguments = [f"--set=description={text}" for text in texts] + ["--", "-x y.yaml"]
    done = execute(slurm_script(site(nodes, variables=variables), "trial", folder, arguments))
    assert done.returncode == 0, done.stderr
    assert (nodes / "words").read_text().split("\0")[4:-1] == arguments
    assert (nodes / "folder").read_text() == f"{folder}\n"
    environment = dict(entry.split("=", 1) for entry in (nodes / "env").read_text().split("\0") if "=" in entry)
    assert {name: environment[name] for name in variables} == variables
    assert not mark.exists()
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN", "a b", "-x", "1A", ""]
)
def test_a_variable_with_a_credential_or_an_impossible_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        SlurmSite.model_validate({"cpus_per_node": 1, "variables": {name: "x"}})


def test_what_slurm_refuses_is_one_line(nodes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(nodes / "bin", "sbatch", "cat >$HOME/script; echo 'sbatch: error: invalid partition' >&2; exit 1")
    with pytest.raises(UserError, match=r"^Slurm refused the job: invalid partition; .*cluster\.slurm"):
        sbatch("#!/bin/bash\n")
    absent = "sbatch: error: no such host\nsbatch: fatal: no configuration source"
    stand_in(nodes / "bin", "sbatch", f"echo '{absent}' >&2; exit 1")
    with pytest.raises(UserError, match=r"^Slurm cannot be reached from here: no such host; no configuration source; "):
        sbatch("#!/bin/bash\n")
    stand_in(nodes / "bin", "sbatch", "cat >$HOME/script; echo '12;site'")
    assert sbatch("#!/bin/bash\n") == "12"
    assert (nodes / "script").read_text() == "#!/bin/bash\n"
    (nodes / "bin" / "sbatch").unlink()
    monkeypatch.setenv("PATH", str(nodes / "bin"))
    with pytest.raises(UserError, match=r"no `sbatch` here.*--dry-run"):
        sbatch("#!/bin/bash\n")


def test_a_script_of_hostile_words_is_still_one_command(nodes: Path) -> None:
    script = slurm_script(site(nodes), "trial", nodes, hostile(nodes / "mark"))
    line = script[script.index("  mpcwdwm sweep run") : script.index(" &\nstep=$!")]
    assert shlex.split(line)[5:] == hostile(nodes / "mark")
