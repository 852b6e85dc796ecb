"""What has to be done: the units of a sweep, and their keys."""
