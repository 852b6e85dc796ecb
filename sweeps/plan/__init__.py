"""The plan of a sweep: its units of work, and their keys."""
