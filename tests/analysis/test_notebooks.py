"""The notebooks run from top to bottom on any sweep, in one kernel, and were committed with their outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from cluster.store import open_store
from cluster.work import run_pack
from sweeps.execution.driver import run
from sweeps.plan.plan import build_plan, cell_packs, component_packs
from sweeps.spec.document import write_yaml
from sweeps.spec.spec import load_spec
from tests.support import ROOT
from tests.support.parts import BUNDLED

NOTEBOOKS = sorted((ROOT / "analysis" / "notebooks").glob("*.ipynb"))
TRAINED = {"steps": 20, "hidden_dim": 8, "batch_size": 16, "evaluations": 2}
POLICY = {**TRAINED, "eval_episodes": 1}
WORLD = {**TRAINED, "kind": "mlp", "ensemble": 1, "probabilistic": False}
SWEEP = {
    "name": "small",
    "tasks": [BUNDLED],
    "seeds": 3,
    "components": {"rebrac": POLICY, "iql": POLICY, "world_model": WORLD, "reward": TRAINED},
    "baselines": ["rebrac", "iql"],
    "planners": {"mpc": {"horizon": [1, 2], "rollouts": 1, "updates": 1, "step_size": [1e-6, 1e-5]}},
    "evaluation": {"episodes": 2, "max_episode_steps": 20, "traced_episodes": 1},
}
FORGET = """
own = {"In", "Out", "exit", "quit", "open", "get_ipython"}
for name in [name for name in globals() if name[0] != "_" and name not in own]:
    del globals()[name]
"""  # between notebooks: none uses what another has defined
SECONDS = 60  # a cell may take, on a busy machine


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a small sweep was run, without Ray: its packs one after the other."""
    folder = tmp_path_factory.mktemp("notebooks")
    (folder / "small.yaml").write_text(write_yaml(SWEEP))
    spec = load_spec(folder / "small.yaml")
    store = open_store(spec.storage)
    for packs in (component_packs, cell_packs):
        for pack in packs(build_plan(spec, store), store):
            run_pack(store.location, pack, device="cpu", threads=1)
    run(spec)  # finds everything done, and records it
    return folder


def sources(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.slow
def test_every_notebook_runs_on_a_sweep_of_ones_own(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP", "small")
    monkeypatch.setenv("STORAGE", str(swept / "runs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{swept}/runs/mlflow.db")
    monkeypatch.setenv("XDG_CACHE_HOME", str(swept / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.v4.new_notebook()
    for path in NOTEBOOKS:  # one kernel: each of them would import torch anew
        book.cells += [nbformat.v4.new_code_cell(source) for source in (FORGET, *sources(path))]
    NotebookClient(book, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(swept)}}).execute()
    images = [
        output for cell in book.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(images) >= 10
    printed = "".join(output.get("text", "") for cell in book.cells for output in cell.get("outputs", []))
    assert "small: 18 cells (18 ok)" in printed
    assert "M has one value in this sweep, 1.0: nothing to draw" in printed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_with_the_outputs_of_the_quickstart(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert "quickstart" in "".join(output.get("text", "") for output in outputs)
    assert str(Path.home()) not in path.read_text()
