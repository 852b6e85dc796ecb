"""A component whose files have changed is found before work starts, and trained again as it was."""

import io
from pathlib import Path

from rich.console import Console

from cluster import packs
from cluster.store import open_store
from cluster.work import run_pack
from sweeps.execution.driver import Driver
from sweeps.execution.progress import ProgressLines
from sweeps.plan.plan import build_plan, component_packs
from sweeps.spec.document import write_yaml
from sweeps.spec.spec import load_spec
from tests.support.parts import BUNDLED

TINY = {"steps": 20, "hidden_dim": 8, "batch_size": 16, "evaluations": 1}
SPEC = {"name": "tiny", "tasks": [BUNDLED], "seeds": 2, "components": {"bc": TINY}, "baselines": ["bc"]}


def test_a_damaged_component_is_trained_again_with_those_it_was_trained_with(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(write_yaml({**SPEC, "evaluation": {"max_episode_steps": 20}}))
    spec, out = load_spec(tmp_path / "tiny.yaml"), io.StringIO()
    store = open_store(spec.storage)
    plan = build_plan(spec, store)
    (pack,) = component_packs(plan)
    run_pack(spec.storage, pack, device="cpu", threads=1)
    first, second = pack.keys
    weights = store.root / "components" / second / "weights.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))

    driver = Driver(spec, store, ProgressLines(Console(file=out, width=300)), verbose=False, compute=None)
    driver._take(plan)
    assert f"component {second} is damaged (weights.safetensors: changed since it was written)" in out.getvalue()
    assert (store.has("component", first), store.has("component", second)) == (True, False)
    (again,) = packs.plan_packs(store, component_packs(plan), {second})
    assert again.keys == (first, second)
    run_pack(spec.storage, again, device="cpu", threads=1)
    assert weights.read_bytes() == sound
