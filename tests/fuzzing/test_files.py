"""Files that were changed: what cannot be used is refused in one line, whatever the change.

``MPCWDWM_FUZZ=10000`` for the long version.
"""

import json
import zipfile
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.store import open_store
from mpcwdwm.components.artifact import read_manifest, read_weights, write_artifact
from mpcwdwm.data import read_dataset
from mpcwdwm.data.conversion import in_d4rl_layout
from mpcwdwm.data.verify import recorded_env
from mpcwdwm.errors import UserError
from tests.support.mutations import FUZZED, changed_bytes, changed_text, within
from tests.support.synthetic import episodes, write_hdf5

KEY = "reward-mine-s0-0123"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


@pytest.fixture(scope="module")
def hdf5(folder: Path) -> tuple[bytes, list[int]]:
    """A dataset's bytes, and the places that hold HDF5's structure, not numbers of ours."""
    path = write_hdf5(folder / "right.hdf5", episodes())
    with h5py.File(path) as file:
        stored = [range(at := file[name].id.get_offset(), at + file[name].id.get_storage_size()) for name in file]
    content = path.read_bytes()
    return content, [place for place in range(len(content)) if not any(place in numbers for numbers in stored)]


@pytest.fixture(scope="module")
def npz(folder: Path) -> bytes:
    np.savez_compressed(folder / "right.npz", **episodes())
    return (folder / "right.npz").read_bytes()


def artifact(folder: Path) -> None:
    tensors = {"member.weight": torch.arange(6.0).reshape(2, 3), "member.bias": torch.ones(2)}
    write_artifact(folder, tensors, {"key": KEY, "component": "reward", "seed": 0}, [{"step": 1.0, "loss": 0.5}])


@FUZZED
@given(data=st.data())
def test_a_changed_hdf5_file_is_read_or_refused_in_one_line(
    data: st.DataObject, hdf5: tuple[bytes, list[int]], folder: Path
) -> None:
    path = folder / "changed.hdf5"
    path.write_bytes(data.draw(changed_bytes(*hdf5)))
    with within(), suppress(UserError):
        recorded_env(path)
    with within(), suppress(UserError):
        dataset = read_dataset(path)
        assert np.isfinite(dataset.obs).all()
        assert np.abs(dataset.action).max() <= 1


@FUZZED
@given(data=st.data())
def test_a_changed_npz_file_is_read_or_refused_in_one_line(data: st.DataObject, npz: bytes, folder: Path) -> None:
    path = folder / "changed.npz"
    path.write_bytes(data.draw(changed_bytes(npz)))
    with within(), suppress(UserError):
        read_dataset(in_d4rl_layout(path))


def test_an_npz_file_with_a_pickle_is_refused(folder: Path) -> None:
    path = folder / "pickle.npz"
    np.savez(path, **{**episodes(), "rewards": np.array([{}] * 22, dtype=object)})
    assert zipfile.is_zipfile(path)
    with pytest.raises(UserError, match="not an NPZ file of plain arrays"):
        in_d4rl_layout(path)


@FUZZED
@given(data=st.data())
def test_changed_weights_are_refused_or_have_the_shapes_that_were_written(data: st.DataObject, folder: Path) -> None:
    place = folder / "artifact"
    if not place.is_dir():
        place.mkdir()
        artifact(place)
    changed = folder / "changed"
    changed.mkdir(exist_ok=True)
    (changed / "weights.safetensors").write_bytes(
        data.draw(changed_bytes((place / "weights.safetensors").read_bytes(), range(100)))
    )
    (changed / "manifest.json").write_bytes(data.draw(changed_bytes((place / "manifest.json").read_bytes())))
    with within(), suppress(UserError):
        read_weights(changed)
    with within(), suppress(UserError):
        assert isinstance(read_manifest(changed), dict)


@FUZZED
@given(data=st.data())
def test_a_changed_artifact_of_a_store_is_found(data: st.DataObject, folder: Path) -> None:
    """Every change of one file, the manifest's own included, that is more than white space of its JSON."""
    store = open_store(folder / "store")
    if not store.has("component", KEY):
        store.publish("component", KEY, artifact)
    assert store.faults("component", KEY) == []
    name = data.draw(st.sampled_from(["weights.safetensors", "manifest.json", "curve.json"]))
    path = folder / "store" / "components" / KEY / name
    before = path.read_bytes()
    after = data.draw(changed_bytes(before))
    path.write_bytes(after)
    try:
        with within():
            found = store.faults("component", KEY)
    finally:
        path.write_bytes(before)
    if name == "manifest.json":
        with suppress(ValueError):
            if json.loads(after) == json.loads(before):
                return
    assert bool(found) == (after != before) or found is None, name


@FUZZED
@given(text=changed_text([json.dumps({"url": "https://x", "size": 5088, "sha256": "ab" * 32}, indent=1)]))
@example(text='{"size": 1e400, "sha256": "ab"}')
@example(text='{"size": ' + "[" * 100_000)
def test_a_changed_sidecar_is_refused_in_one_line(text: str, folder: Path) -> None:
    from mpcwdwm.data.sidecar import recorded_size, sidecar_path, verify_or_record

    path = folder / "beside.hdf5"
    path.write_bytes(b"0" * 5088)
    sidecar_path(path).write_text(text)
    with within(), suppress(UserError):
        recorded_size(path)
        verify_or_record(path, "https://x")
