"""Datasets of one's own: rows rolled in pieces over Ray, by policies that RLlib trained or by planners of mazes."""

from cluster.collect.kinds import KINDS, collect, kind_named
from cluster.collect.mazes import collect_maze, is_maze
from cluster.collect.rllib import rllib_trainer
from cluster.collect.training import training_config

__all__ = ["KINDS", "collect", "collect_maze", "is_maze", "kind_named", "rllib_trainer", "training_config"]
