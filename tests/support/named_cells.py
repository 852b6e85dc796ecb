"""Cells, and packs of them, that are told apart by a name."""

from cluster.units import CellUnit, Pack, TaskRef

__all__ = ["cell", "pack"]

TASK = TaskRef("hopper", "Hopper-v4", "/data/hopper.hdf5", "0" * 64, "3.4.0", "hopper", (-20.0, 3234.0), 1000, "local")


def cell(name: str, seed: int = 0) -> CellUnit:
    return CellUnit(
        f"{name}-s{seed}", name, name, None, "rebrac", {}, {"rebrac": "k"}, TASK, seed, episodes=1, env_seed=0
    )


def pack(name: str, seeds: int = 1) -> Pack:
    return Pack(tuple(cell(name, seed) for seed in range(seeds)))
