"""Two sweeps, or two commits of one, side by side."""
