"""What to run: the YAML spec, the plan with its keys, and the driver that carries it out."""
