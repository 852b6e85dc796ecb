"""An artifact whose files have changed is found before work starts, and made again as it was."""

import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from cluster import packs
from cluster.store import Store, open_store
from cluster.units import Pack
from cluster.work import run_pack
from sweeps.execution.driver import Driver
from sweeps.execution.progress import ProgressLines
from sweeps.plan.plan import Plan, build_plan, cell_packs, component_packs
from sweeps.spec.document import write_yaml
from sweeps.spec.spec import Spec, load_spec
from tests.support.parts import BUNDLED
from tests.support.s3 import S3Server

TINY = {"steps": 20, "hidden_dim": 8, "batch_size": 16, "evaluations": 1}
SPEC = {"name": "tiny", "tasks": [BUNDLED], "seeds": 2, "components": {"bc": TINY}, "baselines": ["bc"]}


def flip(file: Path) -> bytes:
    """Flip the last bit of a file, and return what it held."""
    sound = file.read_bytes()
    file.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    return sound


def computed(folder: Path, storage: str = "runs") -> Spec:
    """Return a sweep of which everything is published."""
    document = {**SPEC, "evaluation": {"max_episode_steps": 20}, "storage": storage}
    (folder / "tiny.yaml").write_text(write_yaml(document))
    spec = load_spec(folder / "tiny.yaml")
    plan = build_plan(spec, open_store(spec.storage))
    for pack in [*component_packs(plan), *cell_packs(plan)]:
        run_pack(spec.storage, pack, device="cpu", threads=1)
    return spec


def look(spec: Spec) -> tuple[Store, Plan, str]:
    """Have a driver take the plan; return what it printed."""
    store, out = open_store(spec.storage), io.StringIO()
    plan = build_plan(spec, store)
    Driver(spec, store, ProgressLines(Console(file=out, width=300)), verbose=False, compute=None)._take(plan)
    return store, plan, out.getvalue()


def run_begun(spec: Spec, packed: list[Pack], key: str) -> tuple[str, ...]:
    """Compute the one pack by which a unit is made again, and return its units."""
    (again,) = packs.plan_packs(open_store(spec.storage), packed, {key})
    run_pack(spec.storage, again, device="cpu", threads=1)
    return again.keys


def test_a_damaged_component_is_trained_again_with_those_it_was_trained_with(tmp_path: Path) -> None:
    spec = computed(tmp_path)
    store = open_store(spec.storage)
    for key in store.keys("cell"):
        store.delete("cell", key)
    (pack,) = component_packs(build_plan(spec, store))
    first, second = pack.keys
    sound = flip(weights := store.root / "components" / second / "weights.safetensors")
    store, plan, said = look(spec)
    assert f"component {second} is damaged (weights.safetensors: changed since it was written)" in said
    assert (store.has("component", first), store.has("component", second)) == (True, False)
    assert run_begun(spec, component_packs(plan), second) == (first, second)
    assert weights.read_bytes() == sound


@pytest.mark.parametrize("damage", ["flipped", "truncated", "manifest", "missing"])
def test_a_damaged_result_is_computed_again_with_those_it_was_computed_with(tmp_path: Path, damage: str) -> None:
    spec = computed(tmp_path)
    store = open_store(spec.storage)
    (pack,) = cell_packs(build_plan(spec, store))
    first, second = pack.keys
    sound = pd.read_parquet(episodes := store.root / "results" / second / "episodes.parquet")
    flip(weights := store.root / "components" / store.manifest("cell", second)["parts"]["bc"] / "weights.safetensors")
    if damage == "flipped":
        flip(episodes)
    elif damage == "truncated":
        episodes.write_bytes(episodes.read_bytes()[:-100])
    elif damage == "manifest":
        manifest = episodes.with_name("manifest.json")
        manifest.write_text(manifest.read_text().replace('"return": ', '"return": 1'))
    else:
        episodes.unlink()
    store, plan, said = look(spec)
    assert f"cell {second} is damaged (" in said
    assert weights.parent.name in said  # needed again, so looked at, too
    assert [store.has("cell", key) for key in pack.keys] == [True, False]
    run_begun(spec, component_packs(plan), weights.parent.name)
    if damage != "manifest":  # what does not say with whom it was computed is computed alone
        assert run_begun(spec, cell_packs(plan), second) == (first, second)
        times = ["ms_per_step"]
        assert pd.read_parquet(episodes).drop(columns=times).equals(sound.drop(columns=times))
    assert look(spec)[2] == ""


def test_a_result_that_is_damaged_on_s3_is_found_when_it_is_downloaded(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    spec = computed(tmp_path, s3.bucket())
    store = open_store(spec.storage)
    first, second = (unit.key for unit in build_plan(spec, store).cells)
    assert look(spec)[2] == ""
    (upload,) = (name for name in store.names(f"results/{second}") if name != "manifest.json")
    store.write_bytes(f"results/{second}/{upload}/episodes.parquet", b"nothing")
    assert look(spec)[2] == ""  # this machine has its copy
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    store, _, said = look(spec)
    assert f"cell {second} is damaged (episodes.parquet: 7 bytes of" in said
    assert [store.has("cell", key) for key in (first, second)] == [True, False]
