"""The kernel's count of processes that it killed, as files give it; nodes that are asked are in `tests/end_to_end`."""

from pathlib import Path

import pytest

from cluster.ray import kernel_kills
from cluster.ray.kernel_kills import KernelKills, kills_here


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that stands for /proc and, in `fs`, for the mounted control groups."""
    monkeypatch.setattr(kernel_kills, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(kernel_kills, "MOUNT", tmp_path / "fs")
    monkeypatch.setattr(kernel_kills, "MACHINE", tmp_path / "vmstat")
    (tmp_path / "vmstat").write_text("nr_free_pages 17\noom_kill 40\npgfault 3\n")
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_group_of_the_process_counts_before_the_machine(proc: Path) -> None:
    assert kills_here() == 40
    write(proc / "cgroup", "0::/\n")
    assert kills_here() == 40  # the root group of a machine has no count
    write(proc / "fs/memory.events", "low 0\nhigh 0\nmax 5\noom 3\noom_kill 2\noom_group_kill 9\n")  # of a container
    assert kills_here() == 2
    write(proc / "cgroup", "0::/slurm/job_7\n")
    write(proc / "fs/slurm/job_7/memory.events", "low 0\noom_kill 1\n")
    assert kills_here() == 1


def test_control_groups_of_the_first_version_count_too(proc: Path) -> None:
    write(proc / "cgroup", "9:name=systemd:/\n4:cpu,memory:/docker/ab:cd\n0::/\n")
    write(proc / "fs/memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 6\n")
    assert kills_here() == 6
    write(proc / "fs/memory/docker/ab:cd/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n")
    assert kills_here() == 7


def test_only_kills_since_the_driver_looked_first_count(proc: Path) -> None:
    kills = KernelKills(alone=True)
    assert not kills.any_on("127.0.0.1")
    write(proc / "vmstat", "oom_kill 41\n")
    assert kills.any_on("127.0.0.1")


def test_a_kernel_that_does_not_count_has_killed_nothing(proc: Path) -> None:
    (proc / "vmstat").unlink()
    assert kills_here() == 0
