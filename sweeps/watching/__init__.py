"""Watching a sweep from any machine: what its run has written down, without torch, dataset, simulator or MLflow."""
