"""What is recorded of it in MLflow."""
