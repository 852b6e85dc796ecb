"""Statistics, tables and figures of sweeps, read from MLflow."""
