"""Doing it: the driver, its trials and its progress."""
