"""Behaviour that fills datasets of D4RL's mazes: planners, a walker for the ant, and episodes in D4RL's arrays."""
