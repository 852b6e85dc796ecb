"""The figure of `data audit`: its bars and its cells count every episode and every row once."""

import numpy as np
import pytest

from analysis.figures.dataset import coverage, dataset_figure
from analysis.figures.drawing import rendered
from mpcwdwm.data import read_dataset
from tests.support.synthetic import episodes, write_hdf5


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return read_dataset(write_hdf5(tmp_path / "a.hdf5", episodes(lengths=[6, 4, 5, 7] * 10, ends="tott" * 10)))


@pytest.mark.parametrize("places", [True, False])
def test_every_episode_and_every_row_is_counted_once(dataset, places):
    figure = dataset_figure(dataset, places=places, name="made up")
    returns, lengths, seen = figure.axes
    for axes, values in ((returns, dataset.returns), (lengths, dataset.lengths)):
        assert sum(bar.get_height() for bar in axes.patches) == 40
        assert axes.lines[0].get_xdata()[0] == pytest.approx(values.mean())
    assert np.asarray(seen.collections[0].get_array()).sum() == len(dataset.obs)
    assert set(rendered("a", figure)) == {"a.png", "a.svg"}


def test_in_a_maze_the_places_are_drawn(dataset):
    points, names = coverage(dataset, places=True)
    np.testing.assert_array_equal(points, dataset.obs[:, :2])
    assert names == ("x [m]", "y [m]")


def test_principal_components_are_uncorrelated_and_the_first_varies_most(dataset):
    points, names = coverage(dataset, places=False)
    covariance = np.cov(points, rowvar=False)
    assert covariance[0, 0] >= covariance[1, 1] > 0
    assert covariance[0, 1] == pytest.approx(0, abs=1e-9)
    assert "of variance" in names[0]
