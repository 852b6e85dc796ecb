"""Where a sweep runs: what Slurm and Kubernetes are given, and the files that start a cluster."""
