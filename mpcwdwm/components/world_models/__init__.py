"""World models: differentiable models of the next observation."""
