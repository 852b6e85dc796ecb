"""What tests are built from: datasets, parts and records, made small."""

from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the repository
