"""The driver of a sweep, its workers, trials and progress."""
