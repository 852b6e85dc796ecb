"""Statistics of what `analysis.load` returns, with cells that failed."""

import pandas as pd
import pytest

import analysis
from tests.support.recorded_sweeps import baseline, mpc, record

BASES = [baseline("stats", "rebrac", seed) for seed in range(3)]
PLANNED = [mpc("stats", seed, horizon=horizon) for horizon in (1, 3) for seed in range(3)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A base of returns 100 and 120, and planners that gain 100 H + 10 seed; the last cell failed."""
    folder = tmp_path_factory.mktemp("stats")
    uri = f"sqlite:///{folder}/mlflow.db"
    returns = {unit.key: [100.0, 120.0] for unit in BASES}
    for unit in PLANNED[:-1]:
        gain = 100.0 * unit.planner["horizon"] + 10.0 * unit.seed
        returns[unit.key] = [100.0 + gain, 120.0 + gain]
    record(uri, "stats", [*BASES, *PLANNED], returns, folder, failed={PLANNED[-1].key: "it was too warm"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return analysis.load("stats", tracking_uri=uri)


def test_failed_cells_are_lacking_and_bases_have_no_gain(run):
    scores = analysis.aggregate(run)
    assert scores["estimate"].tolist() == pytest.approx([11.0, 22.0, 41.5])
    assert scores["lacking"].tolist() == ["", "", "seed 2"]
    gains = analysis.paired_gain(run)
    assert gains[["H", "estimate", "seeds", "lacking"]].values.tolist() == [
        [1.0, 11.0, 3, ""],
        [3.0, 30.5, 2, "seed 2"],
    ]
    assert gains["p"].tolist()[0] == 2 / 2**6  # six pairs of episodes have all one sign by chance
    assert gains["is_shown"].tolist() == [False, False]
    named = analysis.paired_gain(run, vs="rebrac")
    pd.testing.assert_frame_equal(named.drop(columns="vs"), gains.drop(columns="vs"))


def test_every_statistic_takes_loaded_runs(run):
    assert analysis.probability_of_improvement(run, "rebrac")["estimate"].tolist() == [1.0, 1.0]
    assert analysis.performance_profile(run, [15.0], by="method")["estimate"].tolist() == [0.0, 1.0, 1.0]
    assert analysis.permutation_test(run)["p"].tolist() == pytest.approx([0.25, 0.5])
    tuned = analysis.tuning_effort(run, of="H", evaluations=[2])
    assert tuned.set_index("name")["estimate"].to_dict() == pytest.approx({"rebrac": 11.0, "mpc": 41.5})
    assert tuned.set_index("name").loc["mpc", "lacking"] == "H 3.0: seed 2"
