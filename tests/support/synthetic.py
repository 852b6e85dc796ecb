"""Small made-up datasets in D4RL's layout, for tests that need to know every row."""

from pathlib import Path

import h5py
import numpy as np


def episodes(lengths=(6, 4, 5, 7), ends="tott", obs_dim=3, act_dim=2, seed=0) -> dict[str, np.ndarray]:
    """Return D4RL's arrays for episodes of these lengths ending in t(erminal), (time)o(ut) or - (nothing)."""
    rng = np.random.default_rng(seed)
    parts = {name: [] for name in ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")}
    for length, end in zip(lengths, ends, strict=True):
        states = rng.normal(size=(length + 1, obs_dim)).astype(np.float32)
        last = np.arange(length) == length - 1
        parts["observations"].append(states[:-1])
        parts["next_observations"].append(states[1:])
        parts["actions"].append(rng.uniform(-1, 1, (length, act_dim)).astype(np.float32))
        parts["rewards"].append(rng.normal(size=length).astype(np.float32))
        parts["terminals"].append(last & (end == "t"))
        parts["timeouts"].append(last & (end == "o"))
    return {name: np.concatenate(part) for name, part in parts.items()}


def write_hdf5(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Write the arrays as an HDF5 file and return its path."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    return path
