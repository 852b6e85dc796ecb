"""Frames of episodes, as `analysis.load` gives them, from arrays."""

import numpy as np
import pandas as pd


def episodes_of(scores, method="mpc", task="hop", **labels):
    """A frame of one method on one task: a row per episode, of (seeds, episodes) scores.

    Seeds are numbered from 0, so are the environment seeds; other columns are what ``labels`` say.
    """
    scores = np.asarray(scores, dtype=float)
    seed, episode = np.indices(scores.shape)
    columns = {"task": task, "method": method, **labels, "seed": seed.ravel(), "env_seed": episode.ravel()}
    return pd.DataFrame({**columns, "score": scores.ravel()})


def runs_of(matrix, method="mpc", **labels):
    """A frame of one method: a row per run, of (runs, tasks) scores, as in `Runs.cells`."""
    matrix = np.asarray(matrix, dtype=float)
    seed, task = np.indices(matrix.shape)
    tasks = [f"task {number}" for number in task.ravel()]
    return pd.DataFrame({"task": tasks, "method": method, **labels, "seed": seed.ravel(), "score": matrix.ravel()})
