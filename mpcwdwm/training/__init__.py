"""Training of components: the loop, its data, its checkpoints and the points of its learning curve."""
