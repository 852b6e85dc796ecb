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
# what the notebooks show is not in it: gains, fields that vary, traces
BARE = {
    **SWEEP,
    "name": "bare",
    "components": {name: SWEEP["components"][name] for name in ("rebrac", "world_model", "reward")},
    "baselines": [],
    "planners": {"ours": {"horizon": 1, "rollouts": 1, "updates": 1, "step_size": 1e-6}},
    "evaluation": {"episodes": 2, "max_episode_steps": 20},
}
FORGET = """
own = {"In", "Out", "exit", "quit", "open", "get_ipython"}
for name in [name for name in globals() if name[0] != "_" and name not in own]:
    del globals()[name]
"""  # between notebooks: none uses what another has defined
SECONDS = 60  # a cell may take, on a busy machine


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two small sweeps were run, without Ray: their packs one after the other."""
    folder = tmp_path_factory.mktemp("notebooks")
    for sweep in (SWEEP, BARE):
        file = folder / f"{sweep['name']}.yaml"
        file.write_text(write_yaml(sweep))
        spec = load_spec(file)
        store = open_store(spec.storage)
        for packs in (component_packs, cell_packs):
            for pack in packs(build_plan(spec, store), store):
                run_pack(store.location, pack, device="cpu", threads=1)
        run(spec)  # finds everything done, and records it
    return folder


def sources(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def executed(swept: Path) -> dict[str, list[nbformat.NotebookNode]]:
    """The outputs of all notebooks on each sweep, of one kernel: each notebook would import torch anew."""
    book = nbformat.v4.new_notebook()
    for sweep in (SWEEP, BARE):
        book.cells += [nbformat.v4.new_code_cell(f"import os\nos.environ['SWEEP'] = {sweep['name']!r}")]
        for path in NOTEBOOKS:
            book.cells += [nbformat.v4.new_code_cell(source) for source in (FORGET, *sources(path))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE", str(swept / "runs"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{swept}/runs/mlflow.db")
        patch.setenv("XDG_CACHE_HOME", str(swept / "cache"))
        patch.setenv("PYTHONPATH", str(ROOT))
        for chosen in ("TASK", "PLANNER"):
            patch.delenv(chosen, raising=False)
        resources = {"metadata": {"path": str(swept)}}
        NotebookClient(book, timeout=SECONDS, kernel_name="python3", resources=resources).execute()
    half = len(book.cells) // 2
    return {
        name: [output for cell in cells for output in cell.outputs]
        for name, cells in (("small", book.cells[:half]), ("bare", book.cells[half:]))
    }


def printed(outputs: list[nbformat.NotebookNode]) -> str:
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.slow
def test_every_notebook_runs_on_a_sweep_of_ones_own(executed: dict[str, list[nbformat.NotebookNode]]) -> None:
    images = [output for output in executed["small"] if "image/png" in output.get("data", {})]
    assert len(images) >= 10
    said = printed(executed["small"])
    assert "small: 18 cells (18 ok)" in said
    assert "no planner has two values of 'M'" in said


@pytest.mark.slow
def test_every_notebook_says_what_a_sweep_lacks(executed: dict[str, list[nbformat.NotebookNode]]) -> None:
    said = printed(executed["bare"])
    assert "bare: 3 cells (3 ok)" in said
    assert "paired_gain: no row has a value in 'gain'" in said
    assert "plot_heatmap: H and step_size" in said
    assert "probability_of_improvement: no row has method rebrac" in said
    assert "give `evaluation: {traced_episodes: 1}` in the YAML" in said


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
