"""Ray on this machine: what is said before it starts, where it could not."""

import subprocess
from pathlib import Path

import pytest

from cluster.ray.start import check_room
from mpcwdwm.errors import UserError


def test_a_full_disk_is_said_and_not_waited_for(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", full], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(UserError, match=r"'.*full', for its files, has 0 MB left; make room there, or set TMPDIR"):
            check_room(full)
    finally:
        subprocess.run(["umount", full], check=True)


def test_a_folder_with_room_and_one_that_ray_will_make_are_fine(tmp_path: Path) -> None:
    check_room(tmp_path)
    check_room(tmp_path / "none yet")


def test_a_file_in_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write its files to '.*file': Not a directory"):
        check_room(tmp_path / "file")
