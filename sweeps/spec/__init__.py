"""The YAML of a sweep, read and checked."""
