"""A full disk, files that change, and a dataset that is replaced under a running sweep."""

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import pytest

from cluster.store import Store
from tests.support.disturbed_sweeps import Sandbox, wait_until

pytestmark = [pytest.mark.services, pytest.mark.slow]

ROOM = 24 * 2**20  # bytes of the small disk


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Have a folder be a disk of its own; the test is skipped where that is not allowed."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room that a disk has, and return the file that does."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as opened:
        try:
            while opened.write(b"0" * 4096):
                pass
        except OSError:
            return file
    raise AssertionError("the disk has no end")


def test_a_disk_that_is_full_for_a_while(
    undisturbed: Sandbox, new_records: Callable[[Path], str], tmp_path: Path
) -> None:
    sandbox = Sandbox(tmp_path / "disturbed")
    with small_disk(tmp_path / "disturbed" / "runs"):
        new_records(tmp_path / "disturbed" / "runs")
        driver = sandbox.start()
        assert wait_until(lambda: len(sandbox.published()["component"]) >= 2, driver), sandbox.log()
        filler = fill(tmp_path / "disturbed" / "runs")
        sandbox.ended(driver, 1, 2)
        assert "No space left on device" in sandbox.log()
        filler.unlink()
        sandbox.finish()
        sandbox.check_like(undisturbed)


def test_damaged_artifacts_are_found_by_their_hashes_and_made_again(
    undisturbed: Sandbox, new_sandbox: Callable[..., Sandbox], tmp_path: Path
) -> None:
    draw = random.Random("damage")
    shutil.copytree(undisturbed.folder / "runs", tmp_path / "runs")
    sandbox = new_sandbox(tmp_path / "damaged", storage=str(tmp_path / "runs"))
    store = sandbox.store()
    results, parts = sorted(sandbox.published()["cell"]), set[str]()
    for number, key in enumerate(draw.sample(results, 3)):
        parts.update(store.manifest("cell", key)["parts"].values())
        spoil(draw, store, f"results/{key}/{'manifest.json' if number == 2 else 'episodes.parquet'}", cut=number == 0)
    for number, key in enumerate(draw.sample(sorted(parts), 2)):
        spoil(draw, store, f"components/{key}/weights.safetensors", cut=number == 0)
    sandbox.finish()
    assert sandbox.log().count("is damaged (") == 5, sandbox.log()
    sandbox.check_like(undisturbed)


def spoil(draw: random.Random, store: Store, name: str, *, cut: bool) -> None:
    """Cut a file short, or flip one of its bits."""
    content = bytearray((store.root / name).read_bytes())
    if cut:
        del content[-10:]
    else:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    (store.root / name).write_bytes(content)


def test_a_dataset_that_is_replaced_under_a_sweep_is_not_mixed_with_the_old_one(
    undisturbed: Sandbox, new_sandbox: Callable[..., Sandbox], tmp_path: Path
) -> None:
    sandbox = new_sandbox(tmp_path / "disturbed")
    driver = sandbox.start()
    assert wait_until(lambda: len(sandbox.published()["component"]) >= 2, driver), sandbox.log()
    data = sandbox.folder / "data.hdf5"
    before = data.read_bytes()
    other = sandbox.folder / "other.hdf5"
    other.write_bytes(before)
    with h5py.File(other, "r+") as file:
        file["rewards"][:] *= 2
    other.replace(data)
    sandbox.ended(driver, 1)
    assert "the file has changed since the plan was made" in sandbox.log()
    # of the old file, as planned, or not at all
    assert sandbox.published()["component"] <= undisturbed.published()["component"]
    data.write_bytes(before)
    sandbox.finish()
    sandbox.check_like(undisturbed)
