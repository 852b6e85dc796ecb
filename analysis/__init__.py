"""What came out: statistics and tables read from MLflow."""
