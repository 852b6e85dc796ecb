"""Datasets of one's own: rows rolled in pieces over Ray, and policies trained by RLlib that roll them."""

from cluster.collect.snapshots import collect

__all__ = ["collect"]
