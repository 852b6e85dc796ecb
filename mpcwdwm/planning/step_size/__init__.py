"""The step size of adaptive MPC: its units, and its choice without the environment."""
