"""Held-out errors of the models, from their learning curves."""
