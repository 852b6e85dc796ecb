"""Datasets of one's own: rows rolled in pieces over Ray, by policies that RLlib trained or by planners of mazes."""

from cluster.collect.mazes import collect_maze, is_maze
from cluster.collect.snapshots import collect

__all__ = ["collect", "collect_maze", "is_maze"]
