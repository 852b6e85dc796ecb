"""The command line as users meet it: processes, exit codes, what is printed where."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.store import open_store
from mpcwdwm.data import TASKS
from sweeps.watching.units import asked_by, save_units, watched_plan
from tests.support import ROOT
from tests.support.recorded_sweeps import baseline, component

COMMAND = [sys.executable, "-c", "from sweeps.cli import main; main()"]
TINY = """
name: tiny
tasks: [hopper-medium-replay-mini-ppo-v0]
seeds: 2
components:
  rebrac: {steps: 30, hidden_dim: 8, batch_size: 16}
  bc: {steps: 30, hidden_dim: 8, batch_size: 16}
  world_model: {kind: diffusion, denoising_steps: 2, steps: 30, hidden_dim: 8, batch_size: 16}
  reward: {steps: 30, hidden_dim: 8, batch_size: 16}
planners:
  mpc: {kind: policy, horizon: [1], rollouts: [2], updates: [1]}
baselines: [rebrac, bc]
evaluation: {episodes: 2}
"""


def mpcwdwm(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['mpcwdwm', 'sweep', 'run', '--help']\n"
        "from sweeps.cli import app\n"
        "app(standalone_mode=False)\n"
        "heavy = {'torch', 'ray', 'mlflow', 'pandas', 'mujoco'}\n"  # gymnasium is: the package registers environments
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--set" in ended.stdout
    assert "loaded: []" in ended.stdout


HEAVY = "{'torch', 'ray', 'mlflow', 'pandas', 'matplotlib', 'mujoco', 'scipy'}"  # each takes tenths of a second or more
WRONG = {
    "absent.yaml": ("", "no such file"),
    "nowhere": ("", "neither a file nor"),
    "broken.yaml": ("name: [", "broken.yaml:1"),
    "section.yaml": (TINY.replace("seeds: 2", "seeds: two"), "section.yaml:4: seeds"),
    "deeper.yaml": (TINY.replace("episodes: 2", "episodse: 2"), "did you mean 'episodes'"),
    "task.yaml": (TINY.replace("[hopper-medium-replay-mini", "[hoper-medium-replay-mini"), "did you mean 'hopper"),
    "setting.yaml": (TINY.replace("updates: [1]", "stepsize: [1e-6]"), "did you mean 'step_size'"),
    "range.yaml": (
        TINY.replace("updates: [1]", "updates: [1, -1]"),
        "range.yaml:11: planners.mpc.updates[1]",
    ),
    "kind.yaml": (TINY.replace("kind: policy", "kind: polcy"), "did you mean 'policy'"),
    "baseline.yaml": (TINY.replace("baselines: [rebrac", "baselines: [rebracs"), "did you mean 'rebrac'"),
    "place.yaml": (TINY.replace("episodes: 2", "gpus: 2"), "resources.actor and resources.trial have 'gpus'"),
}
BY_OTHERS = ("task.yaml", "setting.yaml", "range.yaml", "kind.yaml", "baseline.yaml")  # not by who reads records alone


@pytest.mark.parametrize("command", ["sweep plan", "sweep run", "sweep status", "table", "models", "report", "judges"])
def test_what_is_wrong_with_a_yaml_is_said_before_anything_heavy_is_loaded(tmp_path: Path, command: str) -> None:
    for file, (content, _) in WRONG.items():
        if content:
            (tmp_path / file).write_text(content)
    wrong = [spec for spec in WRONG if command != "sweep status" or spec not in BY_OTHERS]
    script = (
        "import sys\n"
        "from mpcwdwm.errors import UserError\n"
        "from sweeps.cli import app\n"
        f"for spec in {wrong}:\n"
        f"    sys.argv = ['mpcwdwm', *'{command}'.split(), spec]\n"
        "    try: app()\n"
        "    except UserError as error: print(error)\n"
        f"    print('loaded:', sorted({HEAVY} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    said = ended.stdout.splitlines()
    assert said[1::2] == ["loaded: []"] * len(wrong)
    assert all(WRONG[spec][1] in line for line, spec in zip(said[::2], wrong, strict=True)), said


@pytest.mark.parametrize("command", ["table", "models", "figures", "report", "compare tiny"])
def test_that_nothing_was_recorded_is_said_before_anything_heavy_is_loaded(folder: Path, command: str) -> None:
    script = (
        "import sys\n"
        "from mpcwdwm.errors import UserError\n"
        "from sweeps.cli import app\n"
        f"sys.argv = ['mpcwdwm', *'{command}'.split(), 'tiny']\n"
        "try: app()\n"
        "except UserError as error: print(error)\n"
        f"print('loaded:', sorted({HEAVY} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert "nothing was recorded yet" in ended.stdout
    assert "loaded: []" in ended.stdout


def test_a_run_says_first_what_it_is_and_where_things_go_and_status_needs_neither_torch_nor_data(folder: Path) -> None:
    script = (
        "import sys\n"
        "from sweeps.spec_argument import read_named\n"
        "from sweeps.reports import print_places\n"
        "from sweeps.cli import app\n"
        "print_places(read_named('tiny'))\n"
        "sys.argv = ['mpcwdwm', 'sweep', sys.argv[1], 'tiny']\n"
        "try: app()\n"
        f"finally: print('loaded:', sorted({HEAVY} & set(sys.modules)))"
    )
    store = open_store(str(folder / "runs"))
    cell = baseline("x", "rebrac", 0)
    save_units(store, "tiny", watched_plan([component("x", "rebrac", 0)], [cell], 0, asked_by(folder / "tiny.yaml")))
    store.record_failure(cell.key, "ValueError: no luck", store.append_log("cell-1", "Traceback"), tries=3)
    for command, says in (
        ("status", "cells       1: 0 done, 1 set aside"),
        ("logs", "Traceback"),
        ("retry", "1 failures"),
    ):
        ended = subprocess.run(
            [sys.executable, "-c", script, command], cwd=folder, capture_output=True, text=True, check=True
        )
        assert says in ended.stdout
        assert "loaded: []" in ended.stdout
        first, second = ended.stderr.splitlines()
        assert first == f"sweep tiny ({folder}/tiny.yaml): artifacts in {folder}/runs, logs in {folder}/runs/logs"
        assert second.startswith(f"MLflow: sqlite:///{folder}/runs/mlflow.db")
    assert not store.failed()


def test_a_run_whose_output_nobody_reads_ends_without_a_traceback(tmp_path: Path) -> None:
    script = "import sys; from sweeps.execution.interrupt import leave; print('table'); sys.stdin.read(); leave(3)"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    process.stdin.close()
    assert (process.stderr.read(), process.wait(60)) == ("", 3)


def test_a_variable_that_does_not_count_is_said(folder: Path) -> None:
    place = "http://127.0.0.1:1"
    ended = mpcwdwm("sweep", "run", "tiny", "--tasks", "x", folder=folder, MLFLOW_TRACKING_URI=place)
    assert "note: MLFLOW_TRACKING_URI is not used" in ended.stderr
    here = mpcwdwm("sweep", "run", "tiny", "--tasks", "x", folder=folder)
    assert "MLFLOW_TRACKING_URI" not in here.stderr


def test_status_says_that_the_yaml_has_changed_since_the_run(folder: Path) -> None:
    store = open_store(str(folder / "runs"))
    save_units(store, "tiny", watched_plan([], [baseline("x", "rebrac", 0)], 0, "of another YAML"))
    ended = mpcwdwm("sweep", "status", "tiny", folder=folder)
    assert "cells       1: 0 done, 1 new" in ended.stdout
    assert "the YAML has changed since" in ended.stderr


def test_records_are_kept_without_torch(tmp_path: Path) -> None:
    script = "import sys, sweeps.records.tracker; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


def test_the_version_is_printed(tmp_path: Path) -> None:
    ended = mpcwdwm("--version", folder=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "mpcwdwm 0.1.0\n")


def test_a_mistyped_command_is_corrected(tmp_path: Path) -> None:
    ended = mpcwdwm("sweep", "rnu", folder=tmp_path)
    assert ended.returncode == 2
    assert "'run'" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("sweep", "run", "tinny"), "did you mean 'tiny'"),
        (("sweep", "plan", "absent.yaml"), "absent.yaml"),
        (("sweep", "plan", "table33"), "did you mean 'table3'"),
        (("table", "ablation_h"), "run the sweep first"),
        (("sweep", "run", "tiny", "--set", "evaluation.episodse=3"), "episodes"),
        (("sweep", "run", "tiny", "--tasks", "walker"), "walker"),
        (("sweep", "run", "tiny", "--tasks", ""), "names no task"),
        (("sweep", "run", "tiny", "--set", "compute.capture=graph"), "capture: graph needs a GPU"),
        (("sweep", "status", "tiny", "--seeds", "x"), "x"),
        (("table", "tiny"), "run the sweep first"),
        (("data", "audit", "absent.hdf5"), "absent.hdf5"),
        (("bench", "--device", "gpu"), "give cpu or cuda"),
        (("bench", "--threads", "0"), "cores"),
        (("data", "get", "hopper-medium"), "did you mean 'hopper-medium-v2'"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2_and_nothing_is_started(
    folder: Path, arguments: tuple[str, ...], says: str
) -> None:
    ended = mpcwdwm(*arguments, folder=folder)
    assert ended.returncode == 2
    assert ended.stdout == ""
    *before, line = ended.stderr.splitlines()
    assert before == [] or arguments[1] == "run"  # which says at once where artifacts, logs and records go
    assert line.startswith("error: ")
    assert says in line
    assert os.listdir(folder) == ["tiny.yaml"]


def test_a_plan_starts_and_writes_nothing(folder: Path) -> None:
    ended = mpcwdwm("sweep", "plan", "tiny", folder=folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "components  8: 8 new, 0 cached" in ended.stdout
    assert "cells       6: 6 new, 0 done" in ended.stdout
    assert "CPU-hours" in ended.stdout
    assert os.listdir(folder) == ["tiny.yaml"]


def test_the_sweeps_of_the_package_are_listed(tmp_path: Path) -> None:
    ended = mpcwdwm("sweep", "specs", folder=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    words = {line.split()[0]: line.split(maxsplit=5)[1:] for line in ended.stdout.splitlines()}
    assert words["table3"][:4] == ["6", "tasks", "204", "cells"]
    assert words["table3"][4].startswith("Table 3 of the paper")
    assert os.listdir(tmp_path) == []


def test_a_sweep_of_the_package_says_which_data_it_lacks(tmp_path: Path) -> None:
    ended = mpcwdwm("sweep", "plan", "table3", folder=tmp_path, D4RL_DATASET_DIR=str(tmp_path / "none"))
    assert ended.returncode == 2
    assert "run `mpcwdwm data get antmaze-umaze-v2`" in ended.stderr
    assert ended.stderr.startswith("error: table3.yaml:")


def test_every_registered_task_is_listed(tmp_path: Path) -> None:
    ended = mpcwdwm("data", "list", folder=tmp_path)
    assert [line.split()[0] for line in ended.stdout.splitlines()] == list(TASKS)


def test_the_bundled_dataset_is_audited_by_name(tmp_path: Path) -> None:
    ended = mpcwdwm("data", "audit", "hopper-medium-replay-mini-ppo-v0", folder=tmp_path)
    assert ended.returncode == 0
    assert "50,000" in ended.stdout


@pytest.mark.slow
def test_a_sweep_runs_is_interrupted_continues_and_is_then_done(folder: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "sweep", "run", "tiny"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob("runs/work/*/pack.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "stopped; the same command continues from here"
    wait_until_nothing_runs(process.pid)

    status = mpcwdwm("sweep", "status", "tiny", folder=folder)
    assert status.returncode == 0
    assert "interrupted " in status.stdout

    first = mpcwdwm("sweep", "run", "tiny", folder=folder)
    assert first.returncode == 0, first.stderr
    assert "mpc" in first.stdout
    table = folder / "runs/sweeps/tiny/table.csv"
    csv = table.read_text()

    shown = list(folder.glob("runs/mlartifacts/*/artifacts/report/*"))
    assert {"table.csv", "table.md", "models.csv", "policies.png"} <= {file.name for file in shown}
    assert csv in [file.read_text() for file in shown if file.name == "table.csv"]

    # Nothing answers at this address: a run that finds everything done must not need Ray.
    second = mpcwdwm("sweep", "run", "tiny.yaml", folder=folder, RAY_ADDRESS="127.0.0.1:1")
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert table.read_text() == csv
    shown = mpcwdwm("table", "tiny", folder=folder)
    assert (shown.stdout, "note" in shown.stderr) == (first.stdout, False)
    assert_a_part_leaves_the_records_of_the_whole(folder, first.stdout)
    reported = mpcwdwm("report", "tiny", "--out", "out/r.html", folder=folder)
    assert (reported.returncode, reported.stdout) == (0, "out/r.html\n"), reported.stderr
    assert "no verdict: it takes 3 training seeds" in (folder / "out/r.html").read_text()
    assert "14 of 14 done" in mpcwdwm("sweep", "list", folder=folder).stdout
    assert "nothing to do" in mpcwdwm("sweep", "plan", "tiny", folder=folder).stdout
    (folder / "tiny.yaml").write_text(TINY.replace("rollouts: [2]", "rollouts: [3]"))
    shown = mpcwdwm("table", "tiny", folder=folder)
    assert (shown.stdout, "the YAML asks for another now" in shown.stderr) == (first.stdout, True)


def assert_a_part_leaves_the_records_of_the_whole(folder: Path, whole: str) -> None:
    place = folder / "runs/sweeps/tiny"
    before = {file.name: file.read_bytes() for file in place.iterdir() if file.is_file()}
    part = mpcwdwm("sweep", "run", "tiny", "--seeds", "1", folder=folder, RAY_ADDRESS="127.0.0.1:1")
    assert part.returncode == 0, part.stderr
    assert part.stdout != whole
    (written,) = place.glob("seeds-1-*/table.csv")
    assert f"{written.parent}/table.md" in part.stderr
    assert {file.name: file.read_bytes() for file in place.iterdir() if file.is_file()} == before
    assert mpcwdwm("table", "tiny", "--seeds", "1", folder=folder).stdout == part.stdout


def wait_until_nothing_runs(session: int) -> None:
    """Wait until all processes of a session have ended; Ray's take seconds after their driver."""
    import psutil

    def alive() -> list[int]:
        found = []
        for pid in psutil.pids():
            try:
                is_ours = os.getsid(pid) == session
                if is_ours and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    found.append(pid)
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return found

    deadline = time.monotonic() + 60
    while alive() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert alive() == []


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("command", "environment", "says"),
    [
        ("data list > /dev/full", {}, "No space left on device"),
        ("sweep status umlaut.yaml", C_LOCALE, "set LC_ALL=C.UTF-8"),
        ("sweep status tiny", {}, "the working folder was removed"),
    ],
)
def test_what_the_machine_refuses_is_one_line(
    folder: Path, command: str, environment: dict[str, str], says: str
) -> None:
    (folder / "umlaut.yaml").write_text(f"{TINY}storage: größe\n", encoding="utf-8")
    gone = "mkdir gone; cd gone; rmdir ../gone; " if "removed" in says else ""
    program = " ".join([sys.executable, "-c", f"'{COMMAND[2]}'"])
    ended = subprocess.run(
        ["bash", "-c", f"{gone}{program} {command}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        timeout=60,
    )
    lines = ended.stderr.decode().splitlines()
    assert (ended.returncode, len(lines)) == (2, 1), lines
    assert says in lines[0]


def test_a_user_without_a_home_folder_is_told_so(tmp_path: Path) -> None:
    """As an unknown uid in a container is, without HOME; libraries end in a traceback there."""
    script = f"import pwd; pwd.getpwuid = lambda uid: {{}}[uid]; {COMMAND[2]}"
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    ended = subprocess.run(
        [sys.executable, "-c", script, "sweep", "specs"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1), ended.stderr
    assert f"user {os.getuid()} has no home folder: set HOME" in ended.stderr
