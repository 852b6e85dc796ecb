"""The YAML spec of a sweep, its plan with keys, the driver that carries it out, and its records."""
