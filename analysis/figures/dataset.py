"""A dataset drawn: episode returns, episode lengths, and where its observations lie."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.figures.drawing import LEVEL_LINE, add_caption, plots, styled
from mpcwdwm.data import Dataset

__all__ = ["coverage", "dataset_figure"]

BINS = 40  # of a histogram
CELLS = 120  # of the coverage, along each axis
COLOUR = "#0072B2"


def coverage(dataset: Dataset, *, places: bool) -> tuple[NDArray[Any], tuple[str, str]]:
    """Return a point (N, 2) for every row, and the names of both axes.

    Args:
        dataset: whose observations are shown.
        places: the first two entries of an observation are x and y, as in mazes. Otherwise the points are the first two
            principal components of the standardised observations, with the share of variance that each explains.
    """
    if places:
        return dataset.obs[:, :2], ("x [m]", "y [m]")
    obs = dataset.obs.astype(np.float64)
    centred = (obs - obs.mean(axis=0)) / np.maximum(obs.std(axis=0), 1e-6)  # a constant entry stays 0
    variances, directions = np.linalg.eigh(np.cov(centred, rowvar=False).reshape(obs.shape[1], -1))
    order = np.argsort(variances)[::-1][:2]
    shares = 100 * variances[order] / variances.sum()
    points = centred @ directions[:, order]
    if points.shape[1] == 1:
        return np.column_stack([points, np.zeros(len(points))]), ("the observation, standardised", "")
    first, second = (f"component {i} ({share:.0f} % of variance)" for i, share in enumerate(shares, 1))
    return points, (first, second)


def dataset_figure(dataset: Dataset, *, places: bool, name: str) -> Figure:
    """Return the histograms of episode returns and lengths, means dashed, and the density of observations.

    Args:
        dataset: what is drawn.
        places: as for `coverage`.
        name: of the dataset, for the caption.
    """
    with styled():
        figure, (returns, lengths, seen) = plots(3, 3)
        for axes, values, title in ((returns, dataset.returns, "return"), (lengths, dataset.lengths, "length")):
            axes.hist(values, bins=BINS, color=COLOUR)
            axes.axvline(float(values.mean()), **LEVEL_LINE)
            axes.set_title(f"Episode {title}")
            axes.set_xlabel(f"{title} of an episode" + (" [steps]" if title == "length" else ""))
            axes.set_ylabel("episodes")
        points, (x, y) = coverage(dataset, places=places)
        seen.hist2d(points[:, 0], points[:, 1], bins=CELLS, cmap="Blues", norm="log", rasterized=True)
        seen.set_title("Observations")
        seen.set_xlabel(x)
        seen.set_ylabel(y)
        seen.grid(visible=False)
        if places:
            seen.set_aspect("equal")
        add_caption(figure, f"{name}: {len(dataset.obs):,} transitions of {len(dataset.lengths):,} episodes.")
    return figure
