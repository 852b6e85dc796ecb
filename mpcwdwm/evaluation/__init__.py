"""Evaluation in the real environment."""
