"""What MLflow shows of a table: against gains and intervals computed by hand, with scipy."""

import numpy as np
import pytest
from scipy import stats

from analysis.table.comparison import build_table
from analysis.table.summary import cell_gains, metric_name, sweep_metrics
from tests.support.recorded_sweeps import baseline, mpc, record

BASES = [baseline("summary", "rebrac", seed) for seed in (0, 1)]
PLANNED = [mpc("summary", seed) for seed in (0, 1, 2)]
BASE, OURS = [100.0, 220.0, 300.0, 410.0], [[150.0, 210.0, 320.0, 455.0], [90.0, 230.0, 310.0, 400.0]]
LABEL = "mpc H3 M8 E1 α1e-05"


@pytest.fixture(scope="module")
def table(tmp_path_factory, new_records):
    folder = tmp_path_factory.mktemp("summary")
    uri = new_records(folder)
    results = {unit.key: BASE for unit in BASES} | dict(zip((unit.key for unit in PLANNED), OURS, strict=False))
    record(uri, "summary", [*BASES, *PLANNED], results, folder, failed={PLANNED[2].key: "no luck"})
    return build_table(uri, "summary")


def test_a_cells_gain_is_the_mean_paired_difference_with_students_interval(table):
    found = cell_gains(table)
    assert found.keys() == {unit.key for unit in PLANNED[:2]}
    for unit, returns in zip(PLANNED, OURS, strict=False):
        differences = (np.array(returns) - BASE) / 10  # scores
        low, high = stats.t.interval(0.95, 3, differences.mean(), stats.sem(differences))
        expected = {"gain": differences.mean(), "gain_low": low, "gain_high": high}
        assert found[unit.key] == pytest.approx(expected, rel=1e-9)


def test_the_sweep_has_the_numbers_of_its_table_and_how_complete_it_is(table):
    metrics = sweep_metrics(table)
    (row,) = (row for row in table.rows if row.kind == "policy")
    assert metrics[f"gain/hopper-mini-v0/{LABEL}"] == row.gain_mean
    assert metrics[f"score/hopper-mini-v0/{LABEL}"] == row.score_mean
    assert metrics[f"gain_high/hopper-mini-v0/{LABEL}"] == row.gain_high
    assert (metrics["cells_complete"], metrics["cells_lacking"]) == (4, 1)
    assert not any("dataset" in name for name in metrics)


def test_metrics_have_names_that_mlflow_takes():
    assert metric_name("gain", "a/b", "mpc H=3 (K=5)") == "gain/a_b/mpc H3 _K5_"
    assert len(metric_name("gain", "x" * 300)) == 250
