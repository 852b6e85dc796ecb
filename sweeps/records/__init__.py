"""The records of a sweep in MLflow."""
