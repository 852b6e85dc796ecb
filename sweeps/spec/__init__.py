"""What is asked for: a sweep's YAML, read and checked."""
